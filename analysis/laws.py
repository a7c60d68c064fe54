"""Laws of the loss: power laws with a floor in one or several quantities.

    L = floor + sum_k amplitude_k (x_k / centre_k)^-exponent_k

with one x (data at fixed size, or size at fixed ratio) or two (Chinchilla's parameters and tokens).
The study's own form and procedure come first; `fit_law` is the robust one. Any table of runs:

    python -m analysis.laws FILE.csv --columns=params,tokens,loss [--out=numbers.csv]
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.optimize import OptimizeWarning, curve_fit

from analysis.stats import solver


@dataclass(frozen=True)
class DataLaw:
    """L(r) = alpha r^-exponent + floor; r the Chinchilla ratio (or tokens), L in nats per token."""

    alpha: float
    exponent: float
    floor: float

    def loss(self, ratio):
        return self.alpha * np.asarray(ratio, float) ** -self.exponent + self.floor

    def data_for(self, loss):
        """The ratio at which this law reaches `loss`; infinite at or below the floor, never NaN."""
        gap = np.asarray(loss, float) - self.floor
        reachable = gap > 0
        ratio = (np.where(reachable, gap, 1.0) / self.alpha) ** (-1 / self.exponent)
        return np.where(reachable, ratio, np.inf)


def fit_data_law(ratio, loss) -> DataLaw:
    """The study's fit: unweighted least squares from one start, on one size's AdamW losses.

    Three parameters on four or five points: a reproduction, not a recommendation.

    Args:
      ratio: (n,) Chinchilla ratios (or tokens), n >= 3.
      loss: (n,) best losses in nats per token.

    Raises:
      ValueError: fewer than three distinct ratios, or a loss that is not finite.
    """
    ratio, loss = np.asarray(ratio, float), np.asarray(loss, float)
    if len(np.unique(ratio)) < 3:
        raise ValueError(f"ratio: a data law needs 3 distinct ratios, got {sorted(set(ratio))}")
    if not np.isfinite(loss).all():
        raise ValueError(f"loss: must be finite, got {loss}")
    order = np.argsort(ratio)
    ratio, loss = ratio[order], loss[order]
    start = [loss[0] - loss[-1], 0.5, loss[-1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # three points leave no covariance
        (alpha, exponent, floor), _ = curve_fit(_power_law, ratio, loss, p0=start)
    return DataLaw(alpha, exponent, floor)


def _power_law(ratio, alpha, exponent, floor):
    return alpha * ratio**-exponent + floor


@dataclass(frozen=True)
class Form:
    """The sum of powers as a batched model. theta = (log floor, log amplitude_k, exponent_k ...).

    Logs are centred at the geometric mean of each x, which is what keeps the problem conditioned:
    amplitudes are then the size of each term in the middle of the data.
    """

    logx_nK: np.ndarray  # centred
    logarithmic: bool  # predict log L (approach 3 of Hoffmann et al.) or L itself

    def __call__(self, theta):
        K = self.logx_nK.shape[1]
        exponent_SnK = theta[:, None, 2::2]
        term_SnK = np.exp(np.minimum(theta[:, None, 1::2] - exponent_SnK * self.logx_nK, 300))
        floor_Sn = np.exp(np.minimum(theta[:, :1], 300)) + 0 * term_SnK[..., 0]
        loss_Sn = floor_Sn + term_SnK.sum(-1)
        jacobian = np.empty((*loss_Sn.shape, 1 + 2 * K))
        jacobian[..., 0] = floor_Sn
        jacobian[..., 1::2] = term_SnK
        jacobian[..., 2::2] = -term_SnK * self.logx_nK
        if not self.logarithmic:
            return loss_Sn, jacobian
        return np.log(loss_Sn), jacobian / loss_Sn[..., None]

    def starts(self, loss, exponents=(0.1, 0.2, 0.3, 0.45, 0.65, 0.9)) -> np.ndarray:
        """Variable projection: on a grid of exponents the rest is a linear least squares.

        Coefficients that come out negative are lifted to a tenth of the mean loss.
        """
        K = self.logx_nK.shape[1]
        grid_SK = np.stack(np.meshgrid(*[exponents] * K, indexing="ij"), -1).reshape(-1, K)
        theta = np.empty((len(grid_SK), 1 + 2 * K))
        for row, exponent_K in zip(theta, grid_SK, strict=True):
            basis = np.column_stack([np.ones(len(loss)), np.exp(-exponent_K * self.logx_nK)])
            relative = basis / (loss[:, None] if self.logarithmic else 1.0)
            target = np.ones_like(loss) if self.logarithmic else loss
            linear = np.linalg.lstsq(relative, target, rcond=None)[0]
            linear = np.log(np.maximum(linear, 0.1 * loss.mean()))
            row[0], row[1::2], row[2::2] = linear[0], linear[1:], exponent_K
        return theta


@dataclass(frozen=True)
class LawFit:
    """A fitted law. `theta` is in `Form`'s coordinates; `parameters()` in everyone else's."""

    columns: tuple[str, ...]
    form: Form
    centre_K: np.ndarray
    theta: np.ndarray
    objective: float
    delta: float
    agreement: float  # share of the starts that reached this optimum
    converged: bool
    condition: float  # of the scaled normal matrix
    share_linear: float  # points outside Huber's quadratic part
    target: np.ndarray = field(repr=False)
    start: np.ndarray = field(repr=False)  # the start that led here

    @property
    def names(self) -> tuple[str, ...]:
        each = [(f"amplitude_{c}", f"exponent_{c}") for c in self.columns]
        return ("floor", *[name for pair in each for name in pair])

    def parameters(self, theta=None) -> dict[str, np.ndarray | float]:
        """floor, amplitude_<x> (of x in its own units, so A in A x^-alpha) and exponent_<x>."""
        theta = self.theta if theta is None else np.asarray(theta)
        out = {"floor": np.exp(theta[..., 0])}
        for k, column in enumerate(self.columns):
            exponent = theta[..., 2 + 2 * k]
            out[f"amplitude_{column}"] = np.exp(
                theta[..., 1 + 2 * k] + exponent * np.log(self.centre_K[k])
            )
            out[f"exponent_{column}"] = exponent
        return out

    def loss(self, x, theta=None):
        """Predicted loss at x (m, K) or (m,); with `theta` (S, P) a batch of predictions (S, m)."""
        logx = np.log(np.asarray(x, float).reshape(-1, len(self.columns)) / self.centre_K)
        batch = np.atleast_2d(self.theta if theta is None else theta)
        prediction = Form(logx, logarithmic=False)(batch)[0]
        return prediction[0] if theta is None else prediction

    @property
    def degrees(self) -> int:
        """Degrees of freedom left."""
        return len(self.target) - len(self.theta)

    @property
    def residuals(self) -> np.ndarray:
        return self.target - self.form(self.theta[None])[0][0]


def fit_law(
    x, loss, *, columns=("x",), logarithmic=False, delta=np.inf, weight=None, starts=None
) -> LawFit:
    """Fits the sum of powers from every start on the grid and reports how many agree.

    Args:
      x: (n,) or (n, K) positive quantities, named by `columns`.
      loss: (n,) nats per token.
      logarithmic: fit log L instead of L.
      delta: Huber's threshold, in nats (or in log loss); inf is least squares.
      weight: (n,) optional weights of the points.

    Raises:
      ValueError: naming the column with a value that is not positive and finite, or saying which
        quantity has too few distinct values for its power.
    """
    x = np.asarray(x, float).reshape(len(loss), -1)
    loss = np.asarray(loss, float)
    if x.shape[1] != len(columns):
        raise ValueError(f"columns: {len(columns)} names for {x.shape[1]} columns of x")
    for name, values in (*zip(columns, x.T, strict=True), ("loss", loss)):
        if not (np.isfinite(values) & (values > 0)).all():
            worst = values[~(np.isfinite(values) & (values > 0))][0]
            raise ValueError(f"{name}: must be positive and finite, got {worst}")
    for name, values in zip(columns, x.T, strict=True):
        if len(np.unique(values)) < 3:
            raise ValueError(f"{name}: a power with a floor needs 3 distinct values")
    if len(loss) < 1 + 2 * len(columns):
        raise ValueError(f"loss: {1 + 2 * len(columns)} parameters need as many points")
    centre_K = np.exp(np.log(x).mean(0))
    form = Form(np.log(x / centre_K), logarithmic)
    target = np.log(loss) if logarithmic else loss
    theta0 = form.starts(loss) if starts is None else np.atleast_2d(starts)
    solution = solver.minimise(form, theta0, target, weight=weight, delta=delta)
    (theta,), (objective,), (agreement,) = solver.best_of_starts(solution, len(theta0))
    at = int(solution.objective.argmin())
    prediction, jacobian = form(theta[None])
    residual = target - prediction[0]
    return LawFit(
        tuple(columns), form, centre_K, theta, float(objective), delta, float(agreement),
        bool(solution.converged[at]), _condition(jacobian[0]),
        float((np.abs(residual) > delta).mean()), target, theta0[at],
    )  # fmt: skip


def _condition(jacobian: np.ndarray) -> float:
    """Condition number of the normal equations, columns scaled; infinite if a parameter is idle."""
    size = np.linalg.norm(jacobian, axis=0)
    if not (np.isfinite(size) & (size > 0)).all():
        return float("inf")
    return float(np.linalg.cond(jacobian / size) ** 2)


def leave_out(fit: LawFit, groups) -> pd.DataFrame:
    """Refits without each group and predicts it: one row per distinct value of `groups`.

    Returns:
      group, n, mean_error (of the predictions, in the fit's own units: nats or log loss),
      mean_abs_error, and the parameters without the group.
    """
    groups = np.asarray(groups)
    names = list(dict.fromkeys(groups))
    weight = (groups[None] != np.array(names)[:, None]).astype(float)
    start = np.tile(fit.theta, (len(names), 1))
    solution = solver.minimise(fit.form, start, fit.target, weight=weight, delta=fit.delta)
    error = fit.form(solution.theta)[0] - fit.target
    rows = []
    for i, name in enumerate(names):
        out = error[i][groups == name]
        row = {"group": name, "n": len(out), "mean_error": out.mean()}
        row["mean_abs_error"] = np.abs(out).mean()
        rows.append(row | fit.parameters(solution.theta[i]) | {"ok": solution.converged[i]})
    return pd.DataFrame(rows)


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
    from analysis.estimates import lint
    from analysis.estimates.numbers import Rows
    from analysis.stats import intervals

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
    for count, note in (
        ((~good).sum(), "rows left out: not positive and finite"),
        (usable[good].duplicated().sum(), "repeated rows counted once"),
    ):
        if count:
            rows.put("input", "", "rows", count, note=note)
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
        _profiles(rows, fit, label, intervals)
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
        for sentence in lint.law(fit):
            rows.put("lint", label, "finding", 1, note=sentence)
    return rows.frame()


def _profiles(rows, fit, label, intervals):
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
    import argparse

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
