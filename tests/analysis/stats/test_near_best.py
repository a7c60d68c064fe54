"""Points that cannot be told from the best, and the hyper-parameters that matter."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.stats import near_best
from analysis.stats.noise import Noise


def test_within_a_threshold_of_the_best_that_finished():
    losses = {"a": 3.0, "b": 3.004, "c": 3.0041, "d": math.inf}
    assert near_best.within(losses, 0.004) == ["a", "b"]
    assert near_best.within({"d": math.inf}, 1.0) == near_best.within({}, 1.0) == []


def test_what_is_significantly_worse_is_not_near_the_best():
    noise = Noise(1e-3, 50)
    margin = near_best.range_margin(noise, 3, 0.05)
    runs = {"a": [3.0], "b": [3.0 + 0.99 * margin], "c": [3.0 + 1.01 * margin]}
    assert near_best.not_worse(runs, "a", noise, 0.05) == ["a", "b"]
    # On more common seeds smaller gaps are told apart, whatever the seeds' own effect.
    runs = {"a": [3.0, 4.0], "b": [3.0 + 0.8 * margin, 4.0 + 0.8 * margin], "c": [3.5]}
    assert near_best.not_worse(runs, "a", noise, 0.05) == ["a"]
    unknown = Noise(0.0, 0)
    assert near_best.not_worse(runs, "a", unknown, 0.05) == ["a", "b", "c"]


@pytest.mark.parametrize("count, df", [(2, 4), (20, 1e9), (12, 8), (30, 3.5)])
@pytest.mark.parametrize("error_rate", [0.05, 0.008])
def test_the_studentized_range_is_scipys(error_rate, count, df):
    found = near_best.studentized_range(error_rate, count, df)
    assert stats.studentized_range.sf(found, count, df) == pytest.approx(error_rate, rel=2e-3)


def test_equal_points_are_all_near_the_best_but_for_the_error_rate():
    """Twenty points with one run each and a noise known to eight degrees of freedom, 2,000 times:
    some point is left out in 5 % of them (standard error 0.5 %).
    """
    rng, left_out = np.random.default_rng(0), 0
    for _ in range(2000):
        noise = Noise(1e-3 * float(np.sqrt(rng.chisquare(8) / 8)), 8)
        runs = {i: [loss] for i, loss in enumerate(3.0 + 1e-3 * rng.standard_normal(20))}
        left_out += len(near_best.not_worse(runs, 0, noise, 0.05)) < 20
    assert 0.03 < left_out / 2000 < 0.07


def test_gains_are_over_common_seeds():
    gain, seeds = near_best.gain([1.0, 2.0], [1.5, 3.0, 9.0])
    assert (gain, seeds) == (pytest.approx(0.75), 2)


def test_a_hyperparameter_is_sensitive_when_no_value_is_near_best_everywhere():
    near = [[{"a": 1, "b": 1}, {"a": 2, "b": 1}], [{"a": 2, "b": 2}], []]
    assert near_best.sensitive(near, ("a", "b")) == ["b"]
    assert near_best.sensitive([], ("a",)) == []
