"""Every optimizer of the catalogue through the battery, and the battery against bad optimizers."""

import functools

import pytest
from optimizer_battery import CHECKS, Battery

import optim

# Learning rates at which each converges on the battery's small problems.
LEARNING_RATES = {"lion": 0.02, "kron": 0.02}
HPARAMS = {"weight_decay": 0.0, "epsilon": 1e-8, "muon_to_adam_lr": 1.0, "scion_to_signum_lr": 1.0}


@functools.cache
def battery(name):
    known = optim.catalogue.get(name).hyperparameters
    hparams = {k: v for k, v in HPARAMS.items() if k in known}
    make = lambda lr: optim.build(name, hparams | {"learning_rate": lr})  # noqa: E731
    return Battery(make, LEARNING_RATES.get(name, 0.03))


FAST = [compiles for compiles in CHECKS if compiles.__name__ in ("compiles_once", "zero_gradients")]
CASES = [
    pytest.param(
        name,
        check,
        id=f"{name}-{check.__name__}",
        marks=() if name in ("adamw", "muon") and check in FAST else pytest.mark.slow,
    )
    for name in optim.catalogue.CATALOGUE
    for check in CHECKS
]


@pytest.mark.parametrize(("name", "check"), CASES)
def test_optimizer(name, check):
    check(battery(name))
