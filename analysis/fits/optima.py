"""The best values of hyper-parameters, cell by cell, how well they are known, laws through them.

A sweep of one hyper-parameter runs through a valley (`fits.valley`); where learning rate and batch
size were moved together, their optimum is a joint one (`fits.ridge`). What the sweeps of a
hyper-parameter lie off their valleys beyond the noise widens all of its intervals.
"""

from functools import partial

import numpy as np
import pandas as pd

from analysis.fits.ridge import decides, ridge
from analysis.fits.valley import optimum
from analysis.runs.names import CELL, settings
from analysis.stats.hyper_laws import PAIR, IntervalLaw, from_log2, through_intervals, to_log2
from analysis.stats.noise import ENOUGH, Levels


def by_race(sigma):
    """The noise of a race by its size and ratio; one number is the same for all."""
    return sigma if callable(sigma) else lambda *race: sigma


def optima(runs: pd.DataFrame, sigma, winners: pd.DataFrame | None = None) -> pd.DataFrame:
    """Optimum of every swept numeric hyper-parameter in every cell.

    Args:
      runs: CELL, loss and `hp_*`, all of one seed per cell; a sweep is the largest set of a cell's
        runs that differ in this hyper-parameter only.
      sigma: noise of one run, nats, or that of a race by its size and ratio.
      winners: CELL, loss and `hp_*` of the runs whose regrets are stated; the best by default.

    Returns:
      CELL, hyperparameter, value (NaN where not bracketed), low, high (0 or inf where open), best
      (grid value), chosen (whose regret it is), misfit (factor on the noise of this
      hyper-parameter), the fields of `Optimum`, x_low and x_high for low and high; `slope` of a
      joint optimum's ridge (value, low, high), beside its learning rate, else None.
    """
    sigma_of = by_race(sigma)
    searches = list(_searches(runs, winners))
    first = [find(sigma_of(*cell[1:])) for cell, *_, find in searches]
    misfit = _misfit(
        [(s[1], found[0][0]) for s, found in zip(searches, first, strict=True) if found]
    )
    rows = []
    for (cell, names, best, mine, find), found in zip(searches, first, strict=True):
        factor = misfit.get(names, misfit[None])
        if found and factor > 1:
            found = find(factor * sigma_of(*cell[1:]))
        for name, value, used, (one, slope) in zip(names, best, mine, found, strict=False):
            at, low, high = from_log2(name, np.array([one.x, one.low, one.high]))
            row = dict(zip(CELL, cell, strict=True)) | {"hyperparameter": name} | vars(one)
            row |= {"x_low": one.low, "x_high": one.high, "slope": slope, "misfit": factor}
            row |= {"value": at, "low": low, "high": high, "best": value, "chosen": used}
            rows.append(row)
    columns = [*CELL, "hyperparameter", "value", "low", "high", "best", "chosen", "misfit", "x"]
    columns += [
        "x_low",
        "x_high",
        "side",
        "curvature",
        "regret",
        "regret_high",
        "skew",
        "bottom",
        "edge",
    ]
    columns += ["points", "slope"]
    return pd.DataFrame(rows, columns=columns)


def _searches(runs, winners):
    """(cell, names, best values, chosen values, find) of every plane and sweep; `find` takes sigma
    and gives an optimum and None for each name, or (); a plane's first has the slope of its ridge.
    """
    table = [] if winners is None else winners.to_dict("records")
    won = {tuple(winner[name] for name in CELL): winner for winner in table}

    def chosen(cell, names, values, loss):
        """The best values, and the winner's where its run is among these."""
        best, winner = tuple(values[loss.argmin()]), won.get(cell, {"loss": np.nan})
        mine = tuple(winner.get(f"hp_{name}") for name in names)
        runs = zip(values, np.isclose(loss, float(winner["loss"]), rtol=1e-9), strict=True)
        return best, mine if any(same and tuple(row) == mine for row, same in runs) else best

    joint = set()
    for cell, x, y, loss, values in planes(runs):
        joint.add(cell)
        best, mine = chosen(cell, PAIR, values, loss)
        at = tuple(float(to_log2(name, value)) for name, value in zip(PAIR, mine, strict=True))
        yield cell, PAIR, best, mine, partial(ridge, x, y, loss, chosen=at)
    for cell, name, x, loss, values in sweeps(runs):
        if not (cell in joint and name in PAIR):
            best, mine = chosen(cell, (name,), values[:, None], loss)
            at = float(to_log2(name, mine[0])) if mine[0] >= 0 else None
            yield cell, (name,), best, mine, partial(_alone, x, loss, chosen=at)


def _alone(x, loss, sigma, chosen):
    found = optimum(x, loss, sigma, chosen=chosen)
    return ((found, None),) if found else ()


def told_by_sweeps(noise: Levels, runs: pd.DataFrame) -> Levels:
    """The noise of a study. Where no setting but the winners' has two seeds, its residual is the
    scatter of the sweeps about their valleys, lack of fit included, if that has ENOUGH degrees of
    freedom.

    Args:
      runs: as for `optima`.
    """
    if not noise.bounded:
        return noise
    times, df = valley_scatter(runs, lambda *race: noise.at(*race).residual.sd)
    return noise.with_residual(times, df) if times < 1 and df >= ENOUGH else noise


def valley_scatter(runs: pd.DataFrame, sigma) -> tuple[float, float]:
    """How many times `sigma` the runs of all sweeps lie off their valleys, and the degrees of
    freedom that this rests on (0: nothing is left over to tell).

    Args:
      runs, sigma: as for `optima`.
    """
    sigma_of, found, times, free = by_race(sigma), list(sweeps(runs)), 1.0, 0.0
    for _ in range(4):  # how far a valley's asymmetry follows the points depends on the noise
        scale = [times * sigma_of(*cell[1:]) for cell, *_ in found]
        fits = [optimum(x, loss, s) for (_, _, x, loss, _), s in zip(found, scale, strict=True)]
        left = [(fit.chi2, fit.free) for fit in fits if fit is not None and fit.free > 0]
        chi2, free = map(sum, zip(*left, strict=True)) if left else (0.0, 0.0)
        if not chi2:
            return 1.0, 0.0
        times *= float(np.sqrt(chi2 / free))
    return times, float(free)


def _misfit(shapes) -> dict:
    """How many times the noise a search lies off its valleys, by its names; None: all of them.

    Only searches with a degree of freedom can tell.
    """
    totals = {None: np.zeros(2)}
    for names, found in shapes:
        for key in (names, None):
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
    for cell, names, values, loss, alike in _searched(runs):
        for j, name in enumerate(names):
            if (values[:, j] != values[0, j]).any():
                sweep = _largest(alike(j), values[:, j : j + 1], loss)
                value = values[sweep, j]
                yield (
                    cell,
                    name,
                    to_log2(name, np.where(value >= 0, value, np.nan)),
                    loss[sweep],
                    value,
                )


def planes(runs):
    """(cell, log2 learning rates, log2 batch sizes, losses, both values) of every cell that moved
    the two together, far enough to see the ridge between them.
    """
    for cell, names, values, loss, alike in _searched(runs):
        if not set(PAIR) <= set(names):
            continue
        j = [names.index(name) for name in PAIR]
        plane = _largest(alike(*j), values[:, j], loss)
        both = values[plane][:, j]
        x, y = (to_log2(n, np.where(v > 0, v, np.nan)) for n, v in zip(PAIR, both.T, strict=True))
        if decides(x, y, loss[plane]):
            yield cell, x, y, loss[plane], both


def _searched(runs):
    """cell, names, values (-1 where there is none), losses, and a function that numbers the runs
    which agree in everything but the columns it is given.
    """
    runs = runs[np.isfinite(runs.loss.astype(float))]
    columns = [c for c in settings(runs) if pd.api.types.is_numeric_dtype(runs[c])]
    names = [c.removeprefix("hp_") for c in columns]
    code = np.random.default_rng(0).integers(1, 2**40, len(names))
    for cell, group in runs.groupby(CELL, sort=False) if names else ():
        values = np.nan_to_num(group[columns].to_numpy(float), nan=-1.0)
        index = np.column_stack([np.unique(c, return_inverse=True)[1] for c in values.T])

        def alike(*but, index=index):
            return np.delete(index, but, 1) @ np.delete(code, but)

        yield cell, names, values, group.loss.to_numpy(float), alike


def _largest(rest, values, loss):
    """Rows with equal `rest`: the most distinct values, then the lowest loss."""
    groups = [np.flatnonzero(rest == r) for r in np.unique(rest)]
    return max(groups, key=lambda rows: (len(np.unique(values[rows], axis=0)), -loss[rows].min()))


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
