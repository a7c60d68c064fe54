"""Critical values that carry looks, and the seeds that a claim needs."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.stats import power, sequential
from analysis.stats.power import Design


def test_one_look_is_t_and_more_share_the_error():
    assert sequential.critical(0.05, 9) == pytest.approx(stats.t.ppf(0.975, 9))
    assert sequential.critical(0.05, 9, looks=5) == pytest.approx(stats.t.ppf(0.995, 9))
    assert sequential.critical(0.05, math.inf) == pytest.approx(stats.norm.ppf(0.975))
    assert math.isinf(sequential.critical(0.05, 0))


@pytest.mark.parametrize("n, df", [(5, 4), (20, 19), (10, 38), (8, math.inf)])
def test_at_any_time_the_bayes_factor_is_one_over_the_error(n, df):
    t = sequential.critical(0.05, df, looks=sequential.ANY, n=n)
    wide = 1 + n * sequential.EFFECT**2
    if math.isinf(df):
        log = t**2 / 2 * (1 - 1 / wide) - math.log(wide) / 2
    else:
        ratio = (1 + t**2 / df) / (1 + t**2 / (df * wide))
        log = (df + 1) / 2 * math.log(ratio) - math.log(wide) / 2
    assert log == pytest.approx(math.log(20), rel=1e-9)
    assert t > sequential.critical(0.05, df)


def test_two_seeds_settle_nothing_at_any_time():
    assert math.isinf(sequential.critical(0.05, 1, looks=sequential.ANY, n=2))


def test_stopping_steps_by_fixed_sequences():
    margin = [-9, -3, -1, 1, 2.5, 1.9, 3, 4]
    assert sequential.sure_from(margin, 2.0) == 6  # the pass before the failure does not count
    assert sequential.not_before(margin, 2.0) == 1
    assert sequential.sure_from([3, 3], 2.0) == 0 and sequential.sure_from([3, 1], 2.0) is None
    assert sequential.not_before([1, -5], 2.0) is None
    assert sequential.sure_from([3, math.nan, 3], 2.0) == 2


def test_the_largest_of_many_looks():
    rng = np.random.default_rng(1)
    one = rng.normal(size=(8, 1))
    t, bonferroni = (stats.t.ppf(1 - 0.025 / k, 7) for k in (1, 30))
    alike = sequential.largest_of(np.repeat(one, 30, 1), 7, 0.05)
    apart = sequential.largest_of(rng.normal(size=(8, 30)), 7, 0.05)
    assert alike == pytest.approx(t, rel=0.05)  # 10,000 draws place this quantile to 1 %
    assert t < apart <= bonferroni


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("looks", [1, 3, sequential.ANY])
def test_seeds_needed_are_the_fewest_with_the_power(paired, looks):
    design = Design(1.0, looks=looks, paired=paired)
    n = power.seeds_needed(1.2, design)
    assert power.power(1.2, n, design) >= 0.8 > power.power(1.2, n - 1, design)
    assert power.power(power.detectable(n, design), n, design) == pytest.approx(0.8, abs=1e-6)
    assert power.detectable(n, design) <= 1.2 < power.detectable(n - 1, design)


def test_power_agrees_with_the_noncentral_t():
    value = power.power(1.0, 10, Design(1.0))
    bar = stats.t.ppf(0.975, 18)
    assert value == pytest.approx(stats.nct.sf(bar, 18, math.sqrt(5)), rel=1e-6)
    assert power.seeds_needed(0.0, Design(1.0)) is None
    assert math.isinf(power.detectable(1, Design(1.0)))
