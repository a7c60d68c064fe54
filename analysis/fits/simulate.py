"""Synthetic studies with a known truth: what the intervals are tested against.

A study has the recorded one's cells, trials per cell and baseline curves. Speed-ups, exponent,
noise and tuning error are drawn; every cell's best of k noisy trials is all the analysis sees.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from analysis import published
from analysis.runs.names import BASELINE, CELL
from analysis.stats.noise import Levels, levels
from analysis.stats.selection import undo_selection

# Floors and slopes of the recorded AdamW curves, rounded: L = floor + alpha r^-B.
FLOOR = {"130m": 3.09, "300m": 2.90, "520m": 2.77, "1.2b": 2.66}
ALPHA = {"130m": 0.44, "300m": 0.36, "520m": 0.33, "1.2b": 0.245}
REFERENCE = (3.2e8, 2.83)  # parameters and ratio at which `log_rho` is stated
NULL_GROUPS, NULL_RUNS = 40, 3  # groups of runs that should agree, as the recorded study has


@dataclass(frozen=True)
class Truth:
    """log rho = u + v log2(N/N0) + w log2(r/r0) per optimizer; the baseline's are zero."""

    sigma: float
    tuning: float
    exponent: float
    log_rho: dict

    def speedup(self, optimizer, params, ratio):
        u, v, w = self.log_rho[optimizer]
        N0, r0 = REFERENCE
        return float(np.exp(u + v * np.log2(params / N0) + w * np.log2(ratio / r0)))

    def loss(self, optimizer, size, ratio):
        data = ratio * self.speedup(optimizer, published.PARAMS[size], ratio)
        return FLOOR[size] + ALPHA[size] * data**-self.exponent


@cache
def _grid():
    """The recorded study's cells with the number of trials of each."""
    runs = published.runs()
    count = runs[runs.status == "finished"].groupby(CELL).size().rename("trials")
    cells = published.best()[CELL].merge(count, on=CELL, how="left")
    return cells.fillna({"trials": 1}).astype({"trials": int})


def draw_truth(rng, *, sigma=1e-3, tuning=5e-4, baseline=BASELINE) -> Truth:
    """A study's truth: speed-ups of 0.9 to 1.4 whose logs change by a few percent per doubling."""
    names = dict.fromkeys(_grid().optimizer)
    log_rho = {
        name: (rng.uniform(-0.1, 0.35), rng.normal(0, 0.03), rng.normal(0, 0.02)) for name in names
    }
    log_rho[baseline] = (0.0, 0.0, 0.0)
    return Truth(sigma, tuning, rng.uniform(0.38, 0.5), log_rho)


def draw_trials(rng, truth: Truth) -> list[np.ndarray]:
    """Losses of every trial of every cell: (2, trials), expected and observed.

    The best setting of a cell misses the optimum by a uniform part of a x2 grid step, which costs
    `tuning` nats on average (three times that at most). A quarter of the other trials are as good
    as the best; the rest are worse by an exponential of mean 0.01 nats.
    """
    out = []
    for cell in _grid().itertuples():
        k = cell.trials
        missed = truth.tuning * 12 * rng.uniform(-0.5, 0.5) ** 2
        worse = rng.exponential(0.01, k) * (rng.random(k) > 0.25)
        worse[0] = 0.0
        best = truth.loss(cell.optimizer, cell.model_size, cell.chinchilla_ratio)
        expected = best + missed + worse
        out.append(np.stack([expected, expected + truth.sigma * rng.standard_normal(k)]))
    return out


def draw_noise(rng, truth: Truth) -> Levels:
    """The noise as the study would measure it, from groups of equivalent runs."""
    loss = truth.sigma * rng.standard_normal((NULL_GROUPS, NULL_RUNS))
    return levels([], {}, loss.tolist())


def draw_cells(rng, truth: Truth, noise: Levels) -> pd.DataFrame:
    """The table the procedures start from, as `estimates.losses.cell_losses` would make it from
    runs; `expected` is the loss of what was chosen, if it were run again.
    """
    cells = _grid()
    trials = draw_trials(rng, truth)
    width = max(t.shape[1] for t in trials)
    padded = [np.pad(t, ((0, 0), (0, width - t.shape[1])), constant_values=np.inf) for t in trials]
    expected, padded = np.array(padded).swapaxes(0, 1)
    loss, se = undo_selection(padded, noise.residual.sd)
    return cells.assign(
        loss=loss,
        se=se,
        best_loss=padded.min(1),
        expected=expected[np.arange(len(cells)), padded.argmin(1)],
        non_embedding_params=cells.model_size.map(published.PARAMS).astype(float),
    )
