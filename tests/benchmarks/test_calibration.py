"""Published numbers against races of known truth: a small part of `make coverage`."""

import pandas as pd
import pytest

from analysis.stats import noise
from benchmarks.planner import calibration, truth


@pytest.fixture(scope="module")
def records():
    return pd.DataFrame([r for seed in range(4) for r in calibration.one_race(seed)])


def test_published_numbers_hold(records):
    """Four races of both designs; numbers of one race hang together, so the bounds are wide."""
    table = calibration.summary(records).set_index("quantity")
    for quantity in (
        "fair loss of the settings found",
        "gap of the optimizers",
        "speedup, robust_cell",
        "speedup, robust_joint",
        "optimum",
        "regret of the best value",
    ):
        assert table.numbers[quantity] >= 50 and table.right[quantity] > 0.85, table
    assert table.right["report without a false verdict"] >= 0.75
    again = pd.DataFrame(calibration.one_race(1))
    pd.testing.assert_frame_equal(again, records[records.race == 1].reset_index(drop=True))


def test_a_noise_that_is_too_small_is_caught(records, monkeypatch):
    measure = noise.levels
    monkeypatch.setattr(noise, "levels", lambda *a: noise._scaled(measure(*a), 0.3, 1e9))
    found = pd.DataFrame(calibration.one_race(1))
    levels = ("noise, total", "noise, paired", "noise, residual")
    assert records[records.race.eq(1) & records.quantity.isin(levels)].right.all()
    assert not found[found.quantity.isin(levels)].right.any()


def test_a_truth_is_what_it_says():
    one = truth.draw(3, ("learning_rate",))
    assert one.rho("adamw", "small", 2) == 1 == one.decline("adamw")
    best = {name: one.optimum("muon", "large", 2, name) for name in truth.START}
    assert one.expected("muon", "large", 2, best) == pytest.approx(one.lowest("muon", "large", 2))
    total, paired, residual = (one.spread(w, "small", 1) for w in ("total", "paired", "residual"))
    assert total > paired > residual == pytest.approx(one.residual)
    assert one.spread("total", "large", 4) < total
