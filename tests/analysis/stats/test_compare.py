"""analysis/stats/compare.py against scipy's tests, and when it pairs."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.stats import compare
from analysis.stats.noise import Noise

A, B = [3.27, 3.28, 3.265, 3.29], [3.28, 3.31, 3.30, 3.295, 3.305]


def keyed(values, name=None):
    return {(name, i) if name else i: v for i, v in enumerate(values)}


def test_unpaired_is_welch():
    found = compare.difference(keyed(A, "a"), keyed(B, "b"))
    theirs = stats.ttest_ind(B, A, equal_var=False)
    assert found.value / found.se == pytest.approx(theirs.statistic, rel=1e-9)
    assert found.df == pytest.approx(theirs.df, rel=1e-9)
    assert not found.paired and math.isnan(found.correlation)


def test_pairs_are_used_where_they_help_and_only_there():
    rng = np.random.default_rng(0)
    seed = rng.normal(size=10)
    a, b = seed + 0.1 * rng.normal(size=10), seed + 1 + 0.1 * rng.normal(size=10)
    found = compare.difference(keyed(a), keyed(b))
    assert found.paired and "10 common seeds" in found.note
    assert found.value / found.se == pytest.approx(stats.ttest_rel(b, a).statistic, rel=1e-9)
    alone = compare.difference(keyed(a), keyed(rng.permutation(b)))
    assert not alone.paired and "do not help" in alone.note
    assert not compare.difference(keyed(a), keyed(b), pair=False).paired
    assert compare.difference(keyed(a), keyed(rng.permutation(b)), pair=True).paired
    # nine of ten pairs lost: few pairs say less than all runs
    few = compare.difference(keyed(a), {i if i < 3 else ("b", i): v for i, v in enumerate(b)})
    assert not few.paired


@pytest.mark.parametrize(
    "a, b, why",
    [([1.0], [2.0], "one run each"), ([1.0, 1.0], [2.0, 2.0], "the same")],
)
def test_without_noise_nothing_is_claimed(a, b, why):
    found = compare.difference(keyed(a, "a"), keyed(b, "b"))
    assert math.isinf(found.se) and why in found.note
    known = compare.difference(keyed(a, "a"), keyed(b, "b"), noise=Noise(0.1, 50.0))
    assert math.isfinite(known.se)


def test_a_single_run_borrows_the_other_arms_scatter():
    found = compare.difference({"a": 3.2}, keyed(B, "b"))
    assert found.df == len(B) - 1 and found.sd == pytest.approx(np.std(B, ddof=1))


def test_errors():
    with pytest.raises(ValueError, match="no runs"):
        compare.difference({}, {0: 1.0})
    with pytest.raises(ValueError, match="two common seeds"):
        compare.difference({0: 1.0, 1: 2.0}, {5: 1.0, 6: 2.0}, pair=True)


@pytest.mark.parametrize("df", [30.0, math.inf])
def test_known_noise_is_joined_unless_refuted(df):
    joined = compare.merge(9 * 1.1**2, 9, Noise(1.0, df))
    assert joined.df == (39 if df == 30 else math.inf) and 1 <= joined.sd < 1.1
    assert compare.merge(9 * 10.0**2, 9, Noise(1.0, df)) == Noise(10.0, 9)
    assert compare.merge(0.0, 0, Noise(1.0, df)) == Noise(1.0, df)


def test_pooled_scatter_and_bartlett():
    groups = [A, B, [1.0, 1.01, 1.03]]
    noise, p = compare.pooled([*groups, [5.0]])
    assert noise.df == 3 + 4 + 2
    assert p == pytest.approx(stats.bartlett(*groups).pvalue, rel=1e-9)
    low, high = noise.interval()
    assert low < noise.sd < high


def test_a_common_correlation():
    value, low, high = compare.fisher([0.8, 0.8], [16, 20])
    assert value == pytest.approx(0.8) and low < 0.8 < high
    assert compare.fisher([0.8, -1.0], [16, 3])[0] == pytest.approx(0.8)  # three pairs say nothing
