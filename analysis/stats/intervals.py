"""Intervals for any batched model: profile likelihood, bootstrap by cell, noise bootstrap.

A model is what `solver.minimise` takes. Everything is refitted, from several starts, and in one
batch; a replicate whose refit did not converge is dropped and counted, never kept silently.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.stats import solver


class Interval(NamedTuple):
    """low, high: an infinite end means that the data do not bound the quantity on that side."""

    low: float
    high: float


def scale(residual, parameters, delta=np.inf, weight=None) -> float:
    """Variance of one point as the objective sees it: E psi^2 / E psi', with n - p in place of n.

    Least squares: the usual RSS / (n - p). Infinite without a degree of freedom.
    """
    residual = np.asarray(residual, float)
    weight = np.ones_like(residual) if weight is None else np.asarray(weight, float)
    n = (weight > 0).sum()
    if n <= parameters:
        return np.inf
    inside = (weight * (np.abs(residual) <= delta)).sum() / weight.sum()
    squared = (weight * np.clip(residual, -delta, delta) ** 2).sum()
    return float(squared / (n - parameters) / max(inside, 1 / n))


def covariance(model, theta, *, target, variance, weight=None, delta=np.inf) -> np.ndarray:
    """Curvature covariance (P, P) at the optimum; the profile's first guess, not its answer."""
    prediction, jacobian = model(theta[None])
    residual = prediction[0] - target
    weight = np.ones(len(target)) if weight is None else weight
    inside = weight * (np.abs(residual) <= delta)
    if np.count_nonzero(inside) < len(theta):  # too few quadratic points: majorise
        inside = weight * np.minimum(1, delta / np.maximum(np.abs(residual), 1e-300))
    hessian = (jacobian[0].T * inside) @ jacobian[0]
    root = np.sqrt(np.maximum(np.diag(hessian), 1e-300))
    inverse = np.linalg.pinv(hessian / np.outer(root, root), rcond=1e-13)
    return variance * inverse / np.outer(root, root)


def profile(
    model,
    theta,
    contrast,
    *,
    target,
    variance,
    df=np.inf,
    weight=None,
    delta=np.inf,
    level=0.95,
) -> Interval:
    """Profile-likelihood interval of contrast . theta, everything else refitted.

    Args:
      theta: (P,) the optimum.
      contrast: (P,) direction; a unit vector for one parameter.
      variance: of one point (`scale` or the measured noise, squared).
      df: degrees of freedom of `variance`; inf when the noise is known.
    """
    contrast = np.asarray(contrast, float)
    # coordinates in which the quantity is the first: theta = basis @ phi
    others = np.linalg.svd(contrast[None])[2][1:].T
    basis = np.column_stack([contrast / (contrast @ contrast), others])

    def rotated(phi):
        prediction, jacobian = model(phi @ basis.T)
        return prediction, jacobian @ basis

    centre = np.linalg.solve(basis, theta)
    cov = covariance(rotated, centre, target=target, variance=variance, weight=weight, delta=delta)
    width = np.sqrt(max(cov[0, 0], 1e-300))
    ridge = cov[:, 0] / max(cov[0, 0], 1e-300)
    critical = stats.t.ppf(0.5 + level / 2, df)
    free = np.arange(len(centre)) > 0
    steps = critical * np.array([0.5, 0.75, 1.0, 1.25, 1.6, 2.2, 3.2, 5.0, 8.0])
    steps = np.concatenate([-steps[::-1], steps])
    at = centre + np.outer(steps * width, ridge)
    fits = solver.minimise(rotated, at, target, weight=weight, delta=delta, free=free)
    best = solver.minimise(rotated, centre[None], target, weight=weight, delta=delta).objective[0]
    signed = np.sqrt(np.maximum(2 * (fits.objective - best) / variance, 0))
    signed[~fits.converged] = np.nan  # too high an objective would end the interval too soon
    value = at[:, 0]
    high = _crossing(centre[0], value[steps > 0], signed[steps > 0], critical)
    low = -_crossing(-centre[0], -value[steps < 0][::-1], signed[steps < 0][::-1], critical)
    return Interval(low, high)


def _crossing(centre, value, root, critical):
    """Where the root of the likelihood ratio passes `critical`; infinite if it never does."""
    value, root = np.concatenate([[centre], value]), np.concatenate([[0.0], root])
    ok = np.isfinite(root)
    value, root = value[ok], root[ok]
    above = np.flatnonzero(root >= critical)
    if not len(above):
        return np.inf
    i = above[0]
    share = (critical - root[i - 1]) / (root[i] - root[i - 1])
    return float(value[i - 1] + share * (value[i] - value[i - 1]))


def cell_weights(groups, replicates, rng) -> np.ndarray:
    """(replicates, n) multinomial weights that draw whole groups (cells) with replacement."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    count = index.max() + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=replicates)
    return drawn[:, index].astype(float)


def bootstrap(
    model, theta, *, target, starts=None, weight=None, delta=np.inf, batch=2000
) -> tuple[np.ndarray, int]:
    """Refits of every replicate from the optimum and the given starts.

    Args:
      theta: (P,) the optimum, always the first start.
      target: (n,) or (R, n) for the noise bootstrap.
      weight: None, (n,) or (R, n) for the bootstrap by cell.
      starts: (S, P) further starts.

    Returns:
      theta_RP of the replicates that converged, and how many did not.
    """
    starts = theta[None] if starts is None else np.vstack([theta[None], starts])
    S = len(starts)
    R = max(len(a) if np.ndim(a) == 2 else 1 for a in (target, weight) if a is not None)
    kept, dropped = [], 0
    for first in range(0, R, max(1, batch // S)):
        rows = slice(first, min(first + max(1, batch // S), R))
        size = rows.stop - rows.start

        def per_start(a, rows=rows):
            return np.repeat(a[rows], S, axis=0) if np.ndim(a) == 2 else a

        solution = solver.minimise(
            model,
            np.tile(starts, (size, 1)),
            per_start(target),
            weight=per_start(weight),
            delta=delta,
            tolerance=1e-7,
        )
        objective = np.where(solution.converged, solution.objective, np.inf).reshape(size, S)
        at = np.arange(size) * S + objective.argmin(1)
        good = np.isfinite(objective.min(1))
        kept.append(solution.theta[at[good]])
        dropped += int((~good).sum())
    return np.concatenate(kept), dropped


def percentile(values, level=0.95) -> Interval:
    """Percentile interval of replicates, ignoring none: non-finite values widen it to infinity."""
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        return Interval(*(float(q) for q in np.quantile(values, [tail, 1 - tail])))
