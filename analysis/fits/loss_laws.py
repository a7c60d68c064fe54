"""Laws of the loss: power laws with a floor in one or several quantities.

    L = floor + sum_k amplitude_k (x_k / centre_k)^-exponent_k

with one x (data at fixed size, or size at fixed ratio) or two (Chinchilla's parameters and tokens).
The study's own form and procedure come first; `fit_law` is the robust one.
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
        """On a grid of exponents the rest is a linear least squares: one start per grid point.

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
            logs = theta[..., 1 + 2 * k] + exponent * np.log(self.centre_K[k])
            with np.errstate(over="ignore"):  # at x = 1 a steep law is beyond any number
                out[f"amplitude_{column}"] = np.exp(logs)
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


def influence(fit: LawFit) -> np.ndarray:
    """theta without each row minus theta, (n, P), to first order: one pass, linear in the rows."""
    prediction, jacobian = fit.form(fit.theta[None])
    residual, jacobian = fit.target - prediction[0], jacobian[0]
    inside = np.abs(residual) <= fit.delta
    hessian = (jacobian.T * inside) @ jacobian
    step = jacobian @ np.linalg.pinv(hessian)
    leverage = np.clip((step * jacobian).sum(1) * inside, 0, 0.99)
    pull = np.clip(residual, -fit.delta, fit.delta) / (1 - leverage)
    return -step * pull[:, None]


def compute_optimal(parameters: dict, flops: float) -> tuple:
    """N and D = flops / 6 N that minimise E + A N^-a + B D^-b (approach 3 of Hoffmann et al.).

    Args:
      parameters: of a fit in params and tokens, as numbers or as arrays of replicates.
    """
    a, b = parameters["exponent_params"], parameters["exponent_tokens"]
    amplitudes = a * parameters["amplitude_params"] / (b * parameters["amplitude_tokens"])
    params = (amplitudes * (flops / 6) ** b) ** (1 / (a + b))
    return params, flops / 6 / params
