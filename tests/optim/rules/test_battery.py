"""Every optimizer of the catalogue through the battery, and the battery against bad optimizers."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimizer_battery
import pytest
from optimizer_battery import CHECKS, Battery

import optim

# Learning rates at which each converges on the battery's small problems.
LEARNING_RATES = {"lion": 0.02, "kron": 0.02, "adamuon": 0.1, "dion": 0.1}
# In directions without gradient SOAP divides rounding errors by epsilon, so they differ between
# vmapped and solo programs: a larger epsilon than the study's, and 10 % of a step of tolerance.
ATOL = {"soap": 3e-3}
# Dion at full rank, AdamC and MuonC with plain decay: these learning rates have no known peak.
OPTIONS = {
    "dion": {"rank_fraction": 1.0},
    "adamc": {"weight_decay_kind": "decoupled"},
    "muonc": {"weight_decay_kind": "decoupled"},
}
HPARAMS = {"weight_decay": 0.0, "epsilon": 1e-4, "muon_to_adam_lr": 1.0, "scion_to_signum_lr": 1.0}
HPARAMS |= {"adam_lr_ratio": 1.0}
# On the hyperball the minima of these lie elsewhere.
CONSTRAINED = ("adamh", "muonh")
UNCONSTRAINED_ONLY = (
    optimizer_battery.minimises_a_quadratic,
    optimizer_battery.minimises_rosenbrock,
)


@functools.cache
def battery(name):
    known = optim.spec(name, preset="study").traced
    hparams = {k: v for k, v in HPARAMS.items() if k in known}
    hparams |= OPTIONS.get(name, {})
    make = lambda lr: optim.build(name, hparams, preset="study", learning_rate=lr)  # noqa: E731
    return Battery(make, LEARNING_RATES.get(name, 0.03), ATOL.get(name, 1e-5))


FAST = (optimizer_battery.compiles_once, optimizer_battery.zero_gradients)
CASES = [
    pytest.param(
        name,
        check,
        id=f"{name}-{check.__name__}",
        marks=() if name in ("adamw", "muon") and check in FAST else pytest.mark.slow,
    )
    for name in optim.catalogue.CATALOGUE
    for check in CHECKS
    if not (name in CONSTRAINED and check in UNCONSTRAINED_ONLY)
]


@pytest.mark.parametrize(("name", "check"), CASES)
def test_optimizer(name, check):
    check(battery(name))


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
