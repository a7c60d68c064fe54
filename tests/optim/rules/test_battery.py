"""Every optimizer of the catalogue through the battery, and the battery against bad optimizers.

Shampoo's kin, half of the work, are in shampoos/test_shampoo_battery.py.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimizer_battery
import pytest
from catalogue_battery import SHAMPOOS, battery, cases, round_trips
from optimizer_battery import Battery

import optim

NAMES = [name for name in optim.catalogue.CATALOGUE if name not in SHAMPOOS]


@pytest.mark.parametrize(("name", "check"), cases(NAMES))
@pytest.mark.slow
def test_optimizer(name, check):
    check(battery(name))


@pytest.mark.slow
def test_states_are_checkpoints():
    round_trips(NAMES)


def bring_your_own():
    """The optimizer file shown in docs/optimizers.md."""
    text = (Path(__file__).parents[3] / "docs" / "optimizers.md").read_text()
    return next(b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "ENTRY" in b)


def test_bring_your_own_is_short_and_works(monkeypatch):
    code, module = bring_your_own(), {}
    assert code.count("\n") < 40
    exec(code, module)
    monkeypatch.setitem(optim.catalogue.CATALOGUE, "signum", module["ENTRY"])
    tx = optim.build("signum", {"learning_rate": 0.1, "steps": 10, "weight_decay": 0.0})
    params = {"w": jnp.ones((2, 2))}
    updates, _ = tx.update({"w": -3.0 * params["w"]}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], 0.1, rtol=1e-6)


@pytest.mark.slow
def test_bring_your_own_passes_in_one_line():
    module = {}
    exec(bring_your_own(), module)
    optimizer_battery.run(lambda learning_rate: module["signum"](learning_rate), 0.02)


def spoiled(spoil):
    """SGD whose update is changed by `spoil(updates, count)`."""

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        updates = spoil(jax.tree.map(lambda g: -0.01 * g, updates), state)
        return updates, optax.ScaleByScheduleState(state.count + 1)

    return lambda learning_rate: optax.GradientTransformation(init, update)


@pytest.mark.parametrize(
    ("check", "make"),
    [
        (
            optimizer_battery.nan_is_not_hidden,
            spoiled(lambda u, s: jax.tree.map(jnp.nan_to_num, u)),
        ),
        (
            optimizer_battery.zero_gradients,
            spoiled(lambda u, s: jax.tree.map(lambda x: x / optax.tree.norm(u), u)),
        ),
        (
            optimizer_battery.huge_gradients,
            spoiled(lambda u, s: jax.tree.map(lambda x: x * x * x, u)),
        ),
        (optimizer_battery.minimises_a_quadratic, spoiled(lambda u, s: optax.tree.zeros_like(u))),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_battery_notices(check, make):
    with pytest.raises(AssertionError):
        check(Battery(make))
