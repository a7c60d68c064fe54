"""Levenberg-Marquardt for many small robust fits at once: starts, bootstraps and profile points.

S fits of n points with p parameters run as one batch of numpy arrays, so a thousand bootstrap
replicates cost a few dozen matrix products instead of a thousand Python loops.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# theta_SP -> (prediction_Sn, jacobian_SnP)
Model = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Solution(NamedTuple):
    """theta_SP, objective_S (sum over points) and converged_S (the scaled gradient vanished)."""

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray


def huber(residual, delta):
    """Huber's loss, r^2/2 inside |r| <= delta and linear outside; delta inf is least squares."""
    size = np.abs(residual)
    if np.isinf(delta):
        return size**2 / 2
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))


def minimise(
    model: Model,
    theta,
    target,
    *,
    weight=None,
    delta=np.inf,
    free=None,
    max_steps=300,
    tolerance=1e-10,
    anneal=True,
) -> Solution:
    """Minimises sum_i weight_i huber(prediction_i - target_i) for every row of `theta`.

    Args:
      model: theta (S, P) -> prediction (S, n), jacobian (S, n, P).
      theta: (S, P) starts.
      target: (n,) or (S, n).
      weight: None, (n,) or (S, n); zero leaves a point out.
      delta: Huber's threshold in units of the target.
      free: (P,) booleans; the others stay at their start (profile likelihood).
      tolerance: a fit has converged when a Newton step would lower the objective by less than
        this share of it, or when the objective is at rounding level.
      anneal: with a finite delta, come down to it from 100 and 10 times as much.
    """
    theta = np.array(theta, float)
    S, P = theta.shape
    if np.isfinite(delta) and anneal:
        # far outside delta the objective is piecewise linear; come down from a smoother one
        for wide in (100, 10):
            theta = minimise(
                model, theta, target, weight=weight, delta=wide * delta, free=free,
                max_steps=50, tolerance=1e-4, anneal=False,
            ).theta  # fmt: skip
    free = np.ones(P, bool) if free is None else np.asarray(free, bool)
    target_Sn = np.broadcast_to(np.asarray(target, float), (S, np.shape(target)[-1]))
    weight_Sn = np.broadcast_to(1.0 if weight is None else np.asarray(weight), target_Sn.shape)
    rounding = ((4e-16 * np.abs(target_Sn)) ** 2).sum(1)

    objective, converged = np.full(S, np.inf), np.zeros(S, bool)
    gradient, hessian, scale = np.zeros((S, P)), np.zeros((S, P, P)), np.ones((S, P))
    damping = np.full(S, 1e-3)

    def linearise(rows, at):
        prediction, jacobian = model(at)
        residual = prediction - target_Sn[rows]
        w = weight_Sn[rows]
        value = (w * huber(residual, delta)).sum(1)
        clipped = np.clip(residual, -delta, delta)
        inside = w * (np.abs(residual) <= delta)
        # Huber's own curvature is zero outside; the majorising weights keep the scale positive
        major = w * clipped / np.where(residual == 0, 1, residual) + w * (residual == 0)
        g = np.einsum("snp,sn->sp", jacobian, w * clipped)
        h = np.matmul(np.swapaxes(jacobian, 1, 2) * inside[:, None, :], jacobian)
        d = np.einsum("snp,snp,sn->sp", jacobian, jacobian, major)
        return value, g, h, d

    active = np.arange(S)
    objective[:], gradient[:], hessian[:], scale[:] = linearise(active, theta)
    bad = ~np.isfinite(objective)
    objective[bad] = np.inf
    active = active[~bad]
    for _ in range(max_steps):
        if not len(active):
            break
        d = np.maximum(scale[active][:, free], 1e-300)
        g = gradient[active][:, free]
        # in units of each parameter's own curvature the system is as well scaled as it can be
        root = np.sqrt(d)
        h = hessian[active][:, free][:, :, free] / root[:, :, None] / root[:, None, :]
        eye = np.eye(h.shape[1])
        newton = np.linalg.solve(h + 1e-13 * eye, (g / root)[..., None])[..., 0]
        with np.errstate(over="ignore"):  # an infinite gain is one that is not done yet
            gain = np.abs((newton * g / root).sum(1)) / 2
        done = (gain <= tolerance * objective[active]) | (objective[active] <= rounding[active])
        converged[active[done]] = True
        keep = ~done & (damping[active] < 1e14)
        active = active[keep]
        if not len(active):
            break
        g, h, root = g[keep], h[keep] + damping[active, None, None] * eye, root[keep]
        step = -np.linalg.solve(h, (g / root)[..., None])[..., 0] / root
        trial = theta[active].copy()
        trial[:, free] += step
        with np.errstate(all="ignore"):
            value, g, h, d = linearise(active, trial)
        finite = np.isfinite(value) & np.isfinite(h).all((1, 2)) & np.isfinite(g).all(1)
        better = finite & (value <= objective[active])
        rows = active[better]
        theta[rows], objective[rows] = trial[better], value[better]
        gradient[rows], hessian[rows], scale[rows] = g[better], h[better], d[better]
        damping[active] = np.where(
            better, np.maximum(damping[active] / 5, 1e-15), damping[active] * 4
        )
    return Solution(theta, objective, converged)


def best_of_starts(
    solution: Solution, starts: int, rounding=1e-20
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows ordered (replicate, start): the best theta, its objective, and the agreeing share.

    The agreement of a replicate is the share of its starts within 1e-4 (relative) of the best
    objective (or of `rounding`, for noise-free data); a start that failed counts as disagreeing.
    """
    theta = solution.theta.reshape(-1, starts, solution.theta.shape[1])
    objective = solution.objective.reshape(-1, starts)
    at = objective.argmin(1)
    rows = np.arange(len(at))
    best = objective[rows, at]
    agree = (objective <= best[:, None] * (1 + 1e-4) + rounding).mean(1)
    return theta[rows, at], best, agree
