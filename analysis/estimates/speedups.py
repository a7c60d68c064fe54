"""The speed-ups of a study by three procedures, as rows of the long table.

The published formula takes the best losses as they are. `robust_cell` and `robust_joint` take fair
losses and carry the measured noise.
"""

import itertools
import warnings

import numpy as np

from analysis.estimates.comparisons import ERROR_RATE, headline_races, put_order
from analysis.estimates.table import Rows
from analysis.fits import advice
from analysis.fits.joint import JointFit, fit_joint
from analysis.fits.loss_laws import DataLaw, fit_data_law
from analysis.fits.speedup import published_speedup, robust_cell, unresolved
from analysis.runs.names import RACE, at
from analysis.stats.noise import Noise

FORMULA = "published_formula"


def put_published(rows: Rows, cells, baseline: str) -> None:
    """The baseline's data law of every size by the study's fit, and the speed-ups it gives.

    `freedom` is points minus parameters. A fit that failed, or that is no decreasing law, has a
    note, no numbers and no speed-ups.
    """
    observed = cells.assign(loss=cells.best_loss)
    for size, base in observed[observed.optimizer == baseline].groupby("model_size", sort=False):
        where = {"optimizer": baseline, "model_size": size}
        law, note = _data_law(base)
        rows.put("data_law", FORMULA, "ratios", len(base), note=note, **where)
        if law is None:
            continue
        residual = base.loss - law.loss(base.chinchilla_ratio)
        for quantity in ("alpha", "exponent", "floor"):
            rows.put("data_law", FORMULA, quantity, getattr(law, quantity), note=note, **where)
        rows.put("data_law", FORMULA, "freedom", len(base) - 3, **where)
        rows.put("data_law", FORMULA, "rms", np.sqrt((residual**2).mean()), **where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no covariance: `freedom` says so
            answers = published_speedup(observed[observed.model_size == size], baseline=baseline)
        for answer in answers[answers.optimizer != baseline].itertuples():
            rows.put("speedup", FORMULA, "ratio", answer.speedup, note=answer.note, **at(answer))


def _data_law(base) -> tuple[DataLaw | None, str]:
    if len(base) < 3:
        budgets = f"{len(base)} budget{'s' * (len(base) > 1)}"
        return None, f"{budgets}, and a law of three parameters needs three"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            law = fit_data_law(base.chinchilla_ratio, base.loss)
        except RuntimeError:  # did not converge
            law = None
    if law is None or not (law.alpha > 0 and law.exponent > 0):
        return None, "the losses do not follow a decreasing power law"
    note = "no degrees of freedom: the law passes through its three points"
    return law, note if len(base) == 3 else ""


def put_cells(rows: Rows, wide, noise: Noise, baseline: str) -> None:
    """Each cell by its own size's baseline curve; `wide` carries the scatter in its errors."""
    for answer in robust_cell(wide, noise, baseline=baseline).itertuples():
        rows.put(
            "speedup", "robust_cell", "ratio", answer.speedup, answer.low, answer.high,
            answer.note, answer.bound, **at(answer),
        )  # fmt: skip
    for size in wide.model_size.unique():
        base = wide[(wide.optimizer == baseline) & (wide.model_size == size)]
        if len(base) == 0:
            note = f"no {baseline} run at {size}: no speed-up can be stated there"
            rows.put("input", "", "no_baseline", 1, note=note, model_size=size)
        elif base.chinchilla_ratio.nunique() < 3:
            note = f"fewer than 3 {baseline} ratios: brackets instead of a law"
            where = {"optimizer": baseline, "model_size": size}
            rows.put("input", "", "few_ratios", len(base), note=note, **where)


def put_joint(rows: Rows, cells, noise: Noise, baseline: str) -> JointFit | None:
    """The joint model's speed-ups per cell and per size, trends, and who is faster at a size."""
    if "tuning" in cells:  # a search misses its optimum alike at all ratios of a size
        count = cells.groupby(["optimizer", "model_size"]).loss.transform("size")
        error = np.sqrt(cells.se**2 + (count - 1) * cells.tuning**2)
        cells = cells.assign(se=error, tuning=np.sqrt(count) * cells.tuning)
    try:
        fit = fit_joint(cells, noise.sd, noise_df=noise.df, baseline=baseline)
    except ValueError as error:
        rows.put("input", "robust_joint", "no_joint_model", 1, note=str(error))
        return None
    if not fit.converged:
        note = "the joint model did not converge"
        rows.put("input", "robust_joint", "no_joint_model", 1, note=note)
        return None
    params = fit.cells.groupby("model_size").non_embedding_params.first()
    _put_joint_cells(rows, fit, params)
    _put_joint_sizes(rows, fit, params)
    for name in fit.columns:
        decline = fit.decline(name)
        if decline is not None:
            value, ends, p = decline
            note = "" if p < 0.05 else "no trend with size resolved"
            rows.put("decline", "robust_joint", "per_doubling", value, *ends, note, optimizer=name)
            rows.put("decline", "robust_joint", "p_value", p, optimizer=name)
    p, note = fit.decline_test(), "all optimizers at once"
    rows.put("decline", "robust_joint", "p_value", p, note=note)
    rows.put("joint_law", "robust_joint", "p_shared_exponent", fit.shared_exponent_test())
    value, ends = fit.interval(np.eye(len(fit.theta))[2 * len(fit.sizes)])
    rows.put("joint_law", "robust_joint", "exponent", value, *ends, optimizer=baseline)
    note = "of cells, beyond the noise of their runs"
    rows.put("joint_law", "robust_joint", "scatter", fit.scatter, note=note)
    return fit


def _put_joint_cells(rows, fit, params):
    base = fit.cells[fit.cells.optimizer == fit.baseline]
    largest = base.groupby("model_size").chinchilla_ratio.max()
    headlines = {  # race -> level at which its intervals hold together
        tuple(race.iloc[0][RACE]): 1 - ERROR_RATE / max(len(race) - 1, 1)
        for race in headline_races(fit.cells)
    }
    for cell in fit.cells[fit.cells.optimizer != fit.baseline].itertuples():
        r, most = cell.chinchilla_ratio, largest[cell.model_size]
        value, (low, high) = fit.speedup(cell.optimizer, params[cell.model_size], r)
        bound = most / r
        if value > bound:
            note = f"lower bound: {fit.baseline} was not run beyond {most:g}x"
            if low <= 1 <= bound:
                note += "; " + unresolved(value, low, high)
            ends = (min(low, bound), None)
            rows.put("speedup", "robust_joint", "ratio", bound, *ends, note, "lower", **at(cell))
            note = f"the law, {value * r / most:.2f} times beyond the data"
            quantity = "ratio_extrapolated"
            rows.put("speedup", "robust_joint", quantity, value, low, high, note, **at(cell))
        else:
            note = "" if low > 1 or high < 1 else unresolved(value, low, high)
            rows.put("speedup", "robust_joint", "ratio", value, low, high, note, **at(cell))
        level = headlines.get((cell.model_size, r))
        if level is not None:  # by the law, beyond the baseline's data too
            _, ends = fit.speedup(cell.optimizer, params[cell.model_size], r, level)
            note = "simultaneous over the rivals of the race"
            note += f"; the law beyond {most:g}x" if value > bound else ""
            rows.put("speedup", "robust_joint", "ratio_together", value, *ends, note, **at(cell))


def _put_joint_sizes(rows, fit, params):
    for name, size in itertools.product(fit.columns, fit.sizes):
        mine = fit.cells[(fit.cells.optimizer == name) & (fit.cells.model_size == size)]
        if not len(mine):
            continue
        value, (low, high) = fit.speedup(name, params[size], fit.ratio0)
        note = f"at the middle ratio, {fit.ratio0:.3g}x"
        if low <= 1 <= high:
            claim = fit.contrast(name, params[size], fit.ratio0)
            extra = advice.cheapest(fit, claim, [name])
            note += f"; not resolvable at this budget; {advice.sentence(extra)}"
        where = {"optimizer": name, "model_size": size}
        rows.put("speedup", "robust_joint", "ratio", value, low, high, note, **where)
    for size in fit.sizes:
        names = list(dict.fromkeys(fit.cells.optimizer[fit.cells.model_size == size]))
        probabilities = {
            (a, b): fit.faster(a, b, params[size], fit.ratio0)
            for a, b in itertools.combinations(names, 2)
        }
        put_order(rows, "robust_joint", probabilities, model_size=size)
