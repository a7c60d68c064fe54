"""Where the best hyper-parameter is, how well that is known, and how it moves with scale.

The optimum of each cell as an interval, a law through those intervals, and predictions with
prediction intervals and the loss they are expected to cost. (The study's own law: `editions`.)
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.runs.names import CELL, settings

# Momenta live on the scale of their memory 1/(1 - beta); everything else on its own.
MEMORY = ("beta1", "beta2", "momentum", "shampoo_beta")


def to_log2(name, value):
    """The coordinate in which a x2 grid is even: log2 of the value, or of a momentum's memory."""
    value = np.asarray(value, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.log2(1 - value) if name in MEMORY else np.log2(value)


def from_log2(name, x):
    return 1 - 2.0 ** -np.asarray(x) if name in MEMORY else 2.0 ** np.asarray(x)


@dataclass(frozen=True)
class Optimum:
    """Where a one-dimensional sweep has its minimum, in log2 coordinates.

    x, low, high: estimate and 95 % interval; an infinite end is open (the grid does not bound it).
    curvature: nats per (factor of two)^2, so a setting off by d doublings costs curvature d^2;
      NaN from two points.
    edge: "low", "high" or "" - the side on which the best grid value is the last one.
    regret: expected excess loss of the best grid value (nats); NaN from two points.
    """

    x: float
    low: float
    high: float
    curvature: float
    edge: str
    regret: float
    points: int

    @property
    def censored(self) -> bool:
        return not (np.isfinite(self.low) and np.isfinite(self.high))


def optimum(x, loss, sigma, *, window=2.1, level=0.95) -> Optimum | None:
    """Local quadratic a + c (x - x*)^2, c >= 0, through the points within `window` of the best.

    The interval is the profile likelihood of x*; (a, c) are linear and eliminated exactly.

    Args:
      x: (n,) log2 coordinates; loss: (n,) nats; sigma: noise of one run.

    Returns:
      None with fewer than two finite points: a single value says nothing about where the best is.
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    good = np.isfinite(x) & np.isfinite(loss)
    x, loss = x[good], loss[good]
    x, loss = (a[np.lexsort((loss, x))] for a in (x, loss))
    _, first = np.unique(x, return_index=True)  # the better of two runs at one value
    x, loss = x[first], loss[first]
    if len(x) < 2:
        return None
    best = int(loss.argmin())
    edge = "low" if best == 0 else "high" if best == len(x) - 1 else ""
    near = np.abs(x - x[best]) <= window
    x, loss = x[near], loss[near]
    at = np.linspace(x.min() - 3, x.max() + 3, 1501)
    square = (x[None] - at[:, None]) ** 2
    mean = square.mean(1, keepdims=True)
    spread = ((square - mean) ** 2).sum(1)
    curvature = np.maximum(((square - mean) * loss).sum(1) / np.maximum(spread, 1e-12), 0)
    fitted = loss.mean() + curvature[:, None] * (square - mean)
    chi2 = ((loss - fitted) ** 2).sum(1) / sigma**2
    i = int(chi2.argmin())
    if len(x) == 2:  # two points fit any vertex: only their order is known
        i = int(np.abs(at - x[loss.argmin()]).argmin())
    inside = at[chi2 <= chi2.min() + stats.chi2.ppf(level, 1)]
    step = at[1] - at[0]  # the ends lie up to one step beyond the last grid point inside
    low = inside.min() - step if inside.min() > at[0] else -np.inf
    high = inside.max() + step if inside.max() < at[-1] else np.inf
    if len(x) == 2:
        return Optimum(at[i], low, high, np.nan, edge, np.nan, 2)
    posterior = np.exp(-(chi2 - chi2.min()) / 2)
    spent = (posterior * curvature * (at - x[loss.argmin()]) ** 2).sum() / posterior.sum()
    return Optimum(at[i], low, high, float(curvature[i]), edge, float(spent), len(x))


def optima(runs: pd.DataFrame, sigma: float) -> pd.DataFrame:
    """Optimum of every swept numeric hyper-parameter in every cell.

    Args:
      runs: CELL, loss and `hp_*`; a sweep is the largest set of a cell's runs that differ in this
        hyper-parameter only.

    Returns:
      CELL, hyperparameter, value, low, high (0 or inf where open), best (grid value), edge,
      curvature, regret, points, x, x_low, x_high.
    """
    rows = []
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
            x = to_log2(name, np.where(values[sweep, j] > 0, values[sweep, j], np.nan))
            found = optimum(x, loss[sweep], sigma)
            if found is None:
                continue
            ends = from_log2(name, np.array([found.x, found.low, found.high]))
            rows.append(
                dict(zip(CELL, cell, strict=True))
                | {
                    "hyperparameter": name,
                    "value": ends[0],
                    "low": ends[1],
                    "high": ends[2],
                    "best": values[sweep, j][loss[sweep].argmin()],
                    "edge": found.edge,
                    "curvature": found.curvature,
                    "regret": found.regret,
                    "points": found.points,
                    "x": found.x,
                    "x_low": found.low,
                    "x_high": found.high,
                }
            )
    columns = ["hyperparameter", "value", "low", "high", "best", "edge", "curvature", "regret"]
    return pd.DataFrame(rows, columns=[*CELL, *columns, "points", "x", "x_low", "x_high"])


def _longest_sweep(rest, value, loss):
    """Rows with equal `rest`: the most distinct values, then the lowest loss."""
    groups = [np.flatnonzero(rest == r) for r in np.unique(rest)]
    return max(groups, key=lambda rows: (len(np.unique(value[rows])), -loss[rows].min()))


@dataclass(frozen=True)
class TransferLaw:
    """log2 h = c0 + c1 log2(N/N0) + c2 log2(r/r0), through intervals, with scatter tau."""

    name: str
    coefficients: np.ndarray
    covariance: np.ndarray
    tau: float  # factors of two, beyond what the intervals explain
    df: int
    params0: float
    ratio0: float
    params_range: tuple[float, float]
    ratio_range: tuple[float, float]
    curvature: float  # median over cells

    def predict(self, params, ratio, level=0.95):
        """value, low, high (a prediction interval) and the expected regret in nats."""
        design = self._design(params, ratio)
        x = float(design @ self.coefficients)
        variance = float(design @ self.covariance @ design + self.tau**2)
        half = stats.t.ppf(0.5 + level / 2, max(self.df, 1)) * np.sqrt(variance)
        value, low, high = (
            float(v) for v in from_log2(self.name, np.array([x, x - half, x + half]))
        )
        return value, low, high, self.curvature * variance

    def regret(self, value, params, ratio) -> float:
        """Expected excess loss (nats) of running `value` instead of the unknown optimum."""
        design = self._design(params, ratio)
        offset = float(to_log2(self.name, value)) - float(design @ self.coefficients)
        variance = float(design @ self.covariance @ design + self.tau**2)
        return self.curvature * (offset**2 + variance)

    def extrapolates(self, params, ratio) -> str:
        """What lies outside the fitted range, in words; empty inside."""
        words = []
        for label, value, (low, high) in (
            ("params", params, self.params_range),
            ("ratio", ratio, self.ratio_range),
        ):
            if not low * 0.999 <= value <= high * 1.001:
                words.append(f"{label} {value:.3g} outside {low:.3g}-{high:.3g}")
        return "extrapolates: " + ", ".join(words) if words else ""

    def _design(self, params, ratio):
        terms = [1.0, np.log2(params / self.params0), np.log2(ratio / self.ratio0)]
        return np.array(terms)[: len(self.coefficients)]


def fit_transfer(name, x, low, high, params, ratio, curvature) -> TransferLaw | None:
    """Random-effects regression (Paule-Mandel) of the optima's log2 on log2 N and log2 r.

    Each cell counts with its own variance (a 95 % interval is 3.92 wide) plus a common scatter tau;
    an open end counts as a factor of two beyond the estimate, so censored cells weigh little.
    None with fewer than three cells.
    """
    x, params, ratio = (np.asarray(a, float) for a in (x, params, ratio))
    low = np.where(np.isfinite(low), low, x - 2)
    high = np.where(np.isfinite(high), high, x + 2)
    variance = np.maximum((high - low) / 3.92, 0.05) ** 2
    params0, ratio0 = np.exp(np.log(params).mean()), np.exp(np.log(ratio).mean())
    columns = [np.ones_like(x), np.log2(params / params0), np.log2(ratio / ratio0)]
    design = np.column_stack(columns)
    if len(x) < 3 or np.linalg.matrix_rank(design, tol=1e-9) < 3:
        return None
    df = len(x) - 3

    def solve(tau2):
        weight = 1 / (variance + tau2)
        covariance = np.linalg.inv((design.T * weight) @ design)
        coefficients = covariance @ (design.T * weight) @ x
        q = (weight * (x - design @ coefficients) ** 2).sum()
        return coefficients, covariance, q

    tau2 = 0.0
    if df > 0 and solve(0.0)[2] > df:
        lower, upper = 0.0, 64.0
        for _ in range(80):
            tau2 = (lower + upper) / 2
            lower, upper = (tau2, upper) if solve(tau2)[2] > df else (lower, tau2)
    coefficients, covariance, _ = solve(tau2)
    return TransferLaw(
        name, coefficients, covariance, float(np.sqrt(tau2)), df, float(params0), float(ratio0),
        (float(params.min()), float(params.max())), (float(ratio.min()), float(ratio.max())),
        float(np.nanmedian(curvature)) if np.isfinite(curvature).any() else np.nan,
    )  # fmt: skip
