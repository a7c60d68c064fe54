"""Where the best value of a hyper-parameter is, and how well that is known, cell by cell.

A sweep is a valley in log2 of the value, L = a + c q_k(x - x*), q_k(d) = 2 (e^kd - kd - 1) / k^2,
which rises faster on one side by k and is a parabola at k = 0. The interval of x* is its profile
likelihood with k free about zero. What a hyper-parameter's sweeps lie off such valleys beyond the
noise widens all of its intervals. An optimum that the sweep does not bracket has no value: it is
bounded from one side, or not at all.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.runs.names import CELL, settings
from analysis.stats.hyper_laws import IntervalLaw, from_log2, through_intervals, to_log2

ASYMMETRY = 0.7  # standard deviation of k: one octave up costs up to twice as much as one down
WINDOW = 2.1  # octaves about the best value within which a valley is local
CAP = 0.1  # nats above the best: runs further up say which side is worse and no more
STEP = 0.02  # octaves
_K = np.linspace(-1.5, 1.5, 31)


@dataclass(frozen=True)
class Optimum:
    """Where a one-dimensional sweep has its minimum, in log2 coordinates.

    x: estimate; NaN where the sweep does not bracket it (`side` says where it lies).
    low, high: 95 % interval; an infinite end is open.
    side: 0 bracketed; 1 at or above `low`, -1 at or below `high`; NaN where nothing is known.
    curvature: nats per (factor of two)^2, so d doublings off cost about curvature d^2;
    regret: expected excess loss of the best grid value (nats), and regret_high what it is at most
    (95 %); skew, bottom: k and a of the valley; all NaN where not bracketed.
    edge: "low", "high" or "", the side on which the best grid value is the last one.
    chi2, df: distance of the points from the valley in units of the noise, and what is left over.
    """

    x: float
    low: float
    high: float
    side: float
    curvature: float
    regret: float
    regret_high: float
    skew: float
    bottom: float
    edge: str
    points: int
    chi2: float
    df: int


def optimum(x, loss, sigma, *, level=0.95) -> Optimum | None:
    """The minimum of one sweep.

    Args:
      x: (n,) log2 coordinates; -inf for a value of zero. loss: (n,) nats; those that are not finite
        are left out.
      sigma: noise of one run, and of the points about a valley.

    Returns:
      None with fewer than two finite points: a single value says nothing about where the best is.
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    good = ~np.isnan(x) & (x < np.inf) & np.isfinite(loss)
    x, loss = x[good], loss[good]
    x, loss = (a[np.lexsort((loss, x))] for a in (x, loss))
    _, first = np.unique(x, return_index=True)  # the better of two runs at one value
    x, loss = x[first], loss[first]
    zero = len(x) > 0 and np.isneginf(x[0])
    below = zero and loss.argmin() == 0  # nothing positive is as good as zero
    x, loss = x[int(zero) :], loss[int(zero) :]
    if len(x) < 2:
        return None
    best = int(loss.argmin())
    edge = "low" if best == 0 or below else "high" if best == len(x) - 1 else ""
    place = np.arange(len(x))
    near = (np.abs(x - x[best]) <= WINDOW) & (loss <= loss[best] + CAP) | (abs(place - best) <= 1)
    x, loss, best = x[near], loss[near], x[best]
    at, penalty_KA, chi2_KA, curvature_KA, error_KA = _profile(x, loss, sigma)
    profile, within = penalty_KA.min(0), stats.chi2.ppf(level, 1)
    i = int(profile.argmin())
    k = int(penalty_KA[:, i].argmin())
    inside = at[profile <= profile[i] + within]
    low = inside.min() - STEP if inside.min() > at[0] else -np.inf
    high = inside.max() + STEP if inside.max() < at[-1] else np.inf
    if edge == "low":  # nothing lower was tried: how low it lies is not known
        low, high = -np.inf, max(high, best)
    elif edge == "high":
        low, high = min(low, best), np.inf
    open_low, open_high = np.isneginf(low), np.isposinf(high)
    side = np.nan if open_low and open_high else float(open_high) - float(open_low)
    bracketed = side == 0
    weight = np.exp(-(penalty_KA - profile[i]) / 2)
    rise_KA = valley(_K[:, None], best - at)
    left_KA = within - (penalty_KA - profile[i])  # by which the curvature may still be off
    most_KA = rise_KA * (curvature_KA + error_KA * np.sqrt(np.maximum(left_KA, 0)))
    curvature, skew = float(curvature_KA[k, i]), float(_K[k])
    bottom = float((loss - curvature * valley(skew, x - at[i])).mean())
    return Optimum(
        x=float(at[i]) if bracketed else np.nan,
        low=float(low),
        high=float(high),
        side=side,
        curvature=curvature if bracketed else np.nan,
        regret=float(np.average(curvature_KA * rise_KA, weights=weight)) if bracketed else np.nan,
        regret_high=float(most_KA[left_KA >= 0].max()) if bracketed else np.nan,
        skew=skew if bracketed else np.nan,
        bottom=bottom if bracketed else np.nan,
        edge=edge,
        points=len(x),
        chi2=float(chi2_KA[k, i]),
        df=max(len(x) - 3, 0),
    )


def valley(k, d):
    """q_k(d), the rise of a valley d octaves from its bottom; two terms of it where k is small."""
    kd, flat = np.clip(k * d, -30, 30), np.abs(k) < 1e-3
    return np.where(flat, d**2 * (1 + kd / 3), 2 / np.where(flat, 1, k) ** 2 * (np.expm1(kd) - kd))


def _profile(x, loss, sigma):
    """Vertices tried; by (k, vertex): penalised and plain chi-square, curvature and its error."""
    at = np.arange(x.min() - 3, x.max() + 3 + STEP / 2, STEP)
    rise_KAn = valley(_K[:, None, None], x - at[:, None])
    centred = rise_KAn - rise_KAn.mean(-1, keepdims=True)
    spread_KA = np.maximum((centred**2).sum(-1), 1e-12)
    curvature_KA = np.maximum((centred * loss).sum(-1) / spread_KA, 0)
    rest = loss - loss.mean() - curvature_KA[..., None] * centred
    chi2_KA = (rest**2).sum(-1) / sigma**2
    penalty_KA = chi2_KA + (_K[:, None] / ASYMMETRY) ** 2
    return at, penalty_KA, chi2_KA, curvature_KA, sigma / np.sqrt(spread_KA)


def optima(runs: pd.DataFrame, sigma) -> pd.DataFrame:
    """Optimum of every swept numeric hyper-parameter in every cell.

    Args:
      runs: CELL, loss and `hp_*`, all of one seed per cell; a sweep is the largest set of a cell's
        runs that differ in this hyper-parameter only.
      sigma: noise of one run, nats, or that of a race by its size and ratio.

    Returns:
      CELL, hyperparameter, value (NaN where not bracketed), low, high (0 or inf where open), best
      (grid value), misfit (factor on the noise of this hyper-parameter), and the fields of
      `Optimum`, x_low and x_high for low and high.
    """
    sigma_of = sigma if callable(sigma) else lambda *race: sigma
    found_sweeps = list(sweeps(runs))
    shapes = [(name, optimum(x, loss, sigma_of(*c[1:]))) for c, name, x, loss, _ in found_sweeps]
    misfit = _misfit([(name, found) for name, found in shapes if found])
    rows = []
    for (cell, name, x, loss, values), (_, found) in zip(found_sweeps, shapes, strict=True):
        factor = misfit.get(name, misfit[None])
        if found is not None and factor > 1:
            found = optimum(x, loss, factor * sigma_of(*cell[1:]))
        if found is None:
            continue
        value, low, high = from_log2(name, np.array([found.x, found.low, found.high]))
        row = dict(zip(CELL, cell, strict=True)) | {"hyperparameter": name}
        row |= vars(found) | {"x_low": found.low, "x_high": found.high, "misfit": factor}
        rows.append(row | {"value": value, "low": low, "high": high, "best": values[loss.argmin()]})
    columns = [*CELL, "hyperparameter", "value", "low", "high", "best", "misfit", "x", "x_low"]
    columns += ["x_high", "side", "curvature", "regret", "regret_high", "skew", "bottom", "edge"]
    columns += ["points"]
    return pd.DataFrame(rows, columns=columns)


def _misfit(shapes) -> dict:
    """How many times the noise a hyper-parameter's sweeps lie off their valleys; None: all of them.

    Only sweeps of four points and more can tell.
    """
    totals = {None: np.zeros(2)}
    for name, found in shapes:
        for key in (name, None):
            totals.setdefault(key, np.zeros(2))
            totals[key] += (found.chi2, found.df)
    checked = {key: (chi2, df) for key, (chi2, df) in totals.items() if df or key is None}
    return {key: max(1.0, np.sqrt(chi2 / max(df, 1))) for key, (chi2, df) in checked.items()}


def with_tuning(cells: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Cells whose errors carry what their settings may still lose to the optimum, `tuning` (nats).

    A cell's expected regrets are as large as their spread. Where a sweep does not bracket its
    optimum, the median regret of the same hyper-parameter stands in.
    """
    regret = found.regret.fillna(found.groupby("hyperparameter").regret.transform("median"))
    square = regret.fillna(0.0).pow(2).groupby([found[name] for name in CELL]).sum()
    square = square.reindex(pd.MultiIndex.from_frame(cells[CELL])).fillna(0.0).to_numpy(float)
    return cells.assign(se=np.sqrt(cells.se**2 + square), tuning=np.sqrt(square))


def sweeps(runs):
    """(cell, name, log2 values, losses, values) of the longest sweep of every hyper-parameter."""
    runs = runs[np.isfinite(runs.loss.astype(float))]
    names = [c for c in settings(runs) if pd.api.types.is_numeric_dtype(runs[c])]
    code = np.random.default_rng(0).integers(1, 2**40, len(names))
    for cell, group in runs.groupby(CELL, sort=False) if names else ():
        values = np.nan_to_num(group[names].to_numpy(float), nan=-1.0)
        loss = group.loss.to_numpy(float)
        index = np.column_stack([np.unique(c, return_inverse=True)[1] for c in values.T])
        for j in np.flatnonzero(index.max(0)):
            name = names[j].removeprefix("hp_")
            # runs that agree in everything but j share this number
            sweep = _longest_sweep(index @ code - index[:, j] * code[j], index[:, j], loss)
            value = values[sweep, j]
            yield cell, name, to_log2(name, np.where(value >= 0, value, np.nan)), loss[sweep], value


def _longest_sweep(rest, value, loss):
    """Rows with equal `rest`: the most distinct values, then the lowest loss."""
    groups = [np.flatnonzero(rest == r) for r in np.unique(rest)]
    return max(groups, key=lambda rows: (len(np.unique(value[rows])), -loss[rows].min()))


def law(found: pd.DataFrame, params) -> IntervalLaw | None:
    """The law over size and budget of one optimizer's optima of one hyper-parameter.

    Args:
      found: rows of `optima`. Those bounded from one side count as such; others are left out.
      params: non-embedding parameters of the rows.
    """
    known = found.side.notna().to_numpy()
    found, params = found[known], np.asarray(params, float)[known]
    if not len(found):
        return None
    side = found.side.to_numpy(float)
    bound = np.where(side > 0, found.x_low, found.x_high)
    # at an edge even odds lie at the last value tried; elsewhere the bound is all that is known
    best = to_log2(found.hyperparameter.iloc[0], found.best)
    middle = np.where((found.edge != "") & np.isfinite(best), best, bound)
    width = np.where(side == 0, found.x_high - found.x_low, 2 * np.abs(middle - bound))
    x = np.where(side == 0, found.x, middle)
    sd = np.maximum(width / 3.92, 0.05)
    return through_intervals(params, found.chinchilla_ratio, x, sd, side)
