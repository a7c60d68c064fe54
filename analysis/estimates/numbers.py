"""Every number of a study in one long table: `numbers.csv`.

Columns: table, procedure, optimizer, model_size, chinchilla_ratio, quantity, value, low, high,
note. `value` is always finite. An empty end of an interval is open; the note says what the number
cannot carry. Procedures: the study's editions (`editions`), `robust_cell` (each size by its own
baseline curve) and `robust_joint` (one law for all, `joint`).
"""

import itertools

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimates import advice, lint, optima, sensitivity
from analysis.estimates import noise as noise_
from analysis.estimates.joint import BASELINE, fit_joint
from analysis.estimates.loss_laws import fit_law, leave_out
from analysis.estimates.speedup import own_curve_scatter, robust_cell, unresolved
from analysis.runs import cells as cells_
from analysis.stats import intervals

COLUMNS = ["table", "procedure", "optimizer", "model_size", "chinchilla_ratio"]
COLUMNS += ["quantity", "value", "low", "high", "note"]
STUDY_NOISE = 0.0011  # null changes of the recorded study; used, and said, where none is measured
ORDERED = 0.95  # probability above which one optimizer is called faster than another


class Rows(list):
    """Collects rows of numbers.csv; a value that is not finite never gets in."""

    def put(self, table, procedure, quantity, value, low=None, high=None, note="", **at):
        if value is None or not np.isfinite(value):
            return
        ends = [None if x is None or not np.isfinite(x) else float(x) for x in (low, high)]
        self.append(
            {
                "table": table,
                "procedure": procedure,
                "optimizer": at.get("optimizer", ""),
                "model_size": at.get("model_size", ""),
                "chinchilla_ratio": at.get("chinchilla_ratio"),
                "quantity": quantity,
                "value": float(value),
                "low": ends[0],
                "high": ends[1],
                "note": note,
            }
        )

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self, columns=COLUMNS)


def study_numbers(
    runs: pd.DataFrame, *, best=None, noise=None, baseline=BASELINE, cards=True
) -> pd.DataFrame:
    """All robust numbers of one study.

    Args:
      runs: one row per run: optimizer, model_size, chinchilla_ratio, loss; optionally status, seed,
        non_embedding_params, tokens, flops, seconds, optimizer_bytes and `hp_*`.
      best: CELL and loss of best runs that `runs` does not contain (the recorded study).
      noise: standard deviation of a run (nats) or a `noise.Noise`; measured where it is None.
      cards: also compute the sensitivity cards (most of the time).

    Raises:
      ValueError: a column that is missing or a value out of range, named.
    """
    rows = Rows()
    usable, problems = cells_.clean(runs)
    for quantity, count, sentence in problems:
        rows.put("input", "", quantity, count, note=sentence)
    noise = _noise(rows, usable, noise)
    cells = cells_.cell_losses(usable, noise, best=best)
    _losses(rows, cells, noise)
    _cell_speedups(rows, cells, noise, baseline)
    joint = _joint_speedups(rows, cells, noise, baseline)
    _costs(rows, usable, baseline)
    _order(rows, cells, joint, baseline)
    _hyperparameters(rows, usable, noise)
    if cards:
        _cards(rows, cells, noise, joint, baseline)
    _lint(rows, cells, noise, joint, baseline)
    return rows.frame()


def _noise(rows, runs, noise):
    if isinstance(noise, int | float):
        noise = noise_.assumed(float(noise))
    note = ""
    if noise is None:
        noise = noise_.measure(runs)
    if noise is None:
        noise = noise_.assumed(STUDY_NOISE)
        note = "assumed: no seeds and no null changes here; the recorded study's noise is used"
    note = note or f"{noise.source}, {noise.groups} groups"
    rows.put("noise", noise.source, "sigma", noise.sigma, noise.low, noise.high, note)
    return noise


def _losses(rows, cells, noise):
    for cell in cells.itertuples():
        at = _at(cell)
        half = 1.96 * cell.se
        how = f"best of {cell.trials}" + (f", {cell.repeats} re-runs" if cell.repeats else "")
        rows.put("loss", "observed", "loss", cell.best_loss, note=how, **at)
        low, high = cell.loss - half, cell.loss + half
        rows.put("loss", "selection_undone", "loss", cell.loss, low, high, how, **at)


def _cell_speedups(rows, cells, noise, baseline):
    scatter = own_curve_scatter(cells)
    if scatter is not None:
        note = f"of cells about their own curves, beyond noise; {scatter.curves} curves"
        rows.put("noise", "own curves", "scatter", scatter.tau, note=note)
    elif len(cells):
        note = "fewer than 8 curves of 4 ratios: robust_cell carries run noise, not tuning error"
        rows.put("input", "robust_cell", "no_scatter", 1, note=note)
    answers = robust_cell(cells, noise, baseline=baseline)
    for answer in answers.itertuples():
        rows.put(
            "speedup", "robust_cell", "ratio", answer.speedup, answer.low, answer.high,
            answer.note, **_at(answer),
        )  # fmt: skip
    for size in cells.model_size.unique():
        base = cells[(cells.optimizer == baseline) & (cells.model_size == size)]
        at = {"optimizer": baseline, "model_size": size}
        if len(base) == 0:
            note = f"no {baseline} run at {size}: no speed-up can be stated there"
            rows.put("input", "", "no_baseline", 1, note=note, model_size=size)
        elif base.chinchilla_ratio.nunique() < 3:
            note = f"fewer than 3 {baseline} ratios: brackets instead of a law"
            rows.put("input", "", "few_ratios", len(base), note=note, **at)


def _joint_speedups(rows, cells, noise, baseline):
    try:
        fit = fit_joint(cells, noise.sigma, baseline=baseline)
    except ValueError as error:
        rows.put("input", "robust_joint", "no_joint_model", 1, note=str(error))
        return None
    largest = fit.cells[fit.cells.optimizer == baseline].groupby("model_size").chinchilla_ratio
    largest = largest.max()
    params = fit.cells.groupby("model_size").non_embedding_params.first()
    for cell in fit.cells.itertuples():
        if cell.optimizer == baseline:
            continue
        at, r = _at(cell), cell.chinchilla_ratio
        value, (low, high) = fit.speedup(cell.optimizer, params[cell.model_size], r)
        bound = largest[cell.model_size] / r
        if value > bound:
            note = f"lower bound: {baseline} was not run beyond {largest[cell.model_size]:g}x"
            if low <= 1 <= bound:
                note += "; " + unresolved(value, low, high)
            rows.put("speedup", "robust_joint", "ratio", bound, min(low, bound), None, note, **at)
            note = f"the law, {value * r / largest[cell.model_size]:.2f} times beyond the data"
            rows.put("speedup", "robust_joint", "ratio_extrapolated", value, low, high, note, **at)
        else:
            note = "" if low > 1 or high < 1 else unresolved(value, low, high)
            rows.put("speedup", "robust_joint", "ratio", value, low, high, note, **at)
    for name, size in itertools.product(fit.columns, fit.sizes):
        at = {"optimizer": name, "model_size": size}
        mine = fit.cells[(fit.cells.optimizer == name) & (fit.cells.model_size == size)]
        if not len(mine):
            continue
        value, (low, high) = fit.speedup(name, params[size], fit.ratio0)
        note = f"at the middle ratio, {fit.ratio0:.3g}x"
        if low <= 1 <= high:
            claim = fit.contrast(name, params[size], fit.ratio0)
            extra = advice.cheapest(fit, claim, [name])
            note += f"; not resolvable at this budget; {advice.sentence(extra)}"
        rows.put("speedup", "robust_joint", "ratio", value, low, high, note, **at)
    for name in fit.columns:
        decline = fit.decline(name)
        if decline is not None:
            value, (low, high), p = decline
            note = f"factor of the speed-up per doubling of size; likelihood ratio p = {p:.2g}"
            rows.put(
                "decline", "robust_joint", "per_doubling", value, low, high, note, optimizer=name
            )
            rows.put("decline", "robust_joint", "p_value", p, optimizer=name)
    p = fit.decline_test()
    if p is not None:
        rows.put("decline", "robust_joint", "p_value", p, note="all optimizers at once")
    p = fit.shared_exponent_test()
    if p is not None:
        rows.put("joint_law", "robust_joint", "p_shared_exponent", p)
    value, (low, high) = fit.interval(np.eye(len(fit.theta))[2 * len(fit.sizes)])
    rows.put("joint_law", "robust_joint", "exponent", value, low, high, optimizer=baseline)
    note = "of cells, beyond the noise of their runs"
    rows.put("joint_law", "robust_joint", "scatter", fit.scatter, note=note)
    return fit


def _costs(rows, runs, baseline):
    ratios = [r for r in rows if r["table"] == "speedup" and r["quantity"] == "ratio"]
    for cost in cells_.costs(runs, baseline=baseline).itertuples():
        at = {"optimizer": cost.optimizer, "model_size": cost.model_size}
        note = "per token" if cost.quantity != "bytes" else "of optimizer state"
        rows.put("cost", "", cost.quantity, cost.factor, cost.low, cost.high, note, **at)
        if cost.quantity == "bytes":
            continue
        for r in ratios:
            if (r["optimizer"], r["model_size"]) != (cost.optimizer, cost.model_size):
                continue
            low, high = (None if x is None else x / cost.factor for x in (r["low"], r["high"]))
            at = {k: r[k] for k in ("optimizer", "model_size", "chinchilla_ratio")}
            rows.put(
                "speedup", r["procedure"], f"ratio_{cost.quantity}", r["value"] / cost.factor,
                low, high, r["note"], **at,
            )  # fmt: skip


def _order(rows, cells, joint, baseline):
    """Who is faster than whom: by loss in a cell, by rho at a size; and which stay unordered."""
    for (size, ratio), group in cells.groupby(["model_size", "chinchilla_ratio"], sort=False):
        pairs = itertools.combinations(group.itertuples(), 2)
        probabilities = {}
        for a, b in pairs:
            z = (b.loss - a.loss) / np.hypot(a.se, b.se)
            probabilities[a.optimizer, b.optimizer] = float(stats.norm.cdf(z))
        _put_order(rows, "robust_cell", probabilities, model_size=size, chinchilla_ratio=ratio)
    if joint is None:
        return
    params = joint.cells.groupby("model_size").non_embedding_params.first()
    for size in joint.sizes:
        names = list(dict.fromkeys(joint.cells.optimizer[joint.cells.model_size == size]))
        _put_order(
            rows,
            "robust_joint",
            {
                (a, b): joint.faster(a, b, params[size], joint.ratio0)
                for a, b in itertools.combinations(names, 2)
            },
            model_size=size,
        )


def _put_order(rows, procedure, probabilities, **at):
    open_pairs = []
    for (a, b), p in probabilities.items():
        note = "" if max(p, 1 - p) >= ORDERED else "not resolvable at this budget"
        if note:
            open_pairs.append(f"{a} and {b} ({max(p, 1 - p):.2f})")
        rows.put("order", procedure, f"p_faster_than_{b}", p, note=note, optimizer=a, **at)
        rows.put("order", procedure, f"p_faster_than_{a}", 1 - p, note=note, optimizer=b, **at)
    if open_pairs:
        note = "cannot order " + "; ".join(open_pairs)
        rows.put("order", procedure, "unordered_pairs", len(open_pairs), note=note, **at)


def _hyperparameters(rows, runs, noise):
    if not any(c.startswith("hp_") for c in runs):
        return
    found = optima.optima(runs, noise.sigma)
    for o in found.itertuples():
        low = o.low if np.isfinite(o.x_low) else None
        high = o.high if np.isfinite(o.x_high) else None
        words = [f"best of the grid {o.best:.6g}"]
        words += [f"at the {o.edge} edge of its grid"] if o.edge else []
        words += ["not bounded"] if low is None or high is None else []
        words += [f"regret {o.regret:.1g} nats"] if np.isfinite(o.regret) else []
        rows.put(
            "optimum", "robust", o.hyperparameter, o.value, low, high, "; ".join(words), **_at(o)
        )
    tests = sensitivity.sensitivity_test(runs, noise.sigma, optima=found)
    for t in tests.itertuples():
        note = (
            f"one value for {t.cells} cells costs {t.cost:.2g} nats; noise alone {t.threshold:.2g}"
        )
        rows.put(
            "sensitive", "robust", t.hyperparameter, float(t.sensitive),
            note=f"{note}; p = {t.p_value:.2g}", optimizer=t.optimizer,
        )  # fmt: skip


def headline_cells(cells, baseline=BASELINE) -> pd.DataFrame:
    """At each size the largest ratio that most optimizers ran and whose baseline law exists."""
    picked = []
    for _, group in cells.groupby("model_size", sort=False):
        base = group[group.optimizer == baseline]
        if base.chinchilla_ratio.nunique() < 3:
            continue
        count = group[group.optimizer != baseline].groupby("chinchilla_ratio").optimizer.nunique()
        if len(count):
            ratio = count.index[count >= count.max() / 2].max()
            picked.append(group[(group.optimizer != baseline) & (group.chinchilla_ratio == ratio)])
    return pd.concat(picked) if picked else cells.iloc[:0]


def _cards(rows, cells, noise, joint, baseline):
    observed = cells.assign(loss=cells.best_loss)
    without = None if joint is None else sensitivity.leave_out(joint)
    for cell in headline_cells(cells, baseline).itertuples():
        at = _at(cell)
        card = sensitivity.card(
            cells, noise, cell.optimizer, cell.model_size, cell.chinchilla_ratio,
            others={"as observed, selection not undone": observed}, joint=joint,
            without=without, baseline=baseline,
        )  # fmt: skip
        for c in card.itertuples():
            note = f"change {c.change:+.3f}"
            rows.put("card", c.group, c.choice, c.speedup, c.low, c.high, note, **at)
        widest = card.loc[card.change.abs().idxmax()]
        note = f"{widest.group}: {widest.choice} gives {widest.speedup:.3f}"
        rows.put("card", "summary", "largest_change", abs(widest.change), note=note, **at)


def _holdout(rows, cells, noise, baseline):
    """The additive law in N and D, asked for the largest size and the largest ratio unseen."""
    base = cells[cells.optimizer == baseline]
    N, r = base.non_embedding_params.to_numpy(float), base.chinchilla_ratio.to_numpy(float)
    if len(np.unique(N)) < 4 or len(np.unique(r)) < 4:
        return
    fit = fit_law(
        np.column_stack([N, r * N]), base.loss.to_numpy(float), columns=("params", "tokens")
    )
    rms = float(np.sqrt((fit.residuals**2).sum() / fit.degrees))
    note = f"run noise is {noise.sigma:.2g}"
    note += ": the additive form is misspecified" if rms > 3 * noise.sigma else ""
    rows.put("holdout", "additive_law", "rms", rms, note=note, optimizer=baseline)
    for what, values in (("largest size", N), ("largest ratio", r)):
        held = leave_out(fit, np.where(values == values.max(), "out", "in")).set_index("group")
        note = f"{held.n['out']} cells predicted from the rest"
        rows.put(
            "holdout", "additive_law", f"mean_abs_error, {what}", held.mean_abs_error["out"],
            note=note, optimizer=baseline,
        )  # fmt: skip


def _laws(rows, cells, noise, baseline):
    """The baseline's power laws with a floor: in the ratio at each size, in N at each ratio."""
    base = cells[cells.optimizer == baseline]
    for by, x in (("model_size", "chinchilla_ratio"), ("chinchilla_ratio", "non_embedding_params")):
        for key, group in base.groupby(by, sort=False):
            if group[x].nunique() < 3:
                continue
            weight = (noise.sigma / group.se.to_numpy(float)) ** 2
            fit = fit_law(group[x], group.loss, columns=(x,), weight=weight)
            at = {"optimizer": baseline, by: key}
            found = "; ".join([f"in {x}; intervals carry run noise only", *lint.law(fit)])
            for j, name in enumerate(fit.names):
                ends = (None, None)
                if not name.startswith("amplitude"):
                    ends = intervals.profile(
                        fit.form, fit.theta, np.eye(3)[j], target=fit.target,
                        variance=noise.sigma**2, df=noise.df, weight=weight,
                    )  # fmt: skip
                    ends = np.exp(ends) if name == "floor" else ends
                quantity = name.split("_")[0]
                value = fit.parameters()[name]
                rows.put("data_law", "robust", quantity, value, *ends, found, **at)


def _lint(rows, cells, noise, joint, baseline):
    _laws(rows, cells, noise, baseline)
    _holdout(rows, cells, noise, baseline)
    if joint is not None:
        for sentence in lint.joint(joint):
            rows.put("lint", "robust_joint", "finding", 1, note=sentence)
    for sentence in lint.effort(cells, baseline=baseline):
        rows.put("lint", "", "finding", 1, note=sentence)


def _at(row):
    at = {"optimizer": row.optimizer, "model_size": row.model_size}
    return at | {"chinchilla_ratio": row.chinchilla_ratio}
