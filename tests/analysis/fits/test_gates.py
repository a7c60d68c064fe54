"""Every gate fires on what it is there for, and none on a sound fit."""

from types import SimpleNamespace

import numpy as np
import pytest

from analysis.fits import gates
from analysis.stats.intervals import Interval

X = np.array([[1e8, 1e9], [1e8, 4e9], [4e8, 1e9], [4e8, 4e9], [2e8, 8e9]])
SOUND = {
    "floor": 1.8,
    **{"amplitude_params": 480.0, "exponent_params": 0.35},
    **{"amplitude_tokens": 2000.0, "exponent_tokens": 0.37},
}
EXPONENT = ["amplitude_params", "exponent_params", "optimal_share"]


def fit(parameters=(), **others):
    values = SOUND | dict(parameters)
    form = SimpleNamespace(logarithmic=False)
    found = {"columns": ("params", "tokens"), "names": tuple(SOUND), "form": form}
    found |= {"converged": True, "agreement": 1.0, "condition": 1e3}
    found |= {"target": np.array([3.1, 2.9, 2.8]), "parameters": lambda: values}
    return SimpleNamespace(**found | others)


@pytest.mark.parametrize(
    "broken, names, words",
    [
        (fit(), [], ""),
        (fit(converged=False), [*SOUND, "optimal_share"], "did not converge"),
        (fit(agreement=0.3), [*SOUND, "optimal_share"], "only 30% of the starts agree"),
        (fit(condition=1e15), [*SOUND, "optimal_share"], "condition number 1e+15"),
        (fit({"exponent_params": 0.005}), EXPONENT, "at the end of what a power can be"),
        (fit({"exponent_params": 3.5}), EXPONENT, "at the end of what a power can be"),
        (fit({"floor": 1e-4}), ["floor"], "the data do not bend"),
        (fit({"floor": 2.85}), ["floor"], "above the lowest loss, 2.8"),
    ],
)
def test_a_fit_that_its_data_do_not_carry_is_withheld(broken, names, words):
    found = gates.withheld(broken, X)
    assert sorted(found) == sorted(names)
    assert "optimal_share" not in found or found["optimal_share"]
    assert not names or any(words in reason for reason in found.values())


def test_columns_that_rise_together_are_withheld():
    together = np.column_stack([X[:, 0], 20 * X[:, 0]])
    assert "rise together" in gates.withheld(fit(), together)["floor"]


@pytest.mark.parametrize(
    "value, bootstrap, profile, words",
    [
        (0.35, (0.3, 0.4), (0.3, 0.4), ""),
        (0.35, (0.36, 0.4), None, "excludes it"),
        (0.35, (0.3, 0.4), (0.349, 0.351), "differ 50.0-fold"),
        (0.35, (0.349, 0.351), (0.3, 0.4), "differ 50.0-fold"),
        (0.35, (0.35, 0.35), (0.3, 0.4), "-fold"),  # every replicate the same
        (0.35, (0.3, 0.4), (-np.inf, 0.4), ""),  # an open end says nothing of the width
    ],
)
def test_intervals_that_disagree_withhold_the_number(value, bootstrap, profile, words):
    profile = profile and Interval(*profile)
    reason = gates.disagreement(value, Interval(*bootstrap), profile)
    assert words in reason and bool(words) == bool(reason)


@pytest.mark.parametrize(
    "x, loss, words",
    [
        (X, 3.0, ""),
        (X, 300.0, "no loss in nats per token"),
        (X / [1e6, 1], 3.0, "counts, or millions?"),
        (X[:, ::-1] * [100, 1], 3.0, "are the columns swapped?"),
    ],
)
def test_units_that_look_wrong_are_named(x, loss, words):
    found = gates.units(x, np.full(len(x), loss), ["params", "tokens"])
    assert bool(found) == bool(words) and words in "; ".join(found)
