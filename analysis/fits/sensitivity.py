"""Which hyper-parameters need retuning with size and budget."""

import numpy as np
import pandas as pd
from scipy import stats

from analysis.published import PARAMS
from analysis.runs.names import CELL, settings

DRIFT_FLOOR = 1 / 6  # doublings; what a local quadratic can be wrong by on a x2 grid
# Blocking is how block_size is switched off, not a second hyper-parameter (as in the study's file).
NOT_KEYS = ("hp_partition_grads_into_blocks",)


def sensitivity_test(runs, sigma, optima, *, rate=0.05, draws=300, seed=0) -> pd.DataFrame:
    """Which hyper-parameters need retuning, with a threshold that noise alone passes rarely.

    Two statistics share the rate. The loss that the best single value costs in its worst cell: its
    null distribution comes from redrawing the same sweeps flat, with noise sigma only. And the
    trend of the optimum's log2 over log2 N and log2 r, where three cells or more bound it.

    Args:
      optima: `optima.optima` of the runs.

    Returns:
      optimizer, hyperparameter, cost (nats), threshold (at rate / 2), p_value (of the cost),
      drift_p (of the trend; 1 where no trend can be fitted), sensitive, cells.
    """
    rng = np.random.default_rng(seed)
    rows = []
    runs = runs[np.isfinite(runs.loss.astype(float))]
    columns = [c for c in settings(runs) if c not in NOT_KEYS]
    for name, group in runs.groupby("optimizer", sort=False):
        for column in columns:
            sweep = group[group[column].notna()]
            best = sweep.groupby([*CELL[1:], column]).loss.min().unstack(column)
            best = best.dropna(axis=0, thresh=2).dropna(axis=1)  # values tried in every cell
            if len(best) < 2 or best.shape[1] < 2:
                continue
            gap = best.to_numpy() - best.to_numpy().min(1, keepdims=True)
            cost = gap.max(0).min()
            flat = sigma * rng.standard_normal((draws, *best.shape))
            null = (flat - flat.min(2, keepdims=True)).max(1).min(1)
            threshold = float(np.quantile(null, 1 - rate / 2))
            mine = (optima.optimizer == name) & (optima.hyperparameter == column[3:])
            drift = _drift(optima[mine])
            rows.append(
                {
                    "optimizer": name,
                    "hyperparameter": column.removeprefix("hp_"),
                    "cost": float(cost),
                    "threshold": threshold,
                    "p_value": float((1 + (null >= cost).sum()) / (1 + draws)),
                    "drift_p": drift,
                    "sensitive": bool(cost > threshold or drift < rate / 2),
                    "cells": len(best),
                }
            )
    columns = ["optimizer", "hyperparameter", "cost", "threshold", "p_value", "drift_p"]
    return pd.DataFrame(rows, columns=[*columns, "sensitive", "cells"])


def _drift(optima):
    """p-value of "the optimum does not move with size or ratio" from the cells that bound it."""
    bounded = optima[np.isfinite(optima.x_low) & np.isfinite(optima.x_high)]
    bounded = bounded[bounded.points >= 3]
    if len(bounded) < 3:
        return 1.0
    weight = 1 / (((bounded.x_high - bounded.x_low) / 3.92) ** 2 + DRIFT_FLOOR**2)
    size = bounded.model_size.map(_size_order(bounded.model_size))
    design = np.column_stack([np.ones(len(bounded)), size, np.log2(bounded.chinchilla_ratio)])
    design = design[:, [0, *(j for j in (1, 2) if np.ptp(design[:, j]) > 0)]]
    if design.shape[1] < 2 or np.linalg.matrix_rank(design) < design.shape[1]:
        return 1.0
    covariance = np.linalg.inv((design.T * weight.to_numpy()) @ design)
    trend = (covariance @ (design.T * weight.to_numpy()) @ bounded.x.to_numpy(float))[1:]
    statistic = trend @ np.linalg.solve(covariance[1:, 1:], trend)
    return float(stats.chi2.sf(statistic, len(trend)))


def _size_order(names):
    """log2 of the parameter count where it is known, else the order of appearance."""
    return {n: np.log2(PARAMS[n]) if n in PARAMS else i for i, n in enumerate(dict.fromkeys(names))}
