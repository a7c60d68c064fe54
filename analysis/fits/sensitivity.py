"""Which hyper-parameters need retuning with size and budget."""

import numpy as np
import pandas as pd
from scipy import stats

from analysis.fits.optima import by_race, law, sweeps
from analysis.runs.names import CELL

# Blocking is how block_size is switched off, not a second hyper-parameter (as in the study's file).
NOT_KEYS = ("hp_partition_grads_into_blocks",)


def sensitivity_test(runs, optima, sigma, *, rate=0.05, draws=300, seed=0) -> pd.DataFrame:
    """Which hyper-parameters need retuning, with a threshold that noise alone passes rarely.

    Two statistics share the rate. The loss that the best single value costs in its worst cell: its
    null distribution comes from redrawing the same sweeps flat, with noise sigma only, the best run
    of every cell being the luckiest of all its runs. And the trend of the optimum with size and
    ratio, beyond the scatter of the cells, where enough cells bracket it.

    Args:
      runs, sigma: as for `optima.optima`.
      optima: `optima.optima` of the runs.

    Returns:
      optimizer, hyperparameter, cost (nats), threshold (at rate / 2), p_value (of the cost),
      drift_p (of the trend; 1 where no trend can be fitted), sensitive, cells.
    """
    rng = np.random.default_rng(seed)
    params = runs.groupby("model_size").non_embedding_params.first()
    count = runs.groupby(CELL).size()
    tried = {}
    for cell, name, _, loss, values in sweeps(runs):
        if f"hp_{name}" not in NOT_KEYS:
            at = pd.Series(loss).groupby(values).min()
            tried.setdefault((cell[0], name), {})[cell] = at
    rows = []
    for (optimizer, name), by_cell in tried.items():
        table = pd.DataFrame(by_cell).T.dropna(axis=1)  # values tried in every cell
        if len(table) < 2 or table.shape[1] < 2:
            continue
        cost = _worst_cost(table.to_numpy()[None])[0]
        scale = np.array([by_race(sigma)(*cell[1:]) for cell in table.index])
        null = _worst_cost(scale[:, None] * _flat(rng, table, count, draws))
        threshold = float(np.quantile(null, 1 - rate / 2))
        mine = optima[(optima.optimizer == optimizer) & (optima.hyperparameter == name)]
        drift = _drift(mine, mine.model_size.map(params))
        p_value = float((1 + (null >= cost).sum()) / (1 + draws))
        sensitive = bool(cost > threshold or drift < rate / 2)
        rows.append((optimizer, name, cost, threshold, p_value, drift, sensitive, len(table)))
    columns = ["optimizer", "hyperparameter", "cost", "threshold", "p_value", "drift_p"]
    return pd.DataFrame(rows, columns=[*columns, "sensitive", "cells"])


def _worst_cost(loss_RCV):
    """The loss that the best single value costs in its worst cell."""
    return (loss_RCV - loss_RCV.min(2, keepdims=True)).max(1).min(1)


def _flat(rng, table, count, draws):
    """Sweeps without any effect: noise, and at each cell's best value the luck of all its runs."""
    flat = rng.standard_normal((draws, *table.shape))
    for c, cell in enumerate(table.index):
        best = int(table.iloc[c].to_numpy().argmin())
        flat[:, c, best] = rng.standard_normal((draws, count[cell])).min(1)
    return flat


def _drift(optima, params) -> float:
    """p-value of "the optimum does not move with size or ratio", by the law through the optima."""
    found = law(optima, params) if len(optima) else None
    if found is None:
        return 1.0
    trend = found.coefficients[1:]
    statistic = trend @ np.linalg.solve(found.covariance[1:, 1:], trend) / len(trend)
    return float(stats.f.sf(statistic, len(trend), found.df))
