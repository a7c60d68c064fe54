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
# Compiling is most of the battery's time, and a program that runs once need not be fast.
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
STEPS, CONSTANT = 300, 3  # of a training, and those before its learning rate falls
SHAPES = {  # three problems in one tree, so that one program is enough
    "net": {
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
    },
    "bowl": {
        "embed": {"embedding": (V, D)},
        "up": {"kernel": (D, F)},
        "norm": {"scale": (D,)},
        "head": {"kernel": (D, V)},
    },
    "valley": {"kernel": (2, 2)},
}


def random_params(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)

    def leaf(shape):
        x = np.ones(shape) if shape in ((LAYERS, D), (D,)) else 0.4 * rng.standard_normal(shape)
        return jnp.asarray(x, dtype)

    params = jax.tree.map(leaf, SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    return params | {"valley": {"kernel": jnp.asarray([[-1.0, 0.5], [1.0, 0.0]], dtype)}}


@functools.cache
def targets():
    """Where the bowl has its minimum, and its curvatures: fixed NumPy arrays."""
    with jax.ensure_compile_time_eval():
        centre = jax.tree.map(np.asarray, random_params(seed=7)["bowl"])
    curve = lambda t: np.linspace(0.1, 1.0, t.size, dtype=np.float32).reshape(t.shape)  # noqa: E731
    return centre, jax.tree.map(curve, centre)


def quadratic(bowl):
    """Distance to fixed targets, curvatures from 0.1 to 1."""
    terms = jax.tree.map(lambda p, t, c: jnp.sum(c * (p - t) ** 2), bowl, *targets())
    return sum(jax.tree.leaves(terms))


def rosenbrock(valley):
    """Of all successive pairs of entries of a 2 x 2 matrix; from (-1, 1) to (1, 1)."""
    x, y = valley["kernel"][0], valley["kernel"][1]
    return jnp.sum(10 * (y - x**2) ** 2 + (1 - x) ** 2)


def transformer(net):
    """Next-token loss of a Transformer of two parallel layers on sequences that count up."""
    tokens_BT = (jnp.arange(TIME + 1)[None] + jnp.arange(V)[:, None]) % V
    x_BTD = net["embed"]["embedding"][tokens_BT[:, :-1]]
    causal_1TT = jnp.tril(jnp.ones((1, TIME, TIME), bool))

    def block(w):
        y = x_BTD / jnp.sqrt(jnp.mean(x_BTD**2, -1, keepdims=True) + 1e-5)
        y = y * w["norm"]["scale"][None, None]
        q, k, v = (y @ w[name]["kernel"] for name in ("query", "key", "value"))
        scores = jnp.where(causal_1TT, q @ k.mT / D**0.5, -1e9)
        y = jax.nn.softmax(scores) @ v
        return y + jax.nn.silu(y @ w["up"]["kernel"]) @ w["down"]["kernel"]

    logits = (x_BTD + jax.vmap(block)(net["blocks"]).sum(0)) @ net["head"]["kernel"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens_BT[:, 1:])
    return losses.mean()


def losses(params):
    """Of the three problems, in float32."""
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    parts = {"bowl": quadratic, "valley": rosenbrock, "net": transformer}
    return {name: loss(wide[name]) for name, loss in parts.items()}


def total(params):
    """The sum of the losses, and them."""
    parts = losses(params)
    return sum(parts.values()), parts


gradient = jax.grad(lambda params: total(params)[0])


gradient_of = jit_once(gradient)


class Battery:
    """An optimizer under test, with its step and a training of three at once compiled once.

    `atol` is by how much programs that should agree (vmapped, sharded, accumulated) may differ.
    """

    def __init__(self, make, learning_rate=0.03, atol=1e-5):
        self.make, self.learning_rate, self.atol = make, learning_rate, atol
        self.traces = 0
        self.tx = optax.with_extra_args_support(make(learning_rate))
        self.params = random_params()
        self.grads = gradient_of(self.params)
        self.state = self.tx.init(self.params)

    @functools.cached_property
    def step(self):
        def step(params, state, grads):
            self.traces += 1
            return update(self.tx, params, state, grads, gradient)

        return jit_once(step)

    def steps(self, n, grads=None):
        params, state = self.params, self.state
        for _ in range(n):
            params, state = self.step(params, state, self.grads if grads is None else grads)
        return params, state

    @functools.cached_property
    def trained(self):
        """Three at once, with the learning rate, NaN and half of it: for each, parameters after
        CONSTANT steps and the losses before each step and after the last."""
        fall = optax.cosine_decay_schedule(1.0, STEPS - CONSTANT)

        def run(learning_rate):
            tx = optax.with_extra_args_support(
                self.make(lambda t: learning_rate * fall(jnp.maximum(t - CONSTANT, 0)))
            )

            def step(carry, t):
                params, state, early = carry
                early = jax.tree.map(lambda p, e: jnp.where(t <= CONSTANT, p, e), params, early)
                grads, before = jax.grad(total, has_aux=True)(params)
                params, state = update(tx, params, state, grads, gradient)
                return (params, state, early), before

            start = (self.params, tx.init(self.params), self.params)
            (params, _, early), rows = jax.lax.scan(step, start, jnp.arange(STEPS))
            return early, {k: jnp.append(rows[k], v) for k, v in losses(params).items()}

        rates = jnp.array([self.learning_rate, jnp.nan, 0.5 * self.learning_rate])
        early, rows = jax.device_get(jit_once(jax.vmap(run))(rates))
        return [jax.tree.map(lambda x, i=i: x[i], (early, rows)) for i in range(3)]


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
    """Three learning rates at once, one of which diverges to NaN, against one alone. (Not of the
    Transformer, whose first gradients leave directions empty: there SOAP divides by epsilon.)"""
    params, state = b.params, b.state
    for _ in range(CONSTANT):
        params, state = b.step(params, state, gradient_of(params))
    (early, _), (bad, _), (half, _) = b.trained
    near(*({k: tree[k] for k in ("bowl", "valley")} for tree in (early, params)), b.atol)
    assert not finite(bad) and finite(half)
    assert not np.allclose(half["valley"]["kernel"], early["valley"]["kernel"], atol=1e-4)


def bfloat16_parameters(b):
    """Parameters and updates stay bfloat16, the step stays near the float32 one."""
    params = random_params(dtype=jnp.bfloat16)
    grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), b.grads)
    state = b.tx.init(params)
    new, after = jit_once(lambda *a: update(b.tx, *a, gradient))(params, state, grads)
    assert abstract(new) == abstract(params) and abstract(after) == abstract(state)
    assert finite(new)


def state_pickles(b):
    _, state = b.steps(2)
    hidden = jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)
    same(pickle.loads(pickle.dumps(hidden)), hidden)


def state_round_trips_through_orbax(b):
    round_trip(b.steps(2)[1])


def round_trip(state):
    import orbax.checkpoint as ocp

    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(f"{folder}/state", state)
        checkpointer.wait_until_finished()
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        same(checkpointer.restore(f"{folder}/state", template), state)


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
    bad["bowl"]["head"]["kernel"] = bad["bowl"]["head"]["kernel"].at[0, 0].set(jnp.nan)
    params, _ = b.steps(2, bad)
    assert not finite(params["bowl"]["head"])


def odd_trees(b):
    """An empty tree; a scalar and leaves without entries."""
    for params in ({}, {"scale": jnp.ones(()), "w": jnp.ones((0, 4)), "bias": jnp.ones((0,))}):
        step = jit_once(lambda p: update(b.tx, p, b.tx.init(p), like(p, 0.5), lambda q: q))
        new, _ = step(params)
        assert abstract(new) == abstract(params) and finite(new)


def minimises_a_quadratic(b):
    falls(b, "bowl", 0.02)


def minimises_rosenbrock(b):
    falls(b, "valley", 0.1)


def trains_a_transformer(b):
    falls(b, "net", 0.5)


def falls(b, problem, share):
    rows = b.trained[0][1][problem]
    assert rows[-1] < share * rows[0], f"{rows[0]:.3g} -> {rows[-1]:.3g}"


def composes(b):
    """With a clip in front, a mask around, and two accumulated micro-batches as one."""
    params = b.params | {"left": jnp.ones((3, 3))}
    mask = jax.tree.map(lambda _: True, b.params) | {"left": False}
    inner = optax.chain(optax.clip_by_global_norm(1e9), optax.masked(b.tx, mask))
    tx = optax.MultiSteps(inner, every_k_schedule=2)

    def grad_fn(part):
        """Of the unmasked leaves alone, for rules that call it."""
        rest = {name: tree for name, tree in part.items() if name != "left"}
        return gradient(rest) | {"left": part["left"]}

    step = jit_once(lambda *args: update(tx, *args, grad_fn))
    new, state = params, tx.init(params)
    for share in (0.5, 1.5):
        grads = jax.tree.map(lambda g, share=share: share * g, b.grads)
        new, state = step(new, state, grads | {"left": params["left"]})
    del new["left"]
    near(new, b.steps(1)[0], b.atol)


def mesh_equals_one_device(b):
    """Parameters sharded over data and model: same numbers, state stays where it is."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def place(x):
        if x.ndim < 2 or x.shape == (LAYERS, D):
            return jax.device_put(x, NamedSharding(mesh, PartitionSpec()))
        rows = None if x.shape[-2] % 4 else "data"
        spec = PartitionSpec(*(None,) * (x.ndim - 2), rows, "model")
        return jax.device_put(x, NamedSharding(mesh, spec))

    def of_net(params):
        return {"net": jax.grad(transformer)(params["net"])}

    def two(params, grads, state):
        step = jit_once(lambda *args: update(b.tx, *args, of_net))
        first = step(params, state, grads)
        return first, step(*first, grads)[0]

    start, grads = ({"net": random_params(seed)["net"]} for seed in (0, 3))
    alone = two(start, grads, b.tx.init(start))[1]
    with jax.set_mesh(mesh):
        params, grads = jax.tree.map(place, (start, grads))
        state = jax.device_put(b.tx.init(start), optim.state_shardings(b.tx, params))
        first, last = two(params, grads, state)
    # A small array that lay whole may be cut.
    stays = lambda x, y: x.size < D * D or x.sharding.is_equivalent_to(y.sharding, x.ndim)  # noqa: E731
    moved = jax.tree.map(stays, first, (params, state))
    assert all(jax.tree.leaves(moved)), "params or state changed their sharding"
    near(last, alone, b.atol)


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
