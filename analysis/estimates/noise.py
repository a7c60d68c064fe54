"""How much a loss moves when nothing that matters has changed, and what that does to a minimum.

Noise is measured from groups of runs that should agree: the same settings with other seeds, or
settings that differ only in an epsilon far below every gradient ("null changes"). The latter keep
seed and data order, so they bound the seed noise from below.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CELL = ["optimizer", "model_size", "chinchilla_ratio"]
NULL_KEYS = ("hp_epsilon", "hp_muon_epsilon", "hp_scion_epsilon")
NULL_LIMIT = 1e-10  # an epsilon at or below this cannot matter ...
NULL_EXCEPT = ("sophia",)  # ... except where it is the floor of the curvature


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one run's final loss (nats) with its 95 % interval.

    `df`: the chi-square degrees of freedom with the same relative error; inf if not measured.
    """

    sigma: float
    low: float
    high: float
    df: float
    groups: int
    source: str  # "seeds", "null changes" or "assumed"

    def __str__(self):
        return (
            f"sigma {self.sigma:.2g} nats ({self.low:.2g}-{self.high:.2g}; {self.source}, "
            f"{self.groups} groups)"
        )


def assumed(sigma: float) -> Noise:
    """A noise level taken on trust."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma: must be positive and finite, got {sigma}")
    return Noise(sigma, sigma, sigma, np.inf, 0, "assumed")


def from_seeds(runs: pd.DataFrame) -> Noise | None:
    """Pools the spread of runs that differ only in `seed`; None where there are none."""
    if "seed" not in runs or runs.seed.nunique() < 2:
        return None
    return _pool(runs, [*CELL, *_settings(runs)], "seed", "seeds")


def from_null_changes(runs: pd.DataFrame) -> Noise | None:
    """Pools the spread of runs of one seed that differ only in a negligible epsilon."""
    keys = [key for key in NULL_KEYS if key in runs]
    small = (runs[keys].isna() | (runs[keys] <= NULL_LIMIT)).all(axis=1)
    runs = runs[small & ~runs.optimizer.isin(NULL_EXCEPT)]
    rest = [name for name in _settings(runs) if name not in keys]
    seed = ["seed"] if "seed" in runs else []
    return _pool(runs, [*CELL, *seed, *rest], None, "null changes")


def measure(runs: pd.DataFrame) -> Noise | None:
    """Seeds where there are enough of them (4 degrees of freedom), else null changes, else None."""
    seeds = from_seeds(runs)
    if seeds is not None and seeds.df >= 4:
        return seeds
    return from_null_changes(runs) or seeds


def _settings(runs):
    return [name for name in runs if name.startswith("hp_")]


def _pool(runs, by, distinct, source):
    runs = runs[np.isfinite(runs.loss.astype(float))]
    if "status" in runs:
        runs = runs[runs.status == "finished"]
    groups = []
    for _, group in runs.groupby(by, dropna=False, sort=False):
        if distinct is not None:
            group = group.drop_duplicates(distinct)
        groups.append(group.loss.to_numpy(float))
    return from_groups(groups, source)


def from_groups(groups: list[np.ndarray], source: str) -> Noise | None:
    """Noise from groups of losses that should agree; None if no group has two distinct ones.

    Bit-identical losses count once: there the change never reached the arithmetic.
    """
    groups = [np.unique(group) for group in groups]
    deviations = [
        (loss - loss.mean()) * np.sqrt(len(loss) / (len(loss) - 1))
        for loss in groups
        if len(loss) > 1
    ]
    if not deviations:
        return None
    sigma = _robust_sigma(deviations)
    rng = np.random.default_rng(0)
    if len(deviations) < 5:  # too few groups to resample: chi-square with the pooled df
        df = float(sum(len(group) - 1 for group in deviations))
    else:
        draws = rng.integers(len(deviations), size=(200, len(deviations)))
        logs = np.log([_robust_sigma([deviations[i] for i in draw]) for draw in draws])
        df = float(1 / (2 * max(logs.var(), 1e-6)))
    low, high = sigma * np.sqrt(df / stats.chi2.ppf([0.975, 0.025], df))
    return Noise(float(sigma), float(low), float(high), df, len(deviations), source)


def _robust_sigma(groups):
    """Median absolute deviation; with under 20 degrees of freedom the root mean square.

    The median because mixed code versions leave a few groups far apart (see published/README.md).
    """
    value = np.concatenate(groups)  # each of variance sigma^2
    if len(value) - len(groups) >= 20:
        return np.median(np.abs(value)) / 0.6745
    weight = np.concatenate([np.full(len(g), (len(g) - 1) / len(g)) for g in groups])
    return np.sqrt((weight * value**2).sum() / weight.sum())


def undo_selection(losses_CK, sigma, *, grid=48, steps=8):
    """What the best of K noisy runs would give if it were run again.

    The true losses of a cell are deconvolved from the observed ones (Kiefer-Wolfowitz maximum
    likelihood by EM), and the posterior mean of the winner is immune to having been selected. Runs
    that are equally good pull the winner up to their mean; a winner far ahead stays where it is.

    Args:
      losses_CK: (C, K) finished losses of C cells, padded with inf or NaN.
      sigma: standard deviation of one run.

    Returns:
      loss_C (corrected) and error_C (its standard error, at most sigma).
    """
    losses_CK = np.sort(np.where(np.isfinite(losses_CK), losses_CK, np.inf), axis=1)
    best_C = losses_CK[:, 0]
    x_CK = (losses_CK - best_C[:, None]) / sigma
    near = x_CK < 8
    width = min(int(near.sum(1).max()), x_CK.shape[1])
    x_CK, near = np.where(near, x_CK, 99)[:, :width], near[:, :width]
    atoms_G = np.linspace(0, 8, grid)
    density_CKG = np.exp(-0.5 * (x_CK[..., None] - atoms_G) ** 2) * near[..., None]
    mass_CG = np.full((len(x_CK), grid), 1 / grid)
    for _ in range(steps):
        share = density_CKG * mass_CG[:, None]
        share /= np.maximum(share.sum(-1, keepdims=True), 1e-300)
        mass_CG = share.sum(1) / near.sum(1)[:, None]
    share = density_CKG * mass_CG[:, None]
    share /= np.maximum(share.sum(-1, keepdims=True), 1e-300)
    single = near.sum(1) == 1
    winner_CG = share[:, 0]
    shift = np.where(single, 0.0, winner_CG @ atoms_G)
    spread = winner_CG @ atoms_G**2 - (winner_CG @ atoms_G) ** 2
    pull_CK = np.einsum("cg,ckg->ck", winner_CG / np.maximum(share.sum(1), 1e-300), share)
    error = np.sqrt((pull_CK**2).sum(1) + spread)
    error = np.where(single, 1.0, error)
    return best_C + shift * sigma, error * sigma
