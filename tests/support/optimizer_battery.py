"""What every optimizer must do. To put your own through it:

    optimizer_battery.run(lambda learning_rate: my_optimizer(learning_rate))

`make` takes a learning rate (a number, a tracer or a schedule) and returns an optax transformation
for parameters named as Flax names them. Each check is a function of a `Battery`, so that pytest can
name them; `run` does them all.
"""

import functools
import pickle
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optim

V, D, F, LAYERS, TIME = 16, 8, 16, 2, 8
SHAPES = {
    "embed": {"embedding": (V, D)},
    "blocks": {
        "query": {"kernel": (LAYERS, D, D)},
        "key": {"kernel": (LAYERS, D, D)},
        "value": {"kernel": (LAYERS, D, D)},
        "up": {"kernel": (LAYERS, D, F)},
        "down": {"kernel": (LAYERS, F, D)},
        "norm": {"scale": (LAYERS, D)},
    },
    "head": {"kernel": (D, V)},
}


def random_params(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)

    def leaf(shape):
        x = np.ones(shape) if shape == (LAYERS, D) else 0.4 * rng.standard_normal(shape)
        return jnp.asarray(x, dtype)

    return jax.tree.map(leaf, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


@functools.cache
def targets():
    """Where `quadratic` has its minimum, and its curvatures: fixed NumPy arrays."""
    with jax.ensure_compile_time_eval():
        centre = jax.tree.map(np.asarray, random_params(seed=7))
    curve = lambda t: np.linspace(0.1, 1.0, t.size, dtype=np.float32).reshape(t.shape)  # noqa: E731
    return centre, jax.tree.map(curve, centre)


def quadratic(params):
    """Distance to fixed targets, curvatures from 0.1 to 1."""
    terms = jax.tree.map(lambda p, t, c: jnp.sum(c * (p - t) ** 2), params, *targets())
    return sum(jax.tree.leaves(terms))


def rosenbrock(params):
    """Of all successive pairs of entries of a 2 x 2 matrix; from (-1, 1) to (1, 1)."""
    x, y = params["w"][0], params["w"][1]
    return jnp.sum(10 * (y - x**2) ** 2 + (1 - x) ** 2)


def transformer(params, tokens_BT):
    """Next-token loss of a two-layer Transformer on sequences that count up."""
    x_BTD = params["embed"]["embedding"][tokens_BT[:, :-1]]
    causal_1TT = jnp.tril(jnp.ones((1, x_BTD.shape[1], x_BTD.shape[1]), bool))

    def block(x_BTD, w):
        y = x_BTD / jnp.sqrt(jnp.mean(x_BTD**2, -1, keepdims=True) + 1e-5)
        y = y * w["norm"]["scale"][None, None]
        q, k, v = (y @ w[name]["kernel"] for name in ("query", "key", "value"))
        scores = jnp.where(causal_1TT, q @ k.mT / D**0.5, -1e9)
        x_BTD = x_BTD + jax.nn.softmax(scores) @ v
        return x_BTD + jax.nn.silu(x_BTD @ w["up"]["kernel"]) @ w["down"]["kernel"], None

    x_BTD, _ = jax.lax.scan(block, x_BTD, params["blocks"])
    logits = x_BTD @ params["head"]["kernel"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens_BT[:, 1:])
    return losses.mean()


class Battery:
    """An optimizer under test, with its step on `quadratic` compiled once.

    `atol` is by how much programs that should agree (vmapped, sharded, accumulated) may differ.
    """

    def __init__(self, make, learning_rate=0.03, atol=1e-5):
        self.make, self.learning_rate, self.atol = make, learning_rate, atol
        self.traces = 0
        self.tx = optax.with_extra_args_support(make(learning_rate))
        self.params = random_params()
        self.grads = jax.jit(jax.grad(quadratic))(self.params)
        self.state = self.tx.init(self.params)

    @functools.cached_property
    def step(self):
        def step(params, state, grads):
            self.traces += 1
            return update(self.tx, params, state, grads, jax.grad(quadratic))

        return jax.jit(step)

    def steps(self, n, grads=None):
        params, state = self.params, self.state
        for _ in range(n):
            params, state = self.step(params, state, self.grads if grads is None else grads)
        return params, state

    def minimise(self, loss, params, steps):
        """Losses before each of `steps` cosine-decayed updates, and after the last."""
        schedule = optax.cosine_decay_schedule(self.learning_rate, steps)
        tx = optax.with_extra_args_support(self.make(schedule))

        def step(carry, _):
            value, grads = jax.value_and_grad(loss)(carry[0])
            return update(tx, *carry, grads, jax.grad(loss), value), value

        run = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps))
        (params, _), losses = run(params)
        return [*np.asarray(losses), float(loss(params))]


def update(tx, params, state, grads, grad_fn, value=0.0):
    updates, state = tx.update(grads, state, params, value=value, grad_fn=grad_fn)
    return optax.apply_updates(params, updates), state


def like(tree, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), tree)


def finite(tree):
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return all(bool(jnp.isfinite(x).all()) for x in floats)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (jax.random.key_data(z) if is_key(z) else z for z in (x, y))
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def near(a, b, atol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-4, atol=atol)


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def abstract(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


# The checks. Each asserts one promise.


def compiles_once(b):
    before = b.traces
    b.steps(5)
    b.steps(5)
    assert b.traces <= 1 and before <= 1, "the step was traced again"


def state_keeps_shapes_and_dtypes(b):
    params, state = b.steps(3)
    assert abstract(state) == abstract(b.state)
    assert abstract(params) == abstract(b.params)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))


def vmap_equals_solo(b):
    """Three learning rates at once, one of which diverges to NaN, against each alone."""

    def run(learning_rate):
        tx = optax.with_extra_args_support(b.make(learning_rate))

        def step(carry, _):
            grad_fn = jax.grad(quadratic)
            return update(tx, *carry, grad_fn(carry[0]), grad_fn), None

        (params, _), _ = jax.lax.scan(step, (b.params, tx.init(b.params)), length=3)
        return params

    rates = jnp.array([b.learning_rate, jnp.nan, 0.5 * b.learning_rate])
    packed = jax.jit(jax.vmap(run))(rates)
    alone = jax.jit(run)
    for i in (0, 2):
        near(jax.tree.map(lambda x, i=i: x[i], packed), alone(rates[i]), b.atol)
    assert not finite(jax.tree.map(lambda x: x[1], packed))


def bfloat16_parameters(b):
    """Parameters and updates stay bfloat16, the step stays near the float32 one."""
    params = random_params(dtype=jnp.bfloat16)
    grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), b.grads)
    state = b.tx.init(params)
    grad_fn = jax.grad(lambda p: quadratic(p).astype(jnp.float32))
    new, after = jax.jit(lambda *a: update(b.tx, *a, grad_fn))(params, state, grads)
    assert abstract(new) == abstract(params) and abstract(after) == abstract(state)
    assert finite(new)


def state_pickles(b):
    _, state = b.steps(2)
    hidden = jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)
    same(pickle.loads(pickle.dumps(hidden)), hidden)


def state_round_trips_through_orbax(b):
    import orbax.checkpoint as ocp

    params, state = b.steps(2)
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(f"{folder}/state", state)
        checkpointer.wait_until_finished()
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        restored = checkpointer.restore(f"{folder}/state", template)
    same(restored, state)
    same(b.step(params, restored, b.grads), b.step(params, state, b.grads))


def zero_gradients(b):
    """Nothing but decay: no parameter grows, none becomes NaN."""
    params, state = b.steps(3, like(b.grads, 0.0))
    assert finite(params) and finite(state)
    for new, old in zip(jax.tree.leaves(params), jax.tree.leaves(b.params), strict=True):
        assert (jnp.abs(new) <= jnp.abs(old) + 1e-6).all()


def huge_gradients(b):
    """1e30, whose square overflows float32: parameters stay finite."""
    assert finite(b.steps(3, like(b.grads, 1e30))[0])


def tiny_gradients(b):
    """1e-30, whose square underflows float32: parameters stay finite."""
    assert finite(b.steps(3, like(b.grads, 1e-30))[0])


def nan_is_not_hidden(b):
    """A NaN in one gradient reaches that leaf, so that the loop sees it."""
    bad = jax.tree.map(lambda g: g, b.grads)
    bad["head"]["kernel"] = bad["head"]["kernel"].at[0, 0].set(jnp.nan)
    params, _ = b.steps(2, bad)
    assert not finite(params["head"])


def odd_trees(b):
    """An empty tree, a scalar, leaves without entries."""
    for params in ({}, {"scale": jnp.ones(())}, {"w": jnp.ones((0, 4)), "bias": jnp.ones((0,))}):
        grads = like(params, 0.5)
        new, _ = update(b.tx, params, b.tx.init(params), grads, lambda p: p)
        assert abstract(new) == abstract(params) and finite(new)


def minimises_a_quadratic(b):
    losses = b.minimise(quadratic, b.params, 200)
    assert losses[-1] < 0.02 * losses[0], f"{losses[0]:.3g} -> {losses[-1]:.3g}"


def minimises_rosenbrock(b):
    losses = b.minimise(rosenbrock, {"w": jnp.array([[-1.0, 0.5], [1.0, 0.0]])}, 500)
    assert losses[-1] < 0.1 * losses[0], f"{losses[0]:.3g} -> {losses[-1]:.3g}"


def trains_a_transformer(b):
    tokens = (jnp.arange(TIME + 1)[None] + jnp.arange(16)[:, None]) % V
    losses = b.minimise(lambda p: transformer(p, tokens), b.params, 100)
    assert losses[-1] < 0.5 * losses[0], f"{losses[0]:.3g} -> {losses[-1]:.3g}"


def composes(b):
    """With a clip in front, a mask around, and two accumulated micro-batches as one."""
    mask = jax.tree.map(lambda x: x.ndim == 3, b.params)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(b.tx, mask))
    is_masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731

    def grad_fn(part):
        """Of the unmasked leaves alone, for rules that call it."""
        pick = lambda x, other: other if is_masked(x) else x  # noqa: E731
        whole = jax.tree.map(pick, part, b.params, is_leaf=is_masked)
        grads = jax.grad(quadratic)(whole)
        return jax.tree.map(lambda x, g: x if is_masked(x) else g, part, grads, is_leaf=is_masked)

    new, _ = jax.jit(lambda p: update(tx, p, tx.init(p), b.grads, grad_fn))(b.params)
    assert finite(new)

    twice = optax.MultiSteps(b.tx, every_k_schedule=2)
    one, two = (jax.tree.map(lambda g, c=c: c * g, b.grads) for c in (0.5, 1.5))

    @jax.jit
    def accumulate(params):
        carry = update(twice, params, twice.init(params), one, jax.grad(quadratic))
        return update(twice, *carry, two, jax.grad(quadratic))[0]

    near(accumulate(b.params), b.steps(1)[0], b.atol)


def mesh_equals_one_device(b):
    """Parameters sharded over data and model: same numbers, state stays where it is."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = {2: PartitionSpec("data", "model"), 3: PartitionSpec(None, "data", "model")}

    def place(x):
        spec = PartitionSpec() if x.shape == (LAYERS, D) else specs[x.ndim]
        return jax.device_put(x, NamedSharding(mesh, spec))

    with jax.set_mesh(mesh):
        params, grads = jax.tree.map(place, (b.params, b.grads))
        state = jax.jit(b.tx.init, out_shardings=optim.state_shardings(b.tx, params))(params)
        step = jax.jit(lambda *args: update(b.tx, *args, jax.grad(quadratic)))
        carry = step(params, state, grads)
        moved = jax.tree.map(
            lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), carry, (params, state)
        )
        assert all(jax.tree.leaves(moved)), "params or state changed their sharding"
        carry = step(*carry, grads)
    near(carry[0], b.steps(2)[0], b.atol)


CHECKS = [
    compiles_once,
    state_keeps_shapes_and_dtypes,
    vmap_equals_solo,
    bfloat16_parameters,
    state_pickles,
    state_round_trips_through_orbax,
    zero_gradients,
    huge_gradients,
    tiny_gradients,
    nan_is_not_hidden,
    odd_trees,
    minimises_a_quadratic,
    minimises_rosenbrock,
    trains_a_transformer,
    composes,
    mesh_equals_one_device,
]


def run(make, learning_rate=0.03, atol=1e-5):
    """Every check, on the optimizer that `make(learning_rate)` returns."""
    battery = Battery(make, learning_rate, atol)
    for check in CHECKS:
        check(battery)
