"""Speed-up: the data AdamW needs for the same loss, divided by the data used."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimates.joint import BASELINE, EquivalentData
from analysis.estimates.loss_laws import fit_data_law
from analysis.stats import intervals, solver


def published_speedup(cells: pd.DataFrame, *, max_ratio=np.inf, baseline=BASELINE) -> pd.DataFrame:
    """The study's speed-ups: one AdamW data law per size, inverted at every other loss.

    Args:
      cells: one row per (optimizer, model_size, chinchilla_ratio) with its best `loss`.
      max_ratio: fit window; AdamW losses at larger ratios are left out of the fit.
      baseline: the optimizer the law is fitted to.

    Returns:
      optimizer, model_size, chinchilla_ratio, loss, equivalent_ratio, speedup, note. A loss at or
      below the fitted floor gives the lower bound r_max / r and says so; sizes with fewer than
      three baseline ratios give no rows.
    """
    rows = []
    for size, at_size in cells.groupby("model_size", sort=False):
        base = at_size[(at_size.optimizer == baseline) & (at_size.chinchilla_ratio <= max_ratio)]
        base = base[np.isfinite(base.loss)]
        if base.chinchilla_ratio.nunique() < 3:
            continue
        law, largest = (
            fit_data_law(base.chinchilla_ratio, base.loss),
            base.chinchilla_ratio.max(),
        )
        for cell in at_size[np.isfinite(at_size.loss)].itertuples():
            equivalent, note = float(law.data_for(cell.loss)), ""
            if not np.isfinite(equivalent):
                equivalent, note = float(largest), "lower bound: below the fitted floor"
            elif equivalent > largest:
                note = f"extrapolates {baseline} beyond {largest:g}x"
            rows.append(
                {
                    "optimizer": cell.optimizer,
                    "model_size": size,
                    "chinchilla_ratio": cell.chinchilla_ratio,
                    "loss": cell.loss,
                    "equivalent_ratio": equivalent,
                    "speedup": equivalent / cell.chinchilla_ratio,
                    "note": note,
                }
            )
    columns = ["optimizer", "model_size", "chinchilla_ratio", "loss", "equivalent_ratio", "speedup"]
    return pd.DataFrame(rows, columns=[*columns, "note"])


def robust_cell(
    cells: pd.DataFrame,
    noise,
    *,
    baseline=BASELINE,
    level=0.95,
    extrapolate=False,
    only=None,
) -> pd.DataFrame:
    """Speed-up of every cell by its size's own baseline curve, with profile-likelihood intervals.

    The interval carries the error of the cell and of every baseline cell: run noise, and how much
    cells scatter about their own smooth curves (tuning that stopped short, `own_curve_scatter`;
    left out where there are too few curves to tell). Beyond the baseline's largest budget the
    answer is a lower bound, never an extrapolation, and with fewer than three baseline ratios a
    bracket between measured losses.

    Args:
      cells: optimizer, model_size, chinchilla_ratio, loss, non_embedding_params, optionally `se`.
      noise: `noise.Noise` of one run.
      extrapolate: give the law's own value instead of the bound (sensitivity cards only).
      only: index labels of the cells to answer for; all by default.

    Returns:
      optimizer, model_size, chinchilla_ratio, speedup, low, high, bound ("", "lower", "upper"),
      note. An open end is infinite; `speedup` is always finite.
    """
    cells = cells[np.isfinite(cells.loss.astype(float))]
    if "se" not in cells:
        cells = cells.assign(se=noise.sigma)
    scatter, df = own_curve_scatter(cells), noise.df
    if scatter is not None and scatter.tau > 0:
        cells = cells.assign(se=np.hypot(cells.se, scatter.tau))
        df = min(df, scatter.curves)
    rows = []
    for size, at_size in cells.groupby("model_size", sort=False):
        base = at_size[at_size.optimizer == baseline].sort_values("chinchilla_ratio")
        others = at_size[at_size.optimizer != baseline]
        others = others if only is None else others[others.index.isin(only)]
        for cell in others.itertuples():
            if base.chinchilla_ratio.nunique() >= 3:
                answer = _profiled(cell, base, noise.sigma, df, level, extrapolate)
            elif len(base):
                answer = _bracketed(cell, base)
            else:
                continue  # nothing to compare with at this size
            rows.append(
                {
                    "optimizer": cell.optimizer,
                    "model_size": size,
                    "chinchilla_ratio": cell.chinchilla_ratio,
                    **answer,
                }
            )
    columns = ["optimizer", "model_size", "chinchilla_ratio"]
    columns += ["speedup", "low", "high", "bound", "note"]
    return pd.DataFrame(rows, columns=columns)


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
    for _, curve in cells.groupby(["optimizer", "model_size"], sort=False):
        n = len(curve)
        if curve.chinchilla_ratio.nunique() < 4:
            continue
        zero, loss = np.zeros(n, int), curve.loss.to_numpy(float)
        logr = np.log(curve.chinchilla_ratio.to_numpy(float))
        model = EquivalentData(zero, zero, logr - logr.mean(), np.zeros((n, 0)))
        starts = model.starts(loss, np.ones(n, bool), exponents=(0.2, 0.6))
        rest = 2 * solver.minimise(model, starts, loss).objective.min()
        # squared residual in units of the median of chi-square with these degrees of freedom
        found.append((rest / stats.chi2.median(n - 3), (curve.se**2).mean()))
    if len(found) < enough:
        return None
    squared, expected = np.array(found).T
    return Scatter(float(np.sqrt(max(np.median(squared) - np.median(expected), 0))), len(found))


def _profiled(cell, base, sigma, df, level, extrapolate):
    r, r_min, r_max = cell.chinchilla_ratio, *base.chinchilla_ratio.agg(["min", "max"])
    loss = np.append(base.loss.to_numpy(float), cell.loss)
    se = np.append(base.se.to_numpy(float), cell.se)
    ratio = np.append(base.chinchilla_ratio.to_numpy(float), r)
    is_base = np.arange(len(loss)) < len(base)
    zero = np.zeros(len(loss), int)
    logr = np.log(ratio) - np.log(ratio).mean()
    model = EquivalentData(zero, zero, logr, 1.0 - is_base[:, None])
    weight = (sigma / se) ** 2
    starts = model.starts(loss, is_base)
    solution = solver.minimise(model, starts, loss, weight=weight)
    theta = solution.theta[solution.objective.argmin()]
    low, high = np.exp(
        intervals.profile(
            model, theta, [0, 0, 0, 1], target=loss, variance=sigma**2, df=df,
            weight=weight, level=level,
        )
    )  # fmt: skip
    value, largest = float(np.exp(theta[3])), r_max / r
    if value > largest and not extrapolate:
        note = f"lower bound: {base.optimizer.iloc[0]} was not run beyond {r_max:g}x"
        if low <= 1 <= largest:
            note += "; " + unresolved(value, low, high)
        return {
            "speedup": largest,
            "low": float(min(low, largest)),
            "high": np.inf,
            "bound": "lower",
            "note": note,
        }
    notes = []
    if value * r < r_min:
        notes.append(f"extrapolates {base.optimizer.iloc[0]} below {r_min:g}x")
    if not np.isfinite(high):
        notes.append("no upper end")
    elif value > largest:
        notes.append(f"extrapolates {base.optimizer.iloc[0]} beyond {r_max:g}x")
    elif high > largest:
        notes.append(f"upper end extrapolates beyond {r_max:g}x")
    if low <= 1 <= high:
        notes.append(unresolved(value, low, high))
    return {"speedup": value, "low": low, "high": high, "bound": "", "note": "; ".join(notes)}


def _bracketed(cell, base):
    """Between which measured baseline losses does this one lie? No law is needed for that."""
    r = cell.chinchilla_ratio
    margin = 1.645 * np.hypot(base.se.to_numpy(float), cell.se)
    gap = base.loss.to_numpy(float) - cell.loss
    ratios = base.chinchilla_ratio.to_numpy(float)
    better, worse = ratios[gap > margin], ratios[gap < -margin]
    low = better.max() / r if len(better) else 0.0
    high = worse.min() / r if len(worse) else np.inf
    name = base.optimizer.iloc[0]
    note = (
        f"between measured losses: {len(ratios)} {name} ratio{'s' * (len(ratios) > 1)} fix no law"
    )
    if low:
        return {
            "speedup": low,
            "low": low,
            "high": high,
            "bound": "lower",
            "note": f"lower bound {note}",
        }
    if np.isfinite(high):
        return {
            "speedup": high,
            "low": low,
            "high": high,
            "bound": "upper",
            "note": f"upper bound {note}",
        }
    note += f"; not resolvable at this budget: within {margin.min():.2g} nats of every one"
    return {"speedup": 1.0, "low": 0.0, "high": np.inf, "bound": "none", "note": note}


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
