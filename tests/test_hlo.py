"""lm/hlo.py: bytes moved, read off real HLO of a small program on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lm import hlo


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


def test_a_gather_moves_what_a_chip_lacks(mesh):
    moved = hlo.collectives(compiled(lambda x: x, mesh, ((64, 4), P("data"))), chips=8, layers=1)
    assert moved == {"all-gather": 64 * 4 * 4 * 7 // 8}


def test_a_reduction_moves_twice_that(mesh):
    text = compiled(lambda x: x.sum(0), mesh, ((64, 256), P("data")))
    assert hlo.collectives(text, chips=8, layers=1) == {"all-reduce": 2 * 256 * 4 * 7 // 8}


def test_loops_count_as_often_as_they_run():
    line = (
        "x = f32[128]{0} all-reduce(y), replica_groups=[1,4]<=[4], "
        'metadata={op_name="jit(_call)/jvp(Llama)/%s"}'
    )
    once = 2 * 128 * 4 * 3 // 4
    for name, settings, times in (
        ("blocks/mlp", {}, 1),
        ("while/body/blocks/mlp", {}, 32),
        ("while/body/loss", {"chunks": 16}, 16),
        ("while/body/while/body/blocks/mlp", {"accumulate": 4}, 4 * 32),
        ("while/body/embed", {"accumulate": 4}, 4),
    ):
        moved = hlo.collectives(line % name, chips=4, layers=32, **settings)
        assert moved == {"all-reduce": once * times}, name


def test_local_work_moves_nothing(mesh):
    f = jax.jit(jnp.sin, out_shardings=NamedSharding(mesh, P("data")))
    x = jax.device_put(np.zeros((64, 4), np.float32), NamedSharding(mesh, P("data")))
    assert hlo.collectives(f.lower(x).compile().as_text(), chips=8, layers=1) == {}
