"""Optimizers by import path: what they take, what goes around them, what is refused."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim import plugins

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "scale": jnp.ones(4)}
GRADS = {"w": jnp.linspace(0.2, -0.1, 12).reshape(3, 4), "scale": jnp.linspace(-0.1, 0.1, 4)}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module and returns the path of its function `make`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "FOLDERS", [])
    plugins.load.cache_clear()
    count = iter(range(100))

    def write(text):
        name = f"plugin_{tmp_path.name.replace('-', '_')}_{next(count)}"
        (tmp_path / f"{name}.py").write_text(text)
        return f"{name}:make"

    return write


MAKE = """
import optax
def make(learning_rate, momentum=0.9, nesterov=False, power: float = 2, window=10):
    return optax.sgd(learning_rate, momentum)
"""


def steps(tx, n=2):
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(n):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def near(a, b):
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-5)


def test_floats_may_be_traced_and_the_rest_is_static(write):
    spec = optim.spec(write(MAKE), learning_rate=0.1)
    own = ("learning_rate", "momentum", "power")
    assert set(own) < set(spec.traced)
    assert spec.static["nesterov"] is False and spec.static["window"] == 10
    assert optim.spec(**spec.flat()) == spec


def test_clip_masked_decay_and_schedule_go_around(write):
    numbers = dict(warmup=4, steps=10, weight_decay=0.5, max_grad_norm=0.2)
    spec = optim.spec(write(MAKE), learning_rate=0.4, **numbers)
    schedule = optim.schedules.Schedule({"learning_rate": 0.4, "warmup": 4, "steps": 10})
    decayed = {"w": True, "scale": False}
    expected = optax.chain(
        optax.clip_by_global_norm(0.2),
        optax.trace(0.9),
        optax.add_decayed_weights(0.5, decayed),
        optax.scale_by_learning_rate(schedule),
    )
    near(steps(spec.build(), 3), steps(expected, 3))


def test_wrap_false_leaves_it_alone_and_hands_it_the_steps(write):
    name = write("wrap = False\n" + MAKE.replace("window=10", "steps: int = 0"))
    spec = optim.spec(name, learning_rate=0.1, steps=7)
    near(steps(spec.build()), steps(optax.sgd(0.1, 0.9)))
    for wrong in ({"schedule": "cosine"}, {"warmup": 3}, {"weight_decay": 0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            optim.spec(name, **wrong)


def test_roles_are_handed_over(write):
    name = write(
        "import optax, jax\nfrom optim.roles import find_roles\n"
        "def make(learning_rate, *, roles=None):\n"
        "    def update(u, p=None):\n"
        "        step = lambda g, r: -learning_rate * g * (r.kind == 'matrix')\n"
        "        return jax.tree.map(step, u, find_roles(u, roles))\n"
        "    return optax.stateless(update)\n"
    )
    spec = optim.spec(name, learning_rate=1.0)
    assert "weight_decay" not in spec.values
    moved = steps(spec.build(), 1)
    near(moved, {"w": PARAMS["w"] - GRADS["w"], "scale": PARAMS["scale"]})


@pytest.mark.parametrize(
    "name", ["optax:adafactor", "optax.contrib:ademamix", "optax.contrib:schedule_free_adamw"]
)
def test_what_optax_has_works_by_its_path(name):
    spec = optim.spec(name, learning_rate=0.01, warmup=2, steps=5)
    assert np.isfinite(steps(spec.build())["w"]).all()
    assert optim.describe(spec, PARAMS).parameters == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_there", "importing .* raised ModuleNotFoundError: No module named"),
        ("def make(:", "raised SyntaxError"),
        ("def maker(learning_rate): pass", "has no such function; did you mean 'maker'"),
        ("def make(lr): pass", "takes no argument 'learning_rate', only lr"),
        ("def make(learning_rate, decay=0.9): pass", "'decay' means something else here"),
        ("search_space = {'strat': {}}\n" + MAKE, "unknown key 'strat'; did you mean 'start'"),
        ("search_space = {'start': {'bta': 1}}\n" + MAKE, "search_space: no argument 'bta'"),
    ],
)
def test_refused_in_one_line(write, text, message):
    with pytest.raises(ValueError, match=message) as error:
        optim.spec(write(text))
    assert "\n" not in str(error.value)


def test_what_is_missing_or_returns_something_else_is_refused(write):
    with pytest.raises(ValueError, match="there is no module 'no_such_module'"):
        optim.spec("no_such_module:make")
    with pytest.raises(ValueError, match="did you mean 'adafactor'"):
        optim.spec("optax:adafactr")
    with pytest.raises(ValueError, match="make returned int, not a GradientTransformation"):
        optim.build(write("def make(learning_rate): return 3"), learning_rate=0.1).init(PARAMS)
    with pytest.raises(ValueError, match="make: width has no default"):
        tx = optim.build(write("def make(learning_rate, width): return 3"), learning_rate=0.1)
        tx.init(PARAMS)


def test_a_changed_source_is_refused_and_a_kept_one_is_found(write, tmp_path):
    name = write(MAKE)
    spec = optim.spec(name, learning_rate=0.1)
    plugins.keep([name, "adamw", "optax:adam"], tmp_path / "kept")
    module = name.partition(":")[0]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [f"{module}.py"]
    (tmp_path / f"{module}.py").write_text(MAKE + "# changed\n")
    plugins.load.cache_clear()
    with pytest.raises(ValueError, match="has changed: its digest is .* and was"):
        optim.spec(**{**spec.flat(), "source": "0" * 16})
    plugins.look_in(tmp_path / "kept")
    assert optim.spec(**spec.flat()) == spec
