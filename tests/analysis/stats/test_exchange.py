"""Exchange rates and lines through estimates."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.stats import exchange, trend


def test_rate_between_lengths_is_the_regression_slope():
    x, y = [3150, 3150, 3350, 3350, 3350], [3.289, 3.288, 3.279, 3.278, 3.2785]
    rate, theirs = exchange.from_lengths(x, y), stats.linregress(x, y)
    assert (rate.value, rate.se) == pytest.approx((-theirs.slope, theirs.stderr), rel=1e-9)
    with pytest.raises(ValueError, match="two lengths"):
        exchange.from_lengths([1, 1, 1], [3, 3, 3])


def test_rate_within_runs_takes_the_end_of_each():
    x = np.arange(1, 101.0)
    bent = np.where(x < 90, 5 - 0.04 * x, 5 - 3.6 - 0.01 * (x - 90))
    rate = exchange.from_curves([(x, bent), (x, bent - 0.002 * x)])
    assert rate.value == pytest.approx(0.011, rel=1e-9) and rate.df == 1
    assert rate.se == pytest.approx(0.001, rel=1e-9)
    sparse = exchange.from_curves([([0, 50, 100], [5, 3, 2])])
    assert sparse.value == pytest.approx(0.03) and math.isnan(sparse.se)
    with pytest.raises(ValueError, match="three points"):
        exchange.from_curves([([0, 1], [2, 1])])


def test_fieller_interval_covers_the_ratio():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        value, slope = rng.normal(2.0, 0.4), rng.normal(0.5, 0.05)
        low, high = exchange.ratio(value, 0.4, exchange.Rate(slope, 0.05, 50, ""), 1.96)
        inside += low <= 4.0 <= high
    assert stats.binom.cdf(inside, 400, 0.95) > 1e-3
    flat = exchange.Rate(0.1, 0.1, 50, "")
    assert exchange.ratio(2.0, 0.4, flat, 1.96) == (-math.inf, math.inf)


def test_line_is_weighted_least_squares_widened_by_misfit():
    x, se = np.arange(4.0), np.array([1.0, 2.0, 1.0, 2.0])
    y = 3 - 0.5 * x
    exact = trend.line(x, y, se)
    slope, low, high = exact.per_unit()
    assert slope == pytest.approx(-0.5) and exact.at(10.0)[0] == pytest.approx(-2.0)
    half = stats.t.ppf(0.975, 2) * math.sqrt(exact.covariance[1, 1])
    assert (low, high) == pytest.approx((slope - half, slope + half))
    rough = trend.line(x, y + 30 * np.array([1, -1, -1, 1]), se)
    assert np.ptp(rough.per_unit()) > 5 * np.ptp(exact.per_unit())
    with pytest.raises(ValueError, match="three points"):
        trend.line([0, 1], [0, 1], [1, 1])
