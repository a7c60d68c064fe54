"""Fits a loss law to any table of runs.

    python -m analysis.laws runs.csv                                   columns params,tokens,loss
    python -m analysis.laws runs.csv --columns=tokens,loss             a law in one quantity
    python -m analysis.laws runs.csv --flops=1e21 --flops=1e22         best N and D at these budgets
    python -m analysis.laws runs.csv --delta=5e-3 --bootstraps=200 --out=laws.csv
    python -m analysis.laws runs.csv --figures=figures           fit, residuals, IsoFLOP curves

Two fits stand side by side: Huber's loss on log loss (Hoffmann et al.) and least squares on loss;
and two ways to the best model size of a budget: by the law, and by IsoFLOP curves. A number that
the table does not determine is withheld, and the reason stands in its place.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.estimates.table import Rows
from analysis.fits import gates, isoflop, lint
from analysis.fits.loss_laws import compute_optimal, fit_law, influence, leave_out
from analysis.pages.figures import laws as figures
from analysis.runs.csv_table import read_csv
from analysis.stats import intervals

LETTERS = ("E", "A", "alpha", "B", "beta")
GROUPS = 20  # of rows that are left out together: distinct values, or as many quantiles
SHOWN = 2000  # runs whose prediction is drawn
LEAST, MOST = 1e-12, 1e40  # of any quantity
CHUNK = 4_000_000  # weights of bootstrap replicates held at once


def fit_table(
    table, columns, *, delta=1e-3, replicates=1000, flops=(), seed=0, progress=None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fits a table of runs by Huber on log loss and by squares.

    Args:
      table: one row per run; the last of `columns` is the loss, the others are the law's x.
      delta: Huber's threshold on log loss; 1e-3 is Hoffmann et al.'s.
      flops: budgets to state the compute-optimal N and D for (columns params and tokens).
      progress: called with a sentence now and then.

    Returns:
      rows of numbers.csv: parameters with bootstrap intervals (whole runs drawn with replacement,
      every replicate refitted from several starts) and with profile-likelihood intervals, fit
      diagnostics, errors of predicting the top tenth in each x, the most influential runs and
      groups of runs, IsoFLOP curves, lint, and under `withheld` what the table does not determine;
      and what each fit predicts for the runs (SHOWN of them at most): procedure, x columns, loss,
      prediction, low, high (of the bootstrap).

    Raises:
      ValueError: columns that are not there, or a table that no law of this form fits.
    """
    *names, loss_name = columns
    missing = [c for c in columns if c not in table]
    if missing or len(names) not in (1, 2) or len(set(columns)) < len(columns):
        raise ValueError(
            f"columns: {missing or list(columns)} not usable; one or two x columns and then the"
            f" loss, of {list(table)}"
        )
    rows, rng = Rows(), np.random.default_rng(seed)
    usable = _usable(rows, table, columns)
    x, loss = usable[names].to_numpy(float), usable[loss_name].to_numpy(float)
    gates.before(x, loss, names)
    for number, sentence in enumerate(gates.units(x, loss, names), 1):
        rows.put("lint", "input", f"units {number}", 1, note=sentence)
    form, found, predicted = "chinchilla" if len(names) == 2 else "power_law", {}, []
    for procedure, logarithmic, huber in (("huber", True, delta), ("squared", False, np.inf)):
        label = f"{form}_{procedure}"
        fit = fit_law(x, loss, columns=names, logarithmic=logarithmic, delta=huber)
        if progress:
            progress(f"{label}: {len(loss)} rows, {fit.agreement:.0%} of the starts agree")
        withheld = gates.withheld(fit, x)
        theta, dropped = _bootstrap(fit, loss, replicates, rng, progress)
        found[label] = _put_law(rows, label, fit, theta, dropped, withheld, flops)
        _put_quality(rows, label, fit, x, withheld)
        predicted.append(_predictions(label, fit, theta, usable, names, loss_name))
    _put_disagreement(rows, *found.items())
    if names == ["params", "tokens"]:
        _put_isoflop(rows, isoflop.curves(*x.T, loss), flops)
    return rows.frame(), pd.concat(predicted, ignore_index=True)


def _predictions(label, fit, theta, usable, names, loss_name):
    """What a fit says of the runs, with its bootstrap band."""
    some = usable.sort_values(names).iloc[:: -(-len(usable) // SHOWN)]
    band = fit.loss(some[names].to_numpy(float), theta)
    low, high = np.quantile(band, [0.025, 0.975], axis=0)
    shown = some[names].assign(procedure=label, loss=some[loss_name])
    value = fit.loss(some[names].to_numpy(float))
    return shown.assign(prediction=value, low=low, high=high)


def _put_isoflop(rows, found, flops):
    """The best size at each budget that has a curve, and by their line at the budgets asked for."""
    for curve in found:
        bottom, many = curve.bottom, len(curve.rows)
        where = {1: "above", -1: "below"}.get(bottom.side)
        note = f"{many} runs" + (f"; the best size lies {where} those tried" if where else "")
        ends = np.exp2([bottom.low, bottom.high])
        value = np.exp2(bottom.x) if not where else ends[0] if bottom.side > 0 else ends[1]
        bound = {1: "lower", -1: "upper"}.get(bottom.side, "")
        quantity = f"params at {curve.flops:.3g} FLOPs"
        rows.put("isoflop", "curves", quantity, value, *ends, note, bound)
    line = isoflop.growth(found)
    if found and line is None:
        known = sum(curve.bottom.side == 0 for curve in found)
        note = f"{known} budgets have runs on both sides of their best size; a line needs 3"
        rows.put("withheld", "isoflop", "optimal_share", 1, note=note)
    if line is None:
        return
    note = f"params should grow as FLOPs to this power; through {line.df + 2} IsoFLOP curves"
    note += ", each weighing by its interval"
    rows.put("law", "isoflop", "optimal_share", *line.per_unit(), note)
    for budget in flops:
        params = np.exp2(line.at(np.log2(budget)))
        rows.put("compute_optimal", "isoflop", f"params at {budget:.3g} FLOPs", *params)
        tokens = (budget / 6 / params)[[0, 2, 1]]
        rows.put("compute_optimal", "isoflop", f"tokens at {budget:.3g} FLOPs", *tokens)


def _usable(rows, table, columns):
    """Rows of numbers between LEAST and MOST, each once; what was left out is said."""
    usable = table[list(columns)].apply(pd.to_numeric, errors="coerce")
    good = ((usable > LEAST) & (usable < MOST)).all(axis=1)
    if not good.any():
        raise ValueError(f"rows: none of {len(table)} has positive numbers in {', '.join(columns)}")
    for quantity, count, note in (
        ("left_out", (~good).sum(), "rows left out: no positive number that can be meant"),
        ("duplicates", usable[good].duplicated().sum(), "repeated rows counted once"),
    ):
        if count:
            rows.put("input", "", quantity, count, note=note)
    return usable[good].drop_duplicates()


def _bootstrap(fit, loss, replicates, rng, progress):
    """Replicates in chunks, so that a long table needs no more memory than a short one."""
    starts = fit.form.starts(loss, exponents=(0.2, 0.6)) if len(loss) < 5000 else None
    size = int(np.clip(CHUNK // len(loss), 1, replicates))
    kept, dropped = [], 0
    for first in range(0, replicates, size):
        many = min(size, replicates - first)
        weight = intervals.cell_weights(np.arange(len(loss)), many, rng)
        theta, lost = intervals.bootstrap(
            fit.form, fit.theta, target=fit.target, starts=starts, weight=weight, delta=fit.delta,
            batch=max(1, CHUNK // len(loss)),
        )  # fmt: skip
        kept.append(theta)
        dropped += lost
        if progress and size < replicates:
            progress(f"bootstrap {first + many} of {replicates}")
    return np.concatenate(kept), dropped


def _put_law(rows, label, fit, theta, dropped, withheld, flops) -> dict:
    """Parameters with both intervals, or why not; returns the intervals of those that are shown."""
    replicated, values, shown = fit.parameters(theta), fit.parameters(), {}
    terms = [f"{A}/{x}^{a}" for A, x, a in zip("AB", fit.columns, ("alpha", "beta"), strict=False)]
    how = f"Huber {fit.delta:g}" if np.isfinite(fit.delta) else "squares"
    how += f" of {'log ' * fit.form.logarithmic}loss, every run weighs the same"
    note = f"in {' + '.join(['E', *terms])}; {how}; {len(theta)} bootstraps"
    note += f", {dropped} did not converge" * bool(dropped)
    if len(fit.target) < 5 * len(fit.theta):
        note += "; few runs, the profile interval is the better one"
    profiles = _profiles(fit)
    numbers = {name: (values[name], replicated[name]) for name in fit.names}
    notes = dict(zip(fit.names, LETTERS, strict=False))
    if len(fit.columns) == 2:
        a, b = (f"exponent_{name}" for name in fit.columns)
        share = [kind[b] / (kind[a] + kind[b]) for kind in (values, replicated)]
        numbers["optimal_share"] = share
        notes["optimal_share"] = f"{fit.columns[0]} should grow as FLOPs to this power"
    for name, (value, replicates) in numbers.items():
        ends = intervals.percentile(replicates)
        reason = withheld.get(name) or gates.disagreement(value, ends, profiles.get(name))
        if reason:
            withheld[name] = reason
            rows.put("withheld", label, name, 1, note=reason)
            continue
        shown[name] = ends
        rows.put("law", label, name, value, *ends, f"{notes[name]} {note}")
        if name in profiles:
            rows.put("law", f"{label}_profile", name, value, *profiles[name], how)
    if tuple(fit.columns) == ("params", "tokens") and not withheld:
        for budget in flops:
            best, drawn = (compute_optimal(kind, budget) for kind in (values, replicated))
            for name, value, replicates in zip(fit.columns, best, drawn, strict=True):
                ends = intervals.percentile(replicates)
                quantity = f"{name} at {budget:.3g} FLOPs"
                rows.put("compute_optimal", label, quantity, value, *ends, how)
    return shown


def _profiles(fit) -> dict[str, intervals.Interval]:
    """Profile intervals of the quantities that are coordinates of theta: floor and exponents.

    Amplitudes are those at x = 1, far outside the data: the bootstrap says how little is known.
    """
    variance = intervals.scale(fit.residuals, len(fit.theta), fit.delta)
    found = {}
    for j, name in enumerate(fit.names):
        if np.isfinite(variance) and variance > 0 and not name.startswith("amplitude"):
            ends = intervals.profile(
                fit.form, fit.theta, np.eye(len(fit.theta))[j], target=fit.target,
                variance=variance, df=fit.degrees, delta=fit.delta,
            )  # fmt: skip
            found[name] = intervals.Interval(*np.exp(ends)) if name == "floor" else ends
    return found


def _put_quality(rows, label, fit, x, withheld):
    """Diagnostics, errors on the top tenth, influential runs and groups of runs, lint."""
    for quantity in ("objective", "agreement", "condition", "share_linear"):
        rows.put("fit", label, quantity, getattr(fit, quantity))
    rows.put("fit", label, "points", len(fit.target))
    moved = influence(fit)[:, 2::2]
    for k, (name, values) in enumerate(zip(fit.columns, x.T, strict=True)):
        exponent = f"exponent_{name}"
        top = np.where(values >= np.quantile(values, 0.9), "top", "rest")
        held = leave_out(fit, top).query("group == 'top'").iloc[0]
        note = f"predicting the top tenth in {name} ({held.n:g} points) from the rest"
        rows.put("holdout", label, f"mean_error_{name}", held.mean_error, note=note)
        rows.put("holdout", label, f"mean_abs_error_{name}", held.mean_abs_error, note=note)
        if exponent in withheld:
            continue
        i = int(np.abs(moved[:, k]).argmax())
        note = f"without the run at {', '.join(f'{v:.3g}' for v in x[i])} (first order)"
        rows.put("influence", label, exponent, moved[i, k], note=note)
        without = leave_out(fit, _groups(values))
        change = without[exponent] - fit.parameters()[exponent]
        i = int(change.abs().idxmax())
        note = f"without the {without.n[i]:g} runs at {name} {without.group[i]:.3g} and near"
        rows.put("influence", f"{label}_groups", exponent, change[i], note=note)
    for number, sentence in enumerate(lint.law(fit), 1):
        rows.put("lint", label, f"finding {number}", 1, note=sentence)


def _groups(values):
    """Rows that stand or fall together: equal values, or neighbours where there are too many."""
    distinct = np.unique(values)
    if len(distinct) <= GROUPS:
        return values
    edges = np.unique(np.quantile(values, np.linspace(0, 1, GROUPS + 1)[1:-1]))
    at = np.searchsorted(edges, values)
    return np.array([np.median(values[at == i]) if (at == i).any() else 0 for i in range(GROUPS)])[
        at
    ]


def _put_disagreement(rows, *found):
    """Parameters on which the two losses have no value in common."""
    (huber, first), (squared, second) = found
    for name in first.keys() & second.keys():
        if first[name].low > second[name].high or second[name].low > first[name].high:
            note = f"{huber} and {squared} have no value in common: heavy tails, or another form"
            rows.put("lint", "both", f"disagreement on {name}", 1, note=note)


def _draw(folder, numbers, predicted):
    """The figures that the table has something for."""
    figures.law_fit(predicted).save(folder / "law_fit")
    if (numbers.table == "isoflop").any():
        figures.isoflop(numbers, predicted).save(folder / "isoflop")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.laws",
        description="Fit a loss law to a table of runs.",
        epilog="examples:\n" + __doc__.split("\n\n")[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="CSV with a header; lines that start with # are skipped")
    parser.add_argument("--columns", default="params,tokens,loss", help="x columns, then the loss")
    parser.add_argument("--delta", type=float, default=1e-3, help="Huber threshold on log loss")
    parser.add_argument("--bootstraps", type=int, default=1000, help="replicates (default 1000)")
    parser.add_argument("--flops", type=float, action="append", default=[], help="a budget, 6 N D")
    parser.add_argument("--out", default="numbers.csv", help="write the rows here as CSV")
    parser.add_argument("--figures", metavar="DIR", help="an existing folder to draw in")
    arguments = parser.parse_args(argv)
    columns = [name.strip() for name in arguments.columns.split(",")]
    try:
        if not (1e-9 <= arguments.delta <= 10 and 0 < arguments.bootstraps <= 100_000):
            raise ValueError("--delta must lie in [1e-9, 10] and --bootstraps in [1, 100000]")
        if not all(1 <= budget < MOST for budget in arguments.flops):
            raise ValueError(f"--flops={arguments.flops}: each must lie in [1, {MOST:g})")
        folder = Path(arguments.out).parent
        if not folder.is_dir() or Path(arguments.out).is_dir():
            raise ValueError(f"--out: cannot write {arguments.out}")  # before the computation
        if arguments.figures and not Path(arguments.figures).is_dir():
            raise ValueError(f"--figures: no such folder: {arguments.figures}")
        numbers, predicted = fit_table(
            read_csv(arguments.file), columns, delta=arguments.delta,
            replicates=arguments.bootstraps, flops=arguments.flops,
            progress=lambda sentence: print(sentence, file=sys.stderr, flush=True),
        )  # fmt: skip
        numbers.to_csv(arguments.out, index=False, lineterminator="\n")
        if arguments.figures:
            _draw(Path(arguments.figures), numbers, predicted)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = ["table", "procedure", "quantity", "value", "low", "high", "note"]
    print(numbers[shown].to_string(index=False, na_rep="", float_format="{:.6g}".format))
    print(f"-> {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
