"""What to run next: the cheapest extra runs that would settle a claim the data leave open.

A candidate is m more seeds of one cell, of an optimizer's cells at one size, or of these and the
baseline's. A cell that exists keeps its scatter and tuning t however many seeds it gets: its
variance goes from t^2 + e^2 to t^2 + 1/(1/e^2 + m/s^2), with s the run noise; a new cell comes with
t^2 + s^2/m and what its race has in common. The weights D that this adds at gradients G turn the
covariance C into (C^-1 + G'DG)^-1. The estimate moves too, by what the variance shrinks: the chance
that its new interval leaves zero follows from both. Costs are 6 N D FLOPs.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.fits.joint import EquivalentData, JointFit
from analysis.published import TOKENS_PER_PARAM

POWER = 0.8  # least chance of settling the claim at which runs are advised
SEEDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Extra(NamedTuple):
    """`runs` seeds of each cell; `flops` in total; `power`: the chance that they settle it."""

    cells: tuple[tuple[str, str, float], ...]
    runs: int
    flops: float
    power: float


def cheapest(fit: JointFit, claim, optimizers, *, level=0.95) -> Extra | None:
    """The cheapest candidate after which the claim's interval excludes zero with chance POWER.

    Args:
      claim: (P,) contrast of `fit.theta`, such as `fit.contrast("muon", N, r)` or a difference.
      optimizers: whose runs to consider (the baseline is always considered).

    Returns:
      None when the claim is already settled, or when no candidate can settle it.
    """
    C, s2 = fit.covariance, fit.variance
    variance, effect = float(claim @ C @ claim), abs(float(claim @ fit.theta))
    critical = stats.t.ppf(0.5 + level / 2, fit.interval_df)
    if effect >= critical * np.sqrt(variance) or stats.norm.cdf(effect / variance**0.5) < POWER:
        return None
    params = fit.cells.groupby("model_size").non_embedding_params.first()
    found = []
    for cells in _candidates(fit, optimizers):
        once = sum(6 * float(params[s]) ** 2 * TOKENS_PER_PARAM * r for _, s, r in cells)
        G = np.array([_gradient(fit, *cell, params[cell[1]]) for cell in cells])
        CG = C @ G.T
        for m in SEEDS:
            if found and m * once >= min(extra.flops for extra in found):
                break
            added = np.array([_added_weight(fit, *cell, m) for cell in cells]) / s2
            inner = np.linalg.inv(np.diag(1 / added) + G @ CG)
            gain = float(claim @ CG @ inner @ CG.T @ claim)
            reach = effect - critical * np.sqrt(max(variance - gain, 0))
            power = float(stats.norm.cdf(reach / np.sqrt(max(gain, 1e-300))))
            if power >= POWER:
                found.append(Extra(cells, m, float(m * once), power))
                break
    return min(found, key=lambda extra: extra.flops) if found else None


def _candidates(fit, optimizers):
    """Single cells (one budget beyond the largest included), and rows of cells at one size."""
    ratios = sorted(fit.cells.chinchilla_ratio.unique())
    names = list(dict.fromkeys([*optimizers, fit.baseline]))
    at = fit.cells.groupby(["optimizer", "model_size"]).chinchilla_ratio.unique()
    for size in fit.sizes:
        rows = [
            tuple((name, size, float(r)) for r in at[name, size])
            for name in names
            if (name, size) in at.index
        ]
        yield from (((name, size, float(r)),) for name in names for r in [*ratios, 2 * ratios[-1]])
        yield from rows
        yield sum(rows, ())


def _here(fit, name, size, ratio) -> np.ndarray:
    cells = fit.cells
    race = (cells.model_size == size) & (cells.chinchilla_ratio == ratio)
    return np.flatnonzero(race & (cells.optimizer == name))


def _added_weight(fit, name, size, ratio, m) -> float:
    """What m more runs add to a cell's weight, of which one run without scatter has 1."""
    here, noise2 = _here(fit, name, size, ratio), fit.noise**2
    tuning2 = fit.cells.get("tuning", 0 * fit.cells.loss).to_numpy(float) ** 2
    if len(here):
        stays2 = fit.scatter**2 + tuning2[here[0]]
        after = 1 / (1 / (noise2 / fit.weight[here[0]] - stays2) + m / noise2)
        return noise2 / (stays2 + after) - fit.weight[here[0]]
    races = fit.model.races
    common2 = noise2 / np.median(fit.weight[-races:]) if races else 0.0
    return noise2 / (fit.scatter**2 + np.median(tuning2) + noise2 / m + common2)


def _gradient(fit, name, size, ratio, params) -> np.ndarray:
    """d loss / d theta of a cell, which need not have been run."""
    here, model, S = _here(fit, name, size, ratio), fit.model, len(fit.sizes)
    if len(here):
        return model(fit.theta[None])[1][0, here[0]]
    shared = 2 * S + 1 + model.X_nQ.shape[1]
    direction = fit.contrast(name, params, ratio)[2 * S + 1 : shared]
    point = EquivalentData(
        np.append(model.size_n, fit.sizes.index(size)),
        np.append(model.exponent_n, 0),
        np.append(model.logr_n, np.log(ratio / fit.ratio0)),
        np.vstack([model.X_nQ, direction]),
    )
    gradient = np.zeros(len(fit.theta))
    gradient[:shared] = point(fit.theta[None, :shared])[1][0, -1]
    return gradient


def sentence(extra: Extra | None) -> str:
    """The advice in words, for a note."""
    if extra is None:
        return "no more seeds of these cells would resolve it: new cells are needed"
    seeds = f"{extra.runs} seeds" if extra.runs > 1 else "one run"
    by_name = {}
    for name, size, ratio in extra.cells:
        by_name.setdefault((name, size), []).append(f"{ratio:g}x")
    cells = " and ".join(f"{n} {s} {', '.join(r)}" for (n, s), r in by_name.items())
    each = " each" if len(extra.cells) > 1 else ""
    return (
        f"cheapest that would, with a chance of {extra.power:.0%}: {seeds}{each} of {cells}"
        f" ({extra.flops:.2g} FLOPs)"
    )
