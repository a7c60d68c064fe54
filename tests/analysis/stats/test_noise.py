"""A run's residual from two-way layouts, null changes and what was known before."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from analysis.stats import noise


def test_noise_of_a_two_way_layout_leaves_seeds_and_points_out():
    rows = [[p + s for s in (0.0, 0.3, -0.2)] for p in (3.0, 3.1, 3.4)]
    square, df = noise.layout_scatter(rows)
    assert df == 4 and square == pytest.approx(0, abs=1e-24)
    rng = random.Random(0)
    total = degrees = 0
    for _ in range(400):
        seeds = [rng.gauss(0, 0.05) for _ in range(4)]
        rows = [
            [p + s + rng.gauss(0, 1e-3) for s in seeds[:n]] for p, n in ((3, 4), (4, 4), (5, 2))
        ]
        square, df = noise.layout_scatter(rows)
        total, degrees = total + square, degrees + df
    assert degrees == 400 * 3
    assert math.sqrt(total / degrees) == pytest.approx(1e-3, rel=0.05)
    assert noise.layout_scatter([[1.0], [2.0]]) == noise.layout_scatter([[1.0, 2.0]]) == (0.0, 0)


def test_noise_estimates():
    assert noise.scatter([[1.0, 3.0], [5.0], [2.0, 2.0, 2.0]]) == (2.0, 3)
    rows = [[1.0, 3.0], [2.0, 3.0]]  # residuals of a quarter
    assert noise.estimate([rows]) == noise.Noise(0.5, 1)
    moderated = noise.estimate([rows], prior=noise.Noise(1.0, 3))
    assert moderated == noise.Noise(math.sqrt((0.25 + 3) / 4), 4)
    assert noise.estimate([]).margin(0.05, 1) == math.inf
    losses = {
        (("a", 1), ("epsilon", 1e-20)): 3.0,
        (("a", 1), ("epsilon", 1e-15)): 3.002,
        (("a", 2), ("epsilon", 1e-15)): 4.0,
        (("a", 1), ("epsilon", 1e-6)): 9.0,
    }
    assert noise.null_groups(losses) == [[3.0, 3.002], [4.0]]
    identical = {point: 3.0 for point in losses}
    assert noise.scatter(noise.null_groups(identical)) == (0.0, 0)
    nulls = noise.estimate([], [[3.0, 3.002]], prior=noise.Noise(1e-4, 5))
    assert nulls.sd == pytest.approx(0.002 / math.sqrt(2)) and nulls.df == 1
    near = noise.estimate([], [[3.0, 3.002]], prior=noise.Noise(1.2e-3, 5))
    assert near == pytest.approx((math.sqrt((5 * 1.2e-3**2 + 2e-6) / 6), 6))
    assert noise.estimate([], [[3.0, 3.0001]], prior=noise.Noise(1e-3, 5)) == (1e-3, 5)
    known = noise.Noise(1e-3, 1e9).margin(0.05, 1)
    assert known == pytest.approx(1.6449e-3 * math.sqrt(2), rel=1e-3)
    assert noise.Noise(1e-3, 9).margin(0.05, 4) == pytest.approx(
        noise.Noise(1e-3, 9).margin(0.05, 1) / 2
    )


def race(rng, sd, seeds=6, optimizers=4, carried=0.5):
    """Losses by optimizer and seed; a share of the seeds' variance is common to all."""
    common = rng.normal(0, sd * carried**0.5, seeds)
    own = rng.normal(0, sd * (1 - carried) ** 0.5, (optimizers, seeds))
    return (3.0 + common + own).tolist()


def test_bartletts_test_is_bartletts():
    rng = np.random.default_rng(0)
    samples = [rng.normal(0, 1 + (i == 2), n) for i, n in enumerate((5, 9, 7))]
    squares = [(((x - x.mean()) ** 2).sum(), len(x) - 1) for x in samples]
    assert noise.bartlett([squares]) == pytest.approx(stats.bartlett(*samples).pvalue)
    assert noise.bartlett([squares[:1], []]) == 1.0


def test_sizes_and_ratios_are_told_apart_where_they_differ():
    """Each race's own level then lies near the truth, which the pooled one does not."""
    own, pooled, split, falsely = [], [], 0, 0
    for draw in range(60):
        rng = np.random.default_rng(draw)
        sd = {("small", r): 0.02 for r in (1, 2, 4)} | {("large", r): 0.005 for r in (1, 2, 4)}
        rows = {key: race(rng, value) for key, value in sd.items()}
        found = noise.levels(rows.values(), rows, [])
        split += bool(found.races)
        own += [math.log(found.at(*key).total.sd / value) for key, value in sd.items()]
        pooled += [math.log(found.total.sd / value) for key, value in sd.items()]
        same = {key: race(rng, 0.01) for key in sd}
        falsely += bool(noise.levels(same.values(), same, []).races)
    assert split == 60 and falsely <= 60 * (2 * noise.APART + 0.15)
    assert np.sqrt(np.mean(np.square(own))) < 0.25 < np.sqrt(np.mean(np.square(pooled)))


def test_a_residual_that_only_winners_bound_may_come_from_the_sweeps():
    """Two races of unequal noise, and no setting beside the winners with two seeds."""
    rng = np.random.default_rng(0)
    races = {("s", 1): race(rng, 0.04, seeds=9), ("l", 1): race(rng, 0.01, seeds=9)}
    level = noise.levels([[row] for rows in races.values() for row in rows], races, [])
    assert level.bounded and len(level.races) == 2
    other = level.with_residual(0.2, 12)
    assert other.by_sweeps and not other.bounded and other.residual.df == 12
    for key in races:
        assert other.at(*key).residual.sd == pytest.approx(0.2 * level.at(*key).paired.sd)
        assert other.at(*key).paired == level.at(*key).paired
        assert other.at(*key).residual.df < min(12, level.at(*key).paired.df)


@pytest.mark.parametrize("carried", [0.0, 0.95])
def test_the_interval_of_the_total_knows_that_seeds_are_shared(carried):
    inside, share = 0, 0
    for draw in range(400):
        rng = np.random.default_rng(draw)
        rows = {("s", r): race(rng, 0.01, carried=carried) for r in (1, 2)}
        found = noise.levels(rows.values(), rows, [])
        low, high = found.total.interval()
        inside += low <= 0.01 <= high
        share += found.carries[0] <= carried <= found.carries[1]
    assert 0.92 < inside / 400 < 0.99  # a binomial of 0.95 and 400 has 0.011
    assert 0.92 < share / 400 < 0.99
