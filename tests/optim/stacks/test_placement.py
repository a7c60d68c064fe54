"""On eight devices: same numbers, state where its parameter lies, an eighth of the work each."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optim
from lm.pods.hlo import collectives
from optim.stacks.batching import joined, map_grouped, together
from optim.stacks.placement import stack_spec

# Six layers on eight devices: 24 square matrices divide evenly, 18 rectangular ones do not.
L, D, H, K, F, V = 6, 16, 4, 4, 64, 32
SPLIT, JOINED = (L, D, H, K), P(None, "data", "model", None)
LEAVES = {
    "embed/embedding": ((V, D), P("model", "data")),
    "blocks/attention/query/kernel": (SPLIT, JOINED),
    "blocks/attention/key/kernel": (SPLIT, JOINED),
    "blocks/attention/value/kernel": (SPLIT, JOINED),
    "blocks/attention/out/kernel": ((L, H, K, D), P(None, "model", None, "data")),
    "blocks/mlp/gate/kernel": ((L, D, F), P(None, "data", "model")),
    "blocks/mlp/up/kernel": ((L, D, F), P(None, "data", "model")),
    "blocks/mlp/down/kernel": ((L, F, D), P(None, "model", "data")),
    "blocks/norm/scale": ((L, D), P(None, None)),
    "head/kernel": ((D, V), P("data", "model")),
}


def random_tree(seed):
    rng = np.random.default_rng(seed)
    return {k: jnp.float32(rng.standard_normal(shape)) for k, (shape, _) in LEAVES.items()}


PARAMS, GRADS = random_tree(0), random_tree(1)


def stepper(name, **options):
    tx = optim.build(name, preset="study", learning_rate=0.1, **options)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=0.0, grad_fn=jnp.cos)
        return optax.apply_updates(params, updates), state

    return tx, step


def flops(compiled):
    return compiled.cost_analysis()["flops"]


@pytest.mark.parametrize(
    "axes", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)]
)
def test_muon_on_a_mesh(axes):
    tx, step = stepper("muon")
    state = tx.init(PARAMS)
    alone = jax.jit(step).lower(PARAMS, state, GRADS).compile()
    expected = alone(*alone(PARAMS, state, GRADS), GRADS)[0]

    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axes,) * 2)
    with jax.set_mesh(mesh):
        specs = {k: NamedSharding(mesh, spec) for k, (_, spec) in LEAVES.items()}
        params, grads = (jax.device_put(tree, specs) for tree in (PARAMS, GRADS))
        state = jax.jit(tx.init, out_shardings=optim.state_shardings(tx, params))(params)
        shared = jax.jit(step).lower(params, state, grads).compile()
        carry = shared(params, state, grads)
        stays = jax.tree.map(
            lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), carry, (params, state)
        )
        momentum = state[1].inner_states["matrix"].inner_state[0].mu
        result = shared(*carry, grads)[0]

    for key, x in expected.items():
        np.testing.assert_allclose(result[key], x, atol=2e-5)
    assert all(jax.tree.leaves(stays))
    query = "blocks/attention/query/kernel"
    assert momentum[query].sharding.is_equivalent_to(params[query].sharding, 4)
    # 24 square matrices are 3 a device; 18 rectangular ones are padded to 3 a device as well.
    square, wide = 24 * (6 * D**3), 18 * (4 * D * D * F + 2 * D**3)
    padded = square / 8 + wide * 24 / 18 / 8
    assert flops(shared) / flops(alone) < 1.1 * padded / (square + wide)


def test_matrices_are_not_gathered():
    """Each move between a parameter's sharding and its share of the stack is an all-to-all."""
    names = ("blocks/mlp/gate/kernel", "blocks/mlp/up/kernel")
    tx, step = stepper("muon")
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        specs = {k: NamedSharding(mesh, LEAVES[k][1]) for k in names}
        shapes = {k: jnp.zeros((8, D, F)) for k in names}
        params = jax.device_put(shapes, specs)
        text = jax.jit(step).lower(params, jax.jit(tx.init)(params), params).compile().as_text()
    assert len(re.findall(r" all-to-all\(", text)) >= 2
    assert not re.findall(r" all-gather\(", text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soap", "kron"])
def test_preconditioners_are_shared_out(name):
    tx, step = stepper(name)
    few = [f"blocks/{part}/kernel" for part in ("attention/query", "mlp/gate", "mlp/down")]
    params, grads = ({k: tree[k] for k in few} for tree in (PARAMS, GRADS))
    alone = jax.jit(step).lower(params, tx.init(params), grads).compile()
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        specs = {k: NamedSharding(mesh, LEAVES[k][1]) for k in few}
        params, grads = (jax.device_put(tree, specs) for tree in (params, grads))
        state = jax.jit(tx.init, out_shardings=optim.state_shardings(tx, params))(params)
        shared = jax.jit(step).lower(params, state, grads).compile()
    assert flops(shared) < 0.4 * flops(alone)


def test_a_short_stack_is_split_within_its_matrices():
    """Two matrices, eight devices: four share the stack, the long side lies over pairs."""
    name = "blocks/mlp/gate/kernel"
    tx, step = stepper("muon")
    params, grads = ({name: tree[name][:2]} for tree in (PARAMS, GRADS))
    alone = jax.jit(step).lower(params, tx.init(params), grads).compile()
    expected = alone(params, tx.init(params), grads)[0]
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        spec = NamedSharding(mesh, LEAVES[name][1])
        params, grads = (jax.device_put(tree, spec) for tree in (params, grads))
        state = jax.jit(tx.init, out_shardings=optim.state_shardings(tx, params))(params)
        shared = jax.jit(step).lower(params, state, grads).compile()
        result = shared(params, state, grads)[0]
    np.testing.assert_allclose(result[name], expected[name], atol=2e-5)
    assert flops(shared) < 0.42 * flops(alone)  # whole matrices would be half of it


def test_odd_stacks_are_padded_together():
    """Stacks that eight devices do not divide: joined where they lie, then dealt out, then back."""
    sizes, side = (3, 8, 5, 3, 3, 2), 16
    rng = np.random.default_rng(2)
    stacks = [jnp.float32(rng.standard_normal((n, side, side))) for n in sizes]

    def square(stacks):
        return map_grouped(
            lambda x: {"square": x @ x, "trace": jnp.trace(x, axis1=1, axis2=2)}, stacks
        )

    expected = square(stacks)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, stack_spec(mesh, x.shape))) for x in stacks]
        where = [{"square": x.sharding, "trace": NamedSharding(mesh, P())} for x in placed]
        shared = jax.jit(square, out_shardings=where).lower(placed).compile()
        result = shared(placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), result, expected)
    # 8 + 16 places for 24 matrices: a device works on 3. Padded one by one they would be 6.
    assert flops(shared) < 1.2 * 3 * 2 * side**3
    assert sum(collectives(shared.as_text(), chips=8).most.values()) < sum(sizes) * side**2 * 4


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("sizes", [(8, 16), (3, 8, 5, 3), (1, 1), (2,)])
@pytest.mark.slow
def test_together_is_joined(sizes, products):
    """Trees of pieces with two leaves each; a function that mixes no two matrices."""
    items = [{"a": jnp.ones((n, 4, 6)) + n, "b": jnp.arange(n * 6.0).reshape(n, 6)} for n in sizes]

    def fn(x):
        return x["a"] @ x["b"][:, :, None], x["b"] + 1

    plain = joined(fn, items)
    with jax.set_mesh(jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)):
        shared = jax.jit(lambda items: together(fn, items, products=products))(items)
    jax.tree.map(np.testing.assert_array_equal, shared, plain)


def placed(shapes):
    """Parameters of these shapes, the first axis over `data` and the last over `model`."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    spec = {2: P("data", "model"), 1: P()}
    return {
        name: jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, spec[len(s)]))
        for name, s in shapes.items()
    }


def test_state_lies_with_its_parameter():
    """Of any transformation: whole copies, one entry for many, masked parts, factored moments."""
    params = placed({"w": (16, 32), "scale": (4,)})
    like = P("data", "model")
    muon = optim.state_shardings(optim.build("muon", {"learning_rate": 0.1}), params)
    inner = muon[1].inner_states
    assert inner["matrix"].inner_state[0].mu["w"].spec == like
    assert inner["fallback"].inner_state.nu["scale"].spec == P(None)
    mini = optim.state_shardings(optim.build("adam_mini", {"learning_rate": 0.1}), params)
    assert mini[1].nu["w"].spec == P(None, "model")
    adafactor = optim.state_shardings(optax.adafactor(0.1, min_dim_size_to_factor=8), params)
    assert adafactor[0].v_col["w"].spec == P(("data", "model"))  # 32 columns over eight devices
    soap = optim.state_shardings(optim.soap(0.1, block_size=4, decay_on="old"), params)
    assert soap[1].factors["w"][0]["inputs"].spec == P(("data", "model"), None, None)
    assert soap[1].count.spec == P()


def test_a_large_array_that_belongs_to_no_parameter_is_refused_by_name():
    def init(params):
        return {"table": jnp.zeros((1024, 1024)), "mu": jax.tree.map(jnp.zeros_like, params)}

    with pytest.raises(ValueError, match=r"'table' \(1024, 1024\).*4,194,304 bytes"):
        optim.state_shardings(init, placed({"w": (16, 32)}))
