"""The joint optimum of learning rate and batch size, and the race that finds it."""

import numpy as np
import pandas as pd
import pytest

from analysis.estimates.hyperparameters import Tuning, put_hyperparameters
from analysis.estimates.table import Rows
from analysis.fits import optima
from analysis.fits.ridge import decides, ridge
from benchmarks.planner import replay
from sweeps.plan import config as study_config
from sweeps.plan.cost import most_trials
from sweeps.plan.study import Study

SIGMA, STEEP = 1e-3, 0.0145
SQUARE = [a.ravel() for a in np.meshgrid((-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0))]


def paraboloid(x, y, best, slope, floor):
    return STEEP * (x - best[0] - slope * (y - best[1])) ** 2 + floor * (y - best[1]) ** 2


@pytest.mark.slow
def test_joint_intervals_cover_and_open_along_a_flat_ridge():
    rng, covered, known = np.random.default_rng(0), np.zeros(3), 0
    for _ in range(10):
        best, slope = rng.uniform(-0.5, 0.5, 2), rng.uniform(0, 1)
        loss = 3 + paraboloid(*SQUARE, best, slope, 0.006) + SIGMA * rng.standard_normal(9)
        (of_x, (s, *ends)), (of_y, _) = ridge(*SQUARE, loss, SIGMA)
        known += of_x.side == of_y.side == 0
        inside = ends[0] < slope < ends[1] and abs(s - slope) < 0.15
        covered += (of_x.low < best[0] < of_x.high, of_y.low < best[1] < of_y.high, inside)
    assert known >= 5 and (covered >= 8).all(), covered
    loss = 3 + paraboloid(*SQUARE, (0.0, 0.0), 0.5, 0.0)
    (of_x, (s, low, high)), (of_y, _) = ridge(*SQUARE, loss, SIGMA)
    assert low < 0.5 < high and high - low < 0.5  # the ridge is known, not the place on it
    assert np.isnan(of_y.side) and np.isnan(of_x.side) and np.isnan(of_x.x)


def test_a_star_says_nothing_of_a_ridge_and_one_run_off_it_does():
    x, y = np.array([0, -1, 1, 0, 0, 1.0]), np.array([0, 0, 0, -1, 1, 1.0])
    loss = 3 + paraboloid(x, y, (0.1, 0.2), 0.6, 0.008)
    assert not decides(x[:5], y[:5], loss[:5]) and decides(x, y, loss)
    loss[5] = 4.0  # too far above the best to be of its valley
    assert not decides(x, y, loss)


def race(pairs):
    """From two octaves off along a ridge that no change of one parameter can follow."""
    base = replay.synthetic({"mode": "published"}).config
    grids = {"learning_rate": replay.GRIDS["learning_rate"], "batch_size": [4, 8, 16, 32, 64]}
    start = {**replay.OPTIMUM, "learning_rate": 32e-3, "batch_size": 32}
    study = {**base, "optimizers": {"adamw": {"start": start, "grids": grids}}}
    study |= {"rule": {"mode": "published", "pairs": pairs}, "seeds": [0], "ratios": [1, 2]}
    study["phases"] = {"I": [["a", 1], ["a", 2], ["b", 1]]}
    return Study(study_config.complete(study))


@pytest.mark.parametrize("pairs", [False, True])
def test_a_race_with_pairs_follows_the_ridge_and_states_the_joint_optimum(pairs):
    study = race(pairs)
    truth = replay.landscape(
        study, draw=0, noise=5e-4, optimum={"learning_rate": 9e-3, "batch_size": 9},
        curvature={"learning_rate": 0.03, "batch_size": 0.035},
        interaction={("learning_rate", "batch_size"): -0.06},
    )  # fmt: skip
    state, results, _ = replay.play(study, truth)
    for cell, settled in state.settled.items():
        assert sum(trial.cell == cell for trial in results) <= most_trials(study)[cell]
        excess = truth.loss(cell, dict(settled.best)) - truth.loss(cell, truth.optimum)
        assert bool(settled.moves) == pairs and (excess < 0.005) == pairs
    rows = [
        {"optimizer": "adamw", "model_size": t.cell.size, "chinchilla_ratio": t.cell.ratio}
        | {"loss": run.loss, "non_embedding_params": float(study.params(t.cell.size))}
        | {f"hp_{name}": dict(t.point)[name] for name in ("learning_rate", "batch_size")}
        for t, run in results.items()
        if np.isfinite(run.loss)
    ]
    runs = pd.DataFrame(rows)
    found, table = optima.optima(runs, 5e-4), Rows()
    put_hyperparameters(table, Tuning(runs, found, lambda *_: 5e-4))
    numbers = table.frame()
    assert (numbers.quantity == "no_joint_optimum").any() != pairs
    assert len(numbers[numbers.table == "ridge"]) == (len(study.cells) if pairs else 0)
    if pairs:
        slopes = numbers[numbers.table == "ridge"]
        assert ((slopes.low <= 1) & (slopes.high >= 1)).mean() >= 0.8
        known = found[found.side == 0]
        best = known.hyperparameter.map(truth.optimum)
        assert len(known) >= 2 and ((known.low <= best) & (best <= known.high)).mean() >= 0.8
