"""Optimizers by import path: what they take, what goes around them, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

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
    assert spec.static["around"] == "clip+decay+schedule"
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
    wrongs = ({"schedule": "cosine"}, {"warmup": 3}, {"weight_decay": 0.1}, {"around": "schedule"})
    for wrong in wrongs:
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
    assert "weight_decay" not in spec.values and spec.static["around"] == "schedule"
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


def test_a_package_names_its_own(tmp_path, monkeypatch):
    """Two files of an installed distribution: its code, and the entry points beside it."""
    folder = tmp_path / "beasts-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: beasts\nVersion: 1.0\n")
    points = "gryphon = beasts:make\nmuon = beasts:make\nlost = beasts:lost\n"
    (folder / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{points}")
    (tmp_path / "beasts.py").write_text(MAKE)
    monkeypatch.syspath_prepend(tmp_path)
    plugins.registered.cache_clear()
    try:
        assert optim.catalogue.names()[-2:] == ["gryphon", "lost"]
        spec = optim.spec("gryphon", learning_rate=0.1)
        assert optim.spec(**spec.flat()) == spec and spec.static["source"]
        assert optim.catalogue.is_plugin("gryphon") and not optim.catalogue.is_plugin("muon")
        near(steps(spec.build()), steps(optim.build("beasts:make", spec.values)))
        plugins.keep(["gryphon"], tmp_path / "kept")
        assert (tmp_path / "kept" / "beasts.py").read_text() == MAKE
        with pytest.raises(ValueError, match="'grifon' is unknown; did you mean 'gryphon'"):
            optim.spec("grifon")
        with pytest.raises(ValueError, match="beasts has no such function"):
            optim.spec("lost")
    finally:
        plugins.registered.cache_clear()


TABLE = """
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

def make(learning_rate):
    def init(params):
        return {"table": jnp.zeros((1024, 512)), "odd": jnp.zeros(3)}
    def update(u, s, p=None):
        return jax.tree.map(lambda g: -learning_rate * g, u), s
    return optax.GradientTransformation(init, update)

def state_sharding(path, array, mesh):
    return PartitionSpec("data") if path.endswith("table") else None
"""


def test_state_of_their_own_lies_where_they_say(write):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
    name = write(TABLE)
    tx = optim.build(name, learning_rate=0.1)
    with pytest.raises(ValueError, match="'inner/1/table' .* 8 devices .*state_sharding says"):
        optim.state_shardings(tx, params)
    where = optim.state_shardings(tx, params, optim.catalogue.get(name).place)
    state = jax.jit(tx.init, out_shardings=where)(params)
    table, odd = (next(x for x in jax.tree.leaves(state) if x.size == n) for n in (2**19, 3))
    assert table.sharding.shard_shape(table.shape) == (128, 512)
    assert odd.sharding.is_fully_replicated
    with jax.set_mesh(mesh):
        updates, _ = jax.jit(tx.update)(GRADS, state, params)
    np.testing.assert_allclose(
        updates["w"], -0.1 * GRADS["w"] - 0.01 * PARAMS["w"], rtol=1e-5, atol=1e-7
    )
    for wrong, message in {
        TABLE.replace("table", "odd"): "'inner/1/odd' cannot lie as P.*dimension size is 3",
        TABLE.replace(
            ' if path.endswith("table") else None', ""
        ): "cannot lie as P.*: it has 0 axes",
    }.items():
        with pytest.raises(ValueError, match=message):
            optim.state_shardings(tx, params, optim.catalogue.get(write(wrong)).place)


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
