"""Nominal 95 % intervals on synthetic studies: a small version of `make coverage`."""

import pandas as pd
import pytest

from analysis import coverage
from analysis.fits import simulate, speedup
from analysis.stats import noise


@pytest.mark.slow
def test_one_study_checks_every_kind_of_interval():
    records = pd.DataFrame(coverage.one_study(0, some=4))
    assert set(records.quantity) >= {
        "noise",
        "speedup, robust_cell",
        "speedup, robust_joint",
        "speedup at a size, robust_joint",
        "decline per doubling, robust_joint",
        "exponent, robust_joint",
        "joint fit converged",
        "optimum",
        "slope of a ridge",
        "loss of the best run, as observed",
        "loss of the best run, its luck taken out",
    }
    assert records.sigma.between(5e-4, 3e-3).all()
    again = pd.DataFrame(coverage.one_study(0, some=4))
    pd.testing.assert_frame_equal(records, again)


@pytest.mark.slow
def test_intervals_cover():
    table = coverage.coverage(12, bootstrap_every=0)
    whole = table[(table.sigma_low == 5e-4) & (table.sigma_high == 3e-3)].set_index("quantity")
    for quantity in (
        "speedup, robust_cell",
        "speedup, robust_joint",
        "decline per doubling, robust_joint",
        "optimum",
    ):
        row = whole.loc[quantity]
        share, error = row.coverage, max(row.error, (0.95 * 0.05 / row.intervals) ** 0.5)
        assert 0.92 - 2 * error < share < 0.97 + 2 * error, whole
    assert whole.coverage["joint fit converged"] == 1
    before, after = whole.filter(like="loss of the best run", axis=0).bias
    assert before < -0.8 and before < 2 * after < 0  # the winner's curse, and what is left of it


@pytest.mark.slow
def test_intervals_that_are_too_narrow_are_caught(monkeypatch):
    """Noise taken for a third of what it is, and no scatter to make up for it."""
    draw = simulate.draw_noise

    def thirded(rng, truth):
        return noise.assumed(draw(rng, truth).total.sd / 3)

    monkeypatch.setattr(simulate, "draw_noise", thirded)
    monkeypatch.setattr(speedup, "own_curve_scatter", lambda cells: None)
    records = [r for seed in range(4) for r in coverage.one_study(seed, some=16)]
    cells = pd.DataFrame(records).query("quantity == 'speedup, robust_cell'")
    assert len(cells) > 30 and cells.covered.mean() < 0.8
