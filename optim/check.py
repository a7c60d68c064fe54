"""What an optimizer must do before it may race, one line for each property, in seconds.

    python -m optim.check my_opt:my_sgd
    python -m optim.check muon learning_rate=0.02 ns_steps=5

Run on a tree of small matrices, an embedding, a head and gains. The exit code is the number of
properties that fail.
"""

import ast
import functools
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from optim.catalogue import OptimizerSpec, get, names, spec
from optim.plugins import told, where
from optim.stacks.placement import LARGEST_COPY, state_shardings

SHAPES = {
    "embed": {"embedding": (16, 8)},
    "blocks": {"up": {"kernel": (2, 8, 12)}, "norm": {"scale": (2, 8)}},
    "head": {"kernel": (8, 16)},
}
STEPS, RATE = 4, 0.01
ENOUGH = 1e-4  # an epsilon that no rounding error reaches
WIDE, TOLERANCE = 512, 1e-3  # the width at which state is counted; of programs that should agree
LARGEST_TRIED = 2**30  # bytes of a state that is allocated here


class Failed(Exception):
    """A property does not hold; one line says how."""


class TooLarge(Failed):
    """Its state would not fit here: nothing else can be tried."""


def random(seed: int):
    """A tree of SHAPES, normal with deviation 0.4, float32."""
    shapes, tree = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    draw = lambda key, shape: 0.4 * jax.random.normal(key, shape, jnp.float32)  # noqa: E731
    return tree.unflatten(map(draw, keys, shapes))


class Subject:
    """A specification under test, with parameters, gradients and its step compiled once."""

    def __init__(self, known: OptimizerSpec):
        self.spec, self.traces = known, 0
        self.params, self.target = random(0), random(1)
        self.numbers = {k: jnp.float32(v) for k, v in known.traced.items()}
        self.numbers["steps"] = jnp.int32(STEPS)

    def loss(self, params):
        parts = jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params, self.target)
        return sum(jax.tree.leaves(parts))

    def update(self, params, state, grads, numbers):
        tx = optax.with_extra_args_support(self.spec.build(**numbers))
        value, grad_fn = self.loss(params), jax.grad(self.loss)
        updates, state = tx.update(grads, state, params, value=value, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    def init(self, params=None):
        return self.spec.build(**self.numbers).init(self.params if params is None else params)

    @functools.cached_property
    def step(self):
        def step(params, state, grads, numbers):
            self.traces += 1
            return self.update(params, state, grads, numbers)

        return jax.jit(step)

    def run(self, grads=None, numbers=None, steps=STEPS):
        """Parameters and state after some steps, each its own call."""
        params, state = self.params, self.init()
        for _ in range(steps):
            given = jax.grad(self.loss)(params) if grads is None else grads
            params, state = self.step(params, state, given, numbers or self.numbers)
        return params, state

    def scan(self, numbers):
        """The same as one program."""

        def body(carry, _):
            params, state = carry
            return self.update(params, state, jax.grad(self.loss)(params), numbers), None

        start = (self.params, self.spec.build(**numbers).init(self.params))
        return jax.lax.scan(body, start, length=STEPS)[0]


def finite_after(subject: Subject, value: float) -> None:
    grads = jax.tree.map(lambda p: jnp.full_like(p, value), subject.params)
    if bad := not_finite(subject.run(grads)[0]):
        raise Failed(f"{bad} is not finite")


def moves(subject: Subject) -> None:
    params, _ = subject.run()
    before, after = float(subject.loss(subject.params)), float(subject.loss(params))
    if not after < before:
        raise Failed(f"a quadratic rises from {before:.4g} to {after:.4g} in {STEPS} steps")


def traced(subject: Subject) -> None:
    subject.run(steps=1)


def vmapped(subject: Subject) -> None:
    rates = subject.numbers["learning_rate"] * jnp.array([1.0, 0.5])
    at = lambda rate: subject.numbers | {"learning_rate": rate}  # noqa: E731
    together = jax.jit(jax.vmap(lambda rate: subject.scan(at(rate))[0]))(rates)
    for i, rate in enumerate(rates):
        agree(jax.tree.map(lambda x, i=i: x[i], together), subject.run(numbers=at(rate))[0])


def scanned(subject: Subject) -> None:
    agree(jax.jit(subject.scan)(subject.numbers)[0], subject.run()[0])


def restored(subject: Subject) -> None:
    params, state = subject.run(steps=2)
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    leaves, tree = jax.tree.flatten(state)
    plain = jax.device_get([jax.random.key_data(x) if is_key(x) else x for x in leaves])
    again = [
        jax.random.wrap_key_data(jnp.asarray(x)) if is_key(old) else jnp.asarray(x)
        for x, old in zip(pickle.loads(pickle.dumps(plain)), leaves, strict=True)
    ]
    grads = jax.grad(subject.loss)(params)
    steps = [
        subject.step(params, s, grads, subject.numbers) for s in (state, tree.unflatten(again))
    ]
    agree(steps[0][0], steps[1][0], 0.0)


def compiled_once(subject: Subject) -> None:
    subject.run()
    subject.run(numbers=subject.numbers | {"learning_rate": jnp.float32(RATE / 2)})
    if subject.traces > 1:
        raise Failed(f"its step was traced {subject.traces} times: does its state change shape?")


def keeps_dtypes(subject: Subject) -> None:
    describe = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), str(x.dtype)), tree)  # noqa: E731
    before = jax.eval_shape(subject.init)
    _, after = subject.run(steps=1)
    if describe(before) != describe(after):
        raise Failed("shapes, dtypes or structure of its state change in a step")


def placed(subject: Subject) -> None:
    mesh = AbstractMesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    wide = jax.ShapeDtypeStruct((WIDE, WIDE), jnp.float32, sharding=rows)
    state = jax.eval_shape(subject.init, {"up": {"kernel": wide}})
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    if size > 16 * 4 * wide.size + LARGEST_COPY:
        kind = TooLarge if size > LARGEST_TRIED else Failed
        raise kind(f"{size:,} bytes for a {WIDE} x {WIDE} matrix: more than sixteen of its size")
    try:
        tx, place = subject.spec.build(**subject.numbers), get(subject.spec.name).place
        state_shardings(tx, {"up": {"kernel": wide}}, place)
    except ValueError as error:
        raise Failed(str(error)) from None


# For where Python branches on a number.
STATIC = 'make it static, search_space = {"static": ["its name"]}, or use jnp.where'
TRACED = "it takes its numbers as traced values"
PLACED = "its state has a size and a place on a mesh"
CHECKS: list[tuple[str, Callable[[Subject], Any]]] = [
    (PLACED, placed),
    (TRACED, traced),
    ("finite after zero gradients", functools.partial(finite_after, value=0.0)),
    ("finite after gradients of 1e30", functools.partial(finite_after, value=1e30)),
    ("finite after gradients of 1e-30", functools.partial(finite_after, value=1e-30)),
    ("a quadratic falls", moves),
    ("its state keeps shapes and dtypes", keeps_dtypes),
    ("its step compiles once", compiled_once),
    ("scanned equals step by step", scanned),
    ("vmapped equals one by one", vmapped),
    ("its state survives a checkpoint", restored),
]


def not_finite(tree) -> str | None:
    for path, x in jax.tree.leaves_with_path(tree):
        if not bool(jnp.isfinite(x).all()):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None


def agree(a, b, tolerance: float = TOLERANCE) -> None:
    """Raises Failed where parameters differ by more than a share of a step of size RATE."""
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        difference = float(jnp.max(jnp.abs(x - y)))
        if not difference <= tolerance:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise Failed(f"{name} differs by {difference:.3g}")


def check(known: OptimizerSpec) -> dict[str, str | None]:
    """{property: what is wrong with it, None if it holds}; nothing that the rule raises gets out.

    If its numbers cannot be traced, it raises at all, or its state is too large to be tried, that
    is the last property.
    """
    subject, found = Subject(known), {}
    for title, test in CHECKS:
        last = title in (PLACED, TRACED)  # without these nothing else can be tried
        try:
            test(subject)
            found[title], last = None, False
        except Failed as error:
            found[title] = str(error) + _larger_epsilon(known, test)
            last = isinstance(error, TooLarge)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
            found[title] = f"Python asks for the value of a traced number{where(error)}: {STATIC}"
        except Exception as error:
            found[title] = told(error)
        if last:
            break
    return found


def _larger_epsilon(known: OptimizerSpec, test: Callable[[Subject], Any]) -> str:
    """What to say if the property holds with an epsilon that is not tiny."""
    epsilon = known.values.get("epsilon")
    if not isinstance(epsilon, float) or not 0 < epsilon < ENOUGH:
        return ""
    try:
        test(Subject(spec(**{**known.flat(), "epsilon": ENOUGH})))
    except Exception:
        return ""
    why = f"{epsilon:g} divides rounding errors where a gradient has no direction yet"
    return f"; it holds with epsilon={ENOUGH:g}: {why}"


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nNames: {', '.join(names())}")
        return 0 if argv else 2
    name, *given = argv
    try:
        values = dict(_value(text) for text in given)
        known = spec(name, **{"preset": "study"} | values)
        if known.values["learning_rate"] is None:
            known = spec(name, **{"preset": "study", "learning_rate": RATE} | values)
        found = check(known)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for title, wrong in found.items():
        print(f"{'FAILS' if wrong else 'ok   '}  {title}{': ' + wrong if wrong else ''}")
    return sum(map(bool, found.values()))


def _value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
