"""Shampoo's kin through the battery."""

import pytest
from catalogue_battery import battery, cases, round_trips

NAMES = ("kron", "soap", "shampoo", "kl_shampoo", "kl_soap")


@pytest.mark.parametrize(("name", "check"), cases(NAMES))
def test_optimizer(name, check):
    check(battery(name))


@pytest.mark.slow
def test_states_are_checkpoints():
    round_trips(NAMES)
