"""The catalogue's optimizers as batteries, with the numbers at which each can do its problems."""

import functools

import optimizer_battery
import pytest
from optimizer_battery import CHECKS, Battery, round_trip

import optim

SHAMPOOS = ("kron", "soap", "shampoo", "kl_shampoo", "kl_soap")
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
# What these do to trees, dtypes and meshes is what AdamW, Muon and KL-Shampoo do.
ALIKE = ("nadamw", "lion", "ademamix", "adamc", "adamuon", "muonc", "kl_soap")
ASKED_OF_OTHERS = (
    optimizer_battery.bfloat16_parameters,
    optimizer_battery.odd_trees,
    optimizer_battery.composes,
    optimizer_battery.mesh_equals_one_device,
)


@functools.cache
def battery(name):
    known = optim.spec(name, preset="study").traced
    hparams = {k: v for k, v in HPARAMS.items() if k in known}
    hparams |= OPTIONS.get(name, {})
    make = lambda lr: optim.build(name, hparams, preset="study", learning_rate=lr)  # noqa: E731
    return Battery(make, LEARNING_RATES.get(name, 0.03), ATOL.get(name, 1e-5))


FAST = (optimizer_battery.compiles_once, optimizer_battery.zero_gradients)


def cases(names):
    """(name, check) for all of them, but for the checkpoints, which `round_trips` takes as one."""
    return [
        pytest.param(
            name,
            check,
            id=f"{name}-{check.__name__}",
            marks=() if name in ("adamw", "muon") and check in FAST else pytest.mark.slow,
        )
        for name in names
        for check in CHECKS
        if check is not optimizer_battery.state_round_trips_through_orbax
        and not (name in CONSTRAINED and check in UNCONSTRAINED_ONLY)
        and not (name in ALIKE and check in ASKED_OF_OTHERS)
    ]


def round_trips(names):
    """The states of all of them in one checkpoint."""
    round_trip({name: battery(name).state for name in names})
