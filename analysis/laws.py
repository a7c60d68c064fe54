"""Fits a loss law to any table of runs.

python -m analysis.laws FILE.csv --columns=params,tokens,loss [--out=numbers.csv]
"""

import argparse

import numpy as np
import pandas as pd

from analysis.estimates.table import Rows
from analysis.fits import lint
from analysis.fits.loss_laws import fit_law, leave_out
from analysis.stats import intervals


def law_numbers(table, columns, *, delta=1e-3, replicates=1000, seed=0) -> pd.DataFrame:
    """Fits a table of runs by Huber on log loss and by squares, as rows of numbers.csv.

    Args:
      table: one row per run; the last of `columns` is the loss, the others are the law's x.
      delta: Huber's threshold on log loss; 1e-3 is Hoffmann et al.'s.

    Returns:
      parameters with bootstrap intervals (whole runs drawn with replacement, every replicate
      refitted from several starts) and with profile-likelihood intervals, fit diagnostics, the
      error of predicting the top tenth in each x, the most influential points, and lint.
    """
    *names, loss_name = columns
    missing = [c for c in columns if c not in table]
    if missing or len(names) not in (1, 2):
        raise ValueError(
            f"columns: {missing or columns} not usable; one or two x columns and then the loss, "
            f"of {list(table)}"
        )
    rows, rng = Rows(), np.random.default_rng(seed)
    usable = table[list(columns)].apply(pd.to_numeric, errors="coerce")
    good = (np.isfinite(usable) & (usable > 0)).all(axis=1)
    for quantity, count, note in (
        ("left_out", (~good).sum(), "rows left out: not positive and finite"),
        ("duplicates", usable[good].duplicated().sum(), "repeated rows counted once"),
    ):
        if count:
            rows.put("input", "", quantity, count, note=note)
    usable = usable[good].drop_duplicates()
    x, loss = usable[names].to_numpy(float), usable[loss_name].to_numpy(float)
    form = "chinchilla" if len(names) == 2 else "power_law"
    for procedure, logarithmic, huber in (("huber", True, delta), ("squared", False, np.inf)):
        fit = fit_law(x, loss, columns=names, logarithmic=logarithmic, delta=huber)
        label = f"{form}_{procedure}"
        starts = fit.form.starts(loss, exponents=(0.2, 0.6))
        weight = intervals.cell_weights(np.arange(len(loss)), replicates, rng)
        theta, dropped = intervals.bootstrap(
            fit.form, fit.theta, target=fit.target, starts=starts, weight=weight, delta=huber
        )
        replicated = fit.parameters(theta)
        boots = f"{len(theta)} bootstraps, {dropped} did not converge"
        letters = ("E", "A", "alpha", "B", "beta") if len(names) == 2 else ("E", "A", "alpha")
        terms = [f"{A}/{x}^{a}" for A, x, a in zip("AB", names, ("alpha", "beta"), strict=False)]
        law = " + ".join(["E", *terms])
        if len(loss) < 5 * len(fit.theta):
            boots += "; few runs, the profile interval is the better one"
        for letter, (name, value) in zip(letters, fit.parameters().items(), strict=False):
            low, high = intervals.percentile(replicated[name])
            rows.put("law", label, name, value, low, high, f"{letter} in {law}; {boots}")
        if len(names) == 2:
            a, b = (f"exponent_{name}" for name in names)
            share = replicated[b] / (replicated[a] + replicated[b])
            value = fit.parameters()[b] / (fit.parameters()[a] + fit.parameters()[b])
            note = f"{names[0]} should grow as FLOPs to this power"
            rows.put("law", label, "optimal_share", value, *intervals.percentile(share), note)
        _profiles(rows, fit, label)
        for quantity in ("objective", "agreement", "condition", "share_linear"):
            rows.put("fit", label, quantity, getattr(fit, quantity))
        rows.put("fit", label, "points", len(loss))
        for name, values in zip(names, x.T, strict=True):
            top = values >= np.quantile(values, 0.9)
            held = leave_out(fit, np.where(top, "top", "rest")).query("group == 'top'").iloc[0]
            note = f"predicting the top tenth in {name} ({held.n:g} points) from the rest"
            rows.put("holdout", label, f"mean_error_{name}", held.mean_error, note=note)
            rows.put("holdout", label, f"mean_abs_error_{name}", held.mean_abs_error, note=note)
        moved = leave_out(fit, np.arange(len(loss)))
        for name in fit.names[2::2]:
            change = moved[name] - fit.parameters()[name]
            i = int(change.abs().idxmax())
            note = f"without the run at {', '.join(f'{v:.3g}' for v in x[i])}"
            rows.put("influence", label, name, change[i], note=note)
        for number, sentence in enumerate(lint.law(fit), 1):
            rows.put("lint", label, f"finding {number}", 1, note=sentence)
    return rows.frame()


def _profiles(rows, fit, label):
    """Profile intervals of the quantities that are coordinates of theta: floor and exponents."""
    variance = intervals.scale(fit.residuals, len(fit.theta), fit.delta)
    if not np.isfinite(variance):
        return
    for j, name in enumerate(fit.names):
        if name.startswith("amplitude"):
            continue  # at x = 1, far outside the data: the bootstrap says how little is known
        ends = intervals.profile(
            fit.form, fit.theta, np.eye(len(fit.theta))[j], target=fit.target,
            variance=variance, df=fit.degrees, delta=fit.delta,
        )  # fmt: skip
        low, high = np.exp(ends) if name == "floor" else ends
        rows.put("law", f"{label}_profile", name, fit.parameters()[name], low, high)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Fit a loss law to a table of runs.")
    parser.add_argument("file", help="CSV with a header; lines that start with # are skipped")
    parser.add_argument("--columns", default="params,tokens,loss", help="x columns, then the loss")
    parser.add_argument("--delta", type=float, default=1e-3, help="Huber threshold on log loss")
    parser.add_argument("--bootstraps", type=int, default=1000)
    parser.add_argument("--out", default="numbers.csv", help="write the rows here as CSV")
    arguments = parser.parse_args(argv)
    columns = arguments.columns.split(",")
    try:
        table = pd.read_csv(arguments.file, comment="#")
        numbers = law_numbers(
            table, columns, delta=arguments.delta, replicates=arguments.bootstraps
        )
    except (OSError, ValueError) as error:
        parser.exit(2, f"{arguments.file}: {error}\n")
    numbers.to_csv(arguments.out, index=False, lineterminator="\n")
    shown = ["table", "procedure", "quantity", "value", "low", "high", "note"]
    print(numbers[shown].to_string(index=False, na_rep="", float_format="{:.6g}".format))
    print(f"-> {arguments.out}")


if __name__ == "__main__":
    main()
