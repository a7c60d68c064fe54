"""Published numbers against races of known truth: a small part of `make coverage`."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.stats import noise
from benchmarks.planner import calibration, truth


@pytest.fixture(scope="module")
def records():
    return pd.DataFrame([r for seed in range(3) for r in calibration.one_race(seed)])


@pytest.mark.slow
def test_published_numbers_hold(records):
    """Three races of both designs: fewer than the document's, so the errors are wide."""
    table = calibration.summary(records)
    assert calibration.wrong(table) == [], table.to_string()
    counts = table.set_index("quantity").numbers
    assert counts["gap of the optimizers"] >= 60 and counts["optimum"] >= 60


def test_the_races_of_the_document_hold():
    table = pd.read_csv(Path(__file__).parents[2] / "docs" / "coverage_races.csv")
    assert table.races.max() >= 78
    # half of them were played when a race's own level still counted as known
    out = [words for words in calibration.wrong(table) if "residual, by race" not in words]
    assert out == []
    shifted = table.assign(right=table.right - 0.1)
    assert len(calibration.wrong(shifted)) > 10


@pytest.mark.slow
def test_a_noise_that_is_too_small_is_caught(records, monkeypatch):
    measure = noise.levels
    monkeypatch.setattr(noise, "levels", lambda *a: noise._scaled(measure(*a), 0.3, 1e9))
    found = pd.DataFrame(calibration.one_race(1))
    assert calibration.wrong(calibration.summary(found))
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
