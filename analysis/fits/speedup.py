"""Speed-up: the data the baseline needs for the same loss, divided by the data used."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.fits.joint import EquivalentData, races
from analysis.fits.loss_laws import fit_data_law
from analysis.runs.names import BASELINE, CELL, at
from analysis.stats import intervals, solver
from analysis.stats.noise import Noise


def published_speedup(cells: pd.DataFrame, *, max_ratio=np.inf, baseline=BASELINE) -> pd.DataFrame:
    """The study's speed-ups: one baseline data law per size, inverted at every other loss.

    Args:
      cells: one row per (optimizer, model_size, chinchilla_ratio) with its best `loss`.
      max_ratio: fit window; baseline losses at larger ratios are left out of the fit.
      baseline: the optimizer the law is fitted to.

    Returns:
      CELL, loss, equivalent_ratio, speedup, note. A loss at or below the fitted floor gives the
      lower bound r_max / r and says so; sizes with fewer than three baseline ratios give no rows.
    """
    rows = []
    for _, at_size in cells.groupby("model_size", sort=False):
        base = at_size[(at_size.optimizer == baseline) & (at_size.chinchilla_ratio <= max_ratio)]
        base = base[np.isfinite(base.loss)]
        if base.chinchilla_ratio.nunique() < 3:
            continue
        law = fit_data_law(base.chinchilla_ratio, base.loss)
        largest = base.chinchilla_ratio.max()
        for cell in at_size[np.isfinite(at_size.loss)].itertuples():
            equivalent, note = float(law.data_for(cell.loss)), ""
            if not np.isfinite(equivalent):
                equivalent, note = float(largest), "lower bound: below the fitted floor"
            elif equivalent > largest:
                note = f"extrapolates {baseline} beyond {largest:g}x"
            speedup = equivalent / cell.chinchilla_ratio
            rows.append((*at(cell).values(), cell.loss, equivalent, speedup, note))
    return pd.DataFrame(rows, columns=[*CELL, "loss", "equivalent_ratio", "speedup", "note"])


class Scatter(NamedTuple):
    """tau: nats, of cells about their own curves beyond their standard errors; from how many."""

    tau: float
    curves: int


def own_curve_scatter(cells: pd.DataFrame, *, enough=8) -> Scatter | None:
    """How far cells lie off smooth curves, whoever they belong to.

    Every optimizer at every size with four or more ratios gets a power law with a floor of its own;
    what remains is noise plus tuning that stopped short. The median over curves, so that a few bad
    cells do not speak for all. None with fewer than `enough` curves.
    """
    found = []
    error = np.hypot(cells.se, cells.common_se) if "common_se" in cells else cells.se
    for _, curve in cells.assign(error=error).groupby(["optimizer", "model_size"], sort=False):
        n = len(curve)
        if curve.chinchilla_ratio.nunique() < 4:
            continue
        zero, loss = np.zeros(n, int), curve.loss.to_numpy(float)
        logr = np.log(curve.chinchilla_ratio.to_numpy(float))
        model = EquivalentData(zero, zero, logr - logr.mean(), np.zeros((n, 0)))
        starts = model.starts(loss, np.ones(n, bool), exponents=(0.2, 0.6))
        rest = 2 * solver.minimise(model, starts, loss).objective.min()
        # squared residual in units of the median of chi-square with these degrees of freedom
        found.append((rest / stats.chi2.median(n - 3), (curve.error**2).mean()))
    if len(found) < enough:
        return None
    squared, expected = np.array(found).T
    return Scatter(float(np.sqrt(max(np.median(squared) - np.median(expected), 0))), len(found))


def widened(cells: pd.DataFrame, noise: Noise) -> tuple[pd.DataFrame, Noise, Scatter | None]:
    """Cells whose errors carry the scatter of cells too, and noise with its degrees of freedom."""
    scatter = own_curve_scatter(cells)
    if scatter is None or not scatter.tau > 0:
        return cells, noise, scatter
    wide = cells.assign(se=np.hypot(cells.se, scatter.tau))
    return wide, Noise(noise.sd, min(noise.df, scatter.curves)), scatter


def robust_cell(
    cells: pd.DataFrame,
    noise: Noise,
    *,
    baseline=BASELINE,
    level=0.95,
    extrapolate=False,
    only=None,
) -> pd.DataFrame:
    """Speed-up of every cell by its size's own baseline curve, with profile-likelihood intervals.

    The interval carries the error of the cell and of every baseline cell. Beyond the baseline's
    largest budget the answer is a lower bound, never an extrapolation, and with fewer than three
    baseline ratios a bracket between measured losses.

    Args:
      cells: CELL, loss, se (see `widened`) and optionally common_se.
      noise: of one run; its degrees of freedom are those of the intervals.
      extrapolate: give the law's own value instead of the bound (sensitivity cards only).
      only: index labels of the cells to answer for; all by default.

    Returns:
      CELL, speedup, low, high, bound ("", "lower", "upper", "none"), note. An open end is infinite;
      `speedup` is always finite.
    """
    cells = cells[np.isfinite(cells.loss.astype(float))]
    rows = []
    for _, at_size in cells.groupby("model_size", sort=False):
        base = at_size[at_size.optimizer == baseline].sort_values("chinchilla_ratio")
        others = at_size[at_size.optimizer != baseline]
        others = others if only is None else others[others.index.isin(only)]
        for index in others.index if len(base) else ():
            both = pd.concat([base, others.loc[[index]]])
            if base.chinchilla_ratio.nunique() >= 3:
                answer = _profiled(both, noise, level, extrapolate)
            else:
                answer = _bracketed(both, noise, level)
            rows.append((*at(both.iloc[-1]).values(), *answer))
    return pd.DataFrame(rows, columns=[*CELL, "speedup", "low", "high", "bound", "note"])


def _profiled(both, noise, level, extrapolate):
    """The last row's speed-up as a free parameter of the curve through the others."""
    name, r = both.optimizer.iloc[0], both.chinchilla_ratio.iloc[-1]
    r_min, r_max = both.chinchilla_ratio.iloc[:-1].agg(["min", "max"])
    loss, n = both.loss.to_numpy(float), len(both)
    logr = np.log(both.chinchilla_ratio.to_numpy(float))
    is_base = np.arange(n) < n - 1
    race_n, common2 = races(both)
    zero = np.zeros(n, int)
    model = EquivalentData(zero, zero, logr - logr.mean(), 1.0 - is_base[:, None], race_n)
    weight = noise.sd**2 / np.concatenate([both.se.to_numpy(float) ** 2, common2])
    target = np.concatenate([loss, np.zeros(len(common2))])
    solution = solver.minimise(model, model.starts(loss, is_base), target, weight=weight)
    theta = solution.theta[solution.objective.argmin()]
    low, high = np.exp(
        intervals.profile(
            model, theta, np.eye(len(theta))[3], target=target, variance=noise.sd**2,
            df=noise.df, weight=weight, level=level,
        )
    )  # fmt: skip
    value, largest = float(np.exp(theta[3])), r_max / r
    if value > largest and not extrapolate:
        note = f"lower bound: {name} was not run beyond {r_max:g}x"
        if low <= 1 <= largest:
            note += "; " + unresolved(value, low, high)
        return largest, min(low, largest), np.inf, "lower", note
    notes = []
    if value * r < r_min:
        notes.append(f"extrapolates {name} below {r_min:g}x")
    if not np.isfinite(high):
        notes.append("no upper end")
    elif value > largest:
        notes.append(f"extrapolates {name} beyond {r_max:g}x")
    elif high > largest:
        notes.append(f"upper end extrapolates beyond {r_max:g}x")
    if low <= 1 <= high:
        notes.append(unresolved(value, low, high))
    return value, low, high, "", "; ".join(notes)


def _bracketed(both, noise, level):
    """Between which measured baseline losses does the last row lie? No law is needed for that."""
    base, cell = both.iloc[:-1], both.iloc[-1]
    r, ratios = cell.chinchilla_ratio, base.chinchilla_ratio.to_numpy(float)
    apart = np.where(ratios == r, 0.0, 2**0.5 * both.get("common_se", pd.Series([0.0])).iloc[-1])
    # each side of the bracket is one of so many one-sided comparisons
    critical = noise.quantile(1 - (1 - level) / len(base))
    margin = critical * np.sqrt(base.se.to_numpy(float) ** 2 + cell.se**2 + apart**2)
    gap = base.loss.to_numpy(float) - cell.loss
    better, worse = ratios[gap > margin], ratios[gap < -margin]
    low = better.max() / r if len(better) else 0.0
    high = worse.min() / r if len(worse) else np.inf
    count = f"{len(ratios)} {base.optimizer.iloc[0]} ratio{'s' * (len(ratios) > 1)}"
    note = f"between measured losses: {count} fix no law"
    if low:
        return low, low, high, "lower", f"lower bound {note}"
    if np.isfinite(high):
        return high, low, high, "upper", f"upper bound {note}"
    note += f"; not resolvable at this budget: within {margin.min():.2g} nats of every one"
    return 1.0, 0.0, np.inf, "none", note


def unresolved(value, low, high) -> str:
    """What "not resolvable" costs: how many times the seeds, for this estimate to leave 1.

    Half-widths shrink as one over the square root of the seeds of every cell involved.
    """
    effect = np.log(value)
    half = np.log(high / value) if effect < 0 else np.log(value / max(low, 1e-12))
    if not np.isfinite(half) or abs(effect) * 10 < half:
        return "not resolvable at this budget: more than 100 times the seeds of every cell would"
    times = max(2, int(np.ceil((half / abs(effect)) ** 2)))
    return f"not resolvable at this budget: about {times} times the seeds of every cell would"
