"""lm/pods/hlo.py: bytes moved, read off real HLO of a small program on eight devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.pods import hlo


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def compiled(f, mesh, *arguments):
    """HLO of f on arrays (shape, spec)."""
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in arguments
    ]
    out = NamedSharding(mesh, P())
    return jax.jit(f, out_shardings=out).lower(*shapes).compile().as_text()


def moved(text):
    """What every step of a program without conditionals moves."""
    least, most = hlo.collectives(text, chips=8)
    assert least == most
    return least


def test_a_gather_moves_what_a_chip_lacks(mesh):
    text = compiled(lambda x: x, mesh, ((64, 4), P("data")))
    assert moved(text) == {"all-gather": 64 * 4 * 4 * 7 // 8}


def test_a_reduction_moves_twice_that(mesh):
    text = compiled(lambda x: x.sum(0), mesh, ((64, 256), P("data")))
    assert moved(text) == {"all-reduce": 2 * 256 * 4 * 7 // 8}


def test_local_work_moves_nothing(mesh):
    f = jax.jit(jnp.sin, out_shardings=NamedSharding(mesh, P("data")))
    x = jax.device_put(np.zeros((64, 4), np.float32), NamedSharding(mesh, P("data")))
    assert moved(f.lower(x).compile().as_text()) == {}


def test_loops_count_as_often_as_they_run(mesh):
    def f(x):
        def inner(total, row):
            return total + jnp.tanh(total) * row.sum(), None

        def outer(i, total):
            return jax.lax.scan(inner, total, x + i)[0]

        return jax.lax.fori_loop(0, 3, outer, jnp.float32(1.0))

    # A scalar is reduced in each of 5 rounds of 3.
    text = compiled(f, mesh, ((5, 64), P(None, "data")))
    assert moved(text)["all-reduce"] == 3 * 5 * (2 * 4 * 7 // 8)


def test_what_the_compiler_notes_of_a_loop_comes_first():
    text = """
%body (p: f32[64]) -> f32[64] {
  ROOT %r = f32[64]{0} all-reduce(%p), replica_groups={}
}

%condition (p: f32[64]) -> pred[] {
  %limit = s32[] constant(7)
}

ENTRY %main (x: f32[64]) -> f32[64] {
  ROOT %w = f32[64]{0} while(%x), condition=%condition, body=%body NOTE
}
"""
    once = 2 * 64 * 4 * 7 // 8
    noted = ', backend_config={"known_trip_count":{"n":"5"}}'
    assert moved(text.replace(" NOTE", "")) == {"all-reduce": 7 * once}
    assert moved(text.replace(" NOTE", noted)) == {"all-reduce": 5 * once}


def test_a_reduction_that_is_cut_in_its_fusion_is_a_reduce_scatter():
    text = """
%all-reduce-scatter.1 (p: bf16[64]) -> bf16[8] {
  %all-reduce.1 = bf16[64]{0} all-reduce(%p), replica_groups={{0,1,2,3,4,5,6,7}}
  ROOT %cut = bf16[8]{0} dynamic-slice(%all-reduce.1, %i), dynamic_slice_sizes={8}
}

ENTRY %main (x: bf16[64]) -> bf16[8] {
  ROOT %f = bf16[8]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    assert moved(text) == {"reduce-scatter": 128 * 7 // 8}


STARTS = {
    "((bf16[64], bf16[8]), (bf16[512], bf16[64])) all-gather-start": 7 / 8 * 2 * (512 + 64),
    "((bf16[512], bf16[64]), (bf16[64], bf16[8])) reduce-scatter-start": 7 / 8 * 2 * (512 + 64),
    "(bf16[512], bf16[64]) all-reduce-start": 2 * 7 / 8 * 2 * (512 + 64),
    "((bf16[512]), (bf16[512])) all-to-all-start": 7 / 8 * 2 * 512,
    "(bf16[512], bf16[512]) collective-permute-start": 2 * 512,
}


@pytest.mark.parametrize("start", STARTS)
def test_an_asynchronous_start_names_its_operands_too(start):
    text = f"ENTRY %main (x: f32[]) -> f32[] {{\n  %s = {start}(%x), channel_id=1\n}}"
    kind = start.rpartition(" ")[2].removesuffix("-start")
    assert moved(text) == {kind: STARTS[start]}


def test_a_conditional_moves_what_its_branch_does(mesh):
    def f(x, flag):
        return jax.lax.cond(flag[0] > 0, lambda x: x.sum(0), lambda x: jnp.zeros(256), x)

    least, most = hlo.collectives(compiled(f, mesh, ((64, 256), P("data")), ((1,), P())), chips=8)
    assert least == {} and most == {"all-reduce": 2 * 256 * 4 * 7 // 8}


GROUPS = {
    "replica_groups={{0,1,2,3},{4,5,6,7}}": 4,
    "replica_groups=[4,2]<=[8]": 2,
    "replica_groups=mesh['a'=2,'b'=4] {'b'}": 4,
    "replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'a','b'}": 8,
    "replica_groups=mesh['a'=1,'b'=8], device_ids=([8]) {'b':(2)4}": 4,
    "channel_id=3": 8,
}


@pytest.mark.parametrize("groups", GROUPS)
def test_every_way_to_write_groups(groups):
    n = GROUPS[groups]
    text = (
        f"ENTRY %main (x: f32[]) -> f32[] {{\n  %g.1 = f32[1024]{{0}} all-gather(%x), {groups}\n}}"
    )
    assert moved(text) == {"all-gather": 4096 * (n - 1) // n}


def test_a_collective_beside_several_fusions_counts_where_it_starts():
    """TPU's compiler writes it once more in each fusion that it runs beside, in a loop or not."""
    gather = 'bf16[64]{0} all-gather(%p), frontend_attributes={chain_id="0"}'
    text = f"""
%first (p: bf16[8]) -> bf16[64] {{
  %all-gather.1 = {gather}
  ROOT %c = bf16[64]{{0}} custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}}

%later (p: bf16[8]) -> bf16[64] {{
  ROOT %all-gather.2 = {gather}
}}

ENTRY %main (x: bf16[8]) -> bf16[64] {{
  %a = bf16[64]{{0}} fusion(%x), kind=kCustom, calls=%first
  ROOT %b = bf16[64]{{0}} fusion(%a), kind=kCustom, calls=%later
}}
"""
    assert moved(text) == {"all-gather": 128 * 7 // 8}


def products(f, *shapes, **options):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return hlo.products(jax.jit(f).lower(*shapes).compile().as_text(), **options)


def test_products_are_counted_in_loops_branches_and_scopes():
    def f(a, b, flag):
        with jax.named_scope("update"):
            a = jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ b), a)
            a = jax.lax.cond(flag[0] > 0, lambda x: x @ b, lambda x: x, a)
            q = jnp.linalg.qr(b)[0]
        return a @ q

    shapes = (4, 16), (16, 16), (1,)
    product = 2 * 4 * 16 * 16
    assert products(f, *shapes) == ({"f32": 4 * product}, {"f32": 5 * product})
    assert products(f, *shapes, scope="update") == ({"f32": 3 * product}, {"f32": 4 * product})
    assert products(f, *shapes, scope="date") == ({}, {})
    lowered = jax.jit(f).lower(*[jnp.zeros(shape) for shape in shapes])  # not yet compiled
    assert hlo.products(lowered.as_text(dialect="hlo")).most == {"f32": 5 * product}


def plainly(text, name, choose):
    """How many products a computation makes, by the compiler's own counts of rounds."""
    body = re.search(rf"%?{re.escape(name)} \(.*\{{\n((?:  .*\n)*)", text)[1]
    total = body.count(" dot(")
    for line in body.splitlines():
        rounds = int((re.findall(r'known_trip_count":\{"n":"(\d+)', line) or [1])[0])
        called = " ".join(re.findall(r"(?:calls|body|computations)=(\{.*?\}|%[\w.-]+)", line))
        inside = [plainly(text, callee, choose) for callee in re.findall(r"%([\w.-]+)", called)]
        total += rounds * choose(inside, default=0)
    return total


def test_the_walk_agrees_with_a_plain_one():
    def f(a, b, flag):
        def inner(x, _):
            return jax.lax.cond(
                flag[0] > 0, lambda x: jnp.tanh(x @ b) @ b, lambda x: x @ b, x
            ), None

        x = jax.lax.fori_loop(
            0, 3, lambda i, x: jax.lax.scan(inner, jnp.tanh(x @ b), None, 5)[0], a
        )
        return x @ b

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 16), (16, 16), (1,))]
    text = jax.jit(f).lower(*shapes).compile().as_text()
    entry = re.search(r"ENTRY %?([^ ]+)", text)[1]
    least, most = (plainly(text, entry, choose) for choose in (min, max))
    assert (least, most) == (3 * (1 + 5) + 1, 3 * (1 + 10) + 1)
    product = 2 * 4 * 16 * 16
    assert hlo.products(text) == ({"f32": least * product}, {"f32": most * product})


CONVOLUTIONS = {
    # A product of (4, 16) and (16, 8); a batch of two such products, as the TPU's compiler has it.
    ("4,16", "16,8", "4,8", "dim_labels=bf_io->bf"): 2 * 4 * 16 * 8,
    ("2,4,16", "2,16,8", "2,4,8", "window={size=2 lhs_dilate=2}, dim_labels=0bf_0io->0bf"): 2
    * (2 * 4 * 16 * 8),
    (
        "8,4,16",
        "8,16,8",
        "8,4,8",
        "window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf",
    ): 8 * (2 * 4 * 16 * 8),
    # A true one over 5 places, 3 wide: the outer two places miss an end of the kernel.
    ("4,5,16", "3,16,8", "4,5,8", "window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"): 2
    * (4 * 16 * 8)
    * (3 * 5 - 2),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_products_written_as_convolutions(case):
    left, right, result, rest = case
    text = f"""
ENTRY %main (a: f32[{left}], b: f32[{right}]) -> bf16[{result}] {{
  %a = f32[{left}]{{0}} parameter(0)
  %b = f32[{right}]{{0}} parameter(1)
  ROOT %c.1 = bf16[{result}]{{0:T(8,128)}} convolution(%a, %b), {rest}, metadata={{op_name="x/dot"}}
}}
"""
    assert hlo.products(text).least == {"bf16": CONVOLUTIONS[case]}
