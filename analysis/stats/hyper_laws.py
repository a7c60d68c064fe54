"""How a tuned hyper-parameter moves with size N and Chinchilla ratio r.

The study (arXiv 2509.02046) fits h = A N^B r^C + D with five or more free numbers to ten points
from a start at A = 0, where B and C have no gradient (`analysis.estimates.editions` has that form,
exactly as published). Here it is the three-parameter limb h = A N^B r^C, linear in logs. `fit` goes
through settings as they are: the planner runs what it predicts before it trusts it (Phase III).
`through_intervals` goes through optima that are known to an interval or from one side only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

# Momenta live on the scale of their memory 1/(1 - beta); everything else on its own.
MEMORY = ("beta1", "beta2", "momentum", "shampoo_beta")
PAIR = ("learning_rate", "batch_size")  # there is a ridge between them
DRIFT = 0.25  # factors of two by which a law may be wrong for each that it leaves its cells by
REACH = 2.0  # factors of two beyond its cells at which a law is not asked any more


class Law(NamedTuple):
    """h = exp(a) (N / n0)^b r^c, or a constant where the value cannot be a power law."""

    a: float
    b: float
    c: float
    n0: float
    constant: Any = None

    def predict(self, n: float, ratio: float) -> Any:
        if self.constant is not None:
            return self.constant
        return math.exp(self.a + self.b * math.log(n / self.n0) + self.c * math.log(ratio))


def fit(sizes: Sequence[float], ratios: Sequence[float], values: Sequence[Any]) -> Law:
    """Least squares in logs; of several solutions the one with the smallest exponents.

    Args:
      sizes: N, non-embedding parameters, one a cell; `ratios` and `values` likewise.
      values: of the hyper-parameter. Where one is no positive number (a switch, a weight decay of
        0) the law is the most frequent value.
    """
    n0 = math.exp(math.fsum(map(math.log, sizes)) / len(sizes))
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values)
    if not numeric:
        return Law(0.0, 0.0, 0.0, n0, constant=max(values, key=list(values).count))
    logs = np.log(np.asarray(values, float))
    design = np.stack([np.log(np.asarray(sizes, float) / n0), np.log(np.asarray(ratios, float))], 1)
    centre, level = design.mean(0), logs.mean()
    exponents, *_ = np.linalg.lstsq(design - centre, logs - level, rcond=1e-9)
    b, c = map(float, exponents)
    return Law(float(level - centre @ exponents), b, c, n0)


def to_log2(name: str, value):
    """The coordinate in which a x2 grid is even: log2 of the value, or of a momentum's memory."""
    value = np.asarray(value, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.log2(1 - value) if name in MEMORY else np.log2(value)


def from_log2(name: str, x):
    return 1 - 2.0 ** -np.asarray(x) if name in MEMORY else 2.0 ** np.asarray(x)


@dataclass(frozen=True)
class IntervalLaw:
    """log2 h = c0 + c1 log2(N/n0) + c2 log2(r/r0) through optima of cells, with scatter tau."""

    coefficients: np.ndarray
    covariance: np.ndarray
    tau: float  # factors of two, of cells beyond what their intervals explain
    df: int  # cells with a point, less the coefficients
    centre: np.ndarray  # log2 of n0 and r0
    low: np.ndarray  # log2 of the smallest N and r, and
    high: np.ndarray  # of the largest

    def predict(self, n: float, ratio: float) -> tuple[float, float]:
        """log2 h and its variance, for one more cell; beyond the cells DRIFT widens it."""
        at = np.log2([n, ratio])
        design = np.array([1.0, *(at - self.centre)])
        variance = design @ self.covariance @ design + self.tau**2
        variance += (DRIFT * self.outside(n, ratio)) ** 2
        return float(design @ self.coefficients), float(variance)

    def outside(self, n: float, ratio: float) -> float:
        """Factors of two by which the farther of N and r lies beyond the cells; 0 inside."""
        at = np.log2([n, ratio])
        return float(np.maximum(np.maximum(at - self.high, self.low - at), 0).max())

    def half_width(self, variance: float, level: float = 0.95) -> float:
        return float(stats.t.ppf(0.5 + level / 2, self.df) * math.sqrt(variance))


def through_intervals(n, ratio, x, sd, censored) -> IntervalLaw | None:
    """Random-effects regression of optima on log2 N and log2 r, one-sided ones included.

    Every cell has its own variance and all a common scatter tau, by Paule and Mandel's equation on
    the cells with a point. A cell that bounds its optimum from one side enters by the probability
    of that side (a probit, as in Tobit's regression).

    Args:
      n, ratio: (C,) of the cells.
      x: (C,) optima in log2, or the bounds of the censored ones.
      sd: (C,) of those.
      censored: (C,) 0 a point, 1 the optimum lies above x, -1 below.

    Returns:
      None without one degree of freedom among the points, or where they do not span N and r.
    """
    x, sd, censored = (np.asarray(a, float) for a in (x, sd, censored))
    at = np.log2(np.column_stack([n, ratio]).astype(float))
    centre, point = at.mean(0), censored == 0
    design = np.column_stack([np.ones(len(x)), at - centre])
    df = int(point.sum()) - design.shape[1]
    if df < 1 or np.linalg.matrix_rank(design[point], tol=1e-9) < design.shape[1]:
        return None

    def solve(tau2):
        """Newton's method on the convex likelihood; chi-square of the points."""
        spread = np.sqrt(sd**2 + tau2)
        beta = np.linalg.lstsq(design[point], x[point], rcond=None)[0]
        for _ in range(50):
            z = (design @ beta - x) / spread
            towards = censored * z
            pull = np.exp(stats.norm.logpdf(towards) - special.log_ndtr(towards))
            slope = np.where(point, z, -censored * pull) / spread
            bend = np.where(point, 1.0, pull * (pull + towards)) / spread**2
            hessian = (design.T * bend) @ design
            step = np.linalg.solve(hessian, design.T @ slope)
            beta = beta - step
            if np.abs(step).max() < 1e-10:
                break
        return beta, np.linalg.inv(hessian), float((z[point] ** 2).sum())

    tau2 = 0.0
    if solve(0.0)[2] > df:
        low, high = 0.0, 64.0
        for _ in range(50):
            tau2 = (low + high) / 2
            low, high = (tau2, high) if solve(tau2)[2] > df else (low, tau2)
    beta, covariance, _ = solve(tau2)
    return IntervalLaw(beta, covariance, math.sqrt(tau2), df, centre, at.min(0), at.max(0))
