"""Shampoo's kin through the battery."""

import pytest
from catalogue_battery import SHAMPOOS, battery, cases, round_trips


@pytest.mark.parametrize(("name", "check"), cases(SHAMPOOS))
def test_optimizer(name, check):
    check(battery(name))


@pytest.mark.slow
def test_states_are_checkpoints():
    round_trips(SHAMPOOS)
