"""Points that cannot be told from the best, and the hyper-parameters that matter."""

import math

import pytest

from analysis.stats import near_best
from analysis.stats.noise import Noise


def test_within_a_threshold_of_the_best_that_finished():
    losses = {"a": 3.0, "b": 3.004, "c": 3.0041, "d": math.inf}
    assert near_best.within(losses, 0.004) == ["a", "b"]
    assert near_best.within({"d": math.inf}, 1.0) == near_best.within({}, 1.0) == []


def test_what_is_significantly_worse_is_not_near_the_best():
    noise = Noise(1e-3, 50)
    margin = noise.margin(0.05 / 2, 1)
    runs = {"a": [3.0], "b": [3.0 + 0.99 * margin], "c": [3.0 + 1.01 * margin]}
    assert near_best.not_worse(runs, "a", noise, 0.05) == ["a", "b"]
    # On more common seeds smaller gaps are told apart, whatever the seeds' own effect.
    runs = {"a": [3.0, 4.0], "b": [3.0 + 0.8 * margin, 4.0 + 0.8 * margin], "c": [3.5]}
    assert near_best.not_worse(runs, "a", noise, 0.05) == ["a"]


def test_gains_are_over_common_seeds():
    gain, seeds = near_best.gain([1.0, 2.0], [1.5, 3.0, 9.0])
    assert (gain, seeds) == (pytest.approx(0.75), 2)


def test_a_hyperparameter_is_sensitive_when_no_value_is_near_best_everywhere():
    near = [[{"a": 1, "b": 1}, {"a": 2, "b": 1}], [{"a": 2, "b": 2}], []]
    assert near_best.sensitive(near, ("a", "b")) == ["b"]
    assert near_best.sensitive([], ("a",)) == []
