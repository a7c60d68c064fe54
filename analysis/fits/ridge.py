"""The joint optimum of learning rate and batch size, and the ridge between them.

In log2 of both, x and y, the loss is a valley whose floor is a line, and along that line another:

    L = a + A q_k(x - x* - s (y - y*)) + C q_m(y - y*)

q is a valley's rise (`fits.valley`). s is the power of the batch size by which the best learning
rate grows (1: in proportion; 1/2: as its square root). Where the floor is flat (C near 0) s is
known and (x*, y*) is not: the intervals of both are open then, along the ridge. They are profile
likelihoods, found by trying all (k, m, s, x, y) on a grid; a and the positive A and C follow.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.fits.valley import ASYMMETRY, CAP, WINDOW, Optimum, beyond, side_of, valley

SLOPES = (-1.0, 2.0)  # of the ridge
REACH = 2.0  # octaves beyond the runs to which an optimum is looked for
COUNT = 31  # values of s, x and y that are tried at once
SKEWS = np.linspace(-1.2, 1.2, 9)  # asymmetries across and along


class Grid(NamedTuple):
    """Penalised chi-square, A and C with their errors, by (s, k, m, x at the best run's y, y*)."""

    penalty: np.ndarray
    across: np.ndarray
    along: np.ndarray
    across_error: np.ndarray
    along_error: np.ndarray


def decides(x, y, loss) -> bool:
    """Whether runs near their best fix a paraboloid, so that the ridge is in the data.

    Args:
      x, y: (n,) log2 of learning rates and batch sizes. loss: (n,) nats.
    """
    x, y, _ = _near(x, y, loss)
    x, y = x - x.mean(), y - y.mean()
    design = np.column_stack([np.ones(len(x)), x, y, x * x, x * y, y * y])
    return len(x) >= 6 and np.linalg.matrix_rank(design, tol=1e-9) == 6


def ridge(x, y, loss, sigma, *, chosen=None, level=0.95) -> tuple:
    """The optimum of runs that `decides` has found enough.

    Args:
      sigma: noise of one run, nats.
      chosen: the (x, y) whose regret is asked for, where it was tried; else the best run's.

    Returns:
      ((Optimum of x, (s, low, high)), (Optimum of y, None)). A regret is across the ridge,
      and along it. The bottom of a valley is no number here: NaN.
    """
    tried_x, tried_y = x, y
    x, y, loss = _near(x, y, loss)
    best_x, best_y = x[loss.argmin()], y[loss.argmin()]
    ends = [SLOPES, *((v.min() - REACH, v.max() + REACH) for v in (x, y))]
    axes = [np.linspace(*end, COUNT) for end in ends]
    scan = partial(_scan, x, y - best_y, loss, sigma)
    for _ in range(2):  # then closer where the optimum may be
        penalty = scan(axes[0], axes[1], axes[2] - best_y, SKEWS[::2]).penalty.min((1, 2))
        kept = penalty <= 4 * penalty.min() + 30
        axes = [_closer(axis, kept, i) for i, axis in enumerate(axes)]
    found = scan(axes[0], axes[1], axes[2] - best_y, SKEWS)
    s, i, t = axes
    penalty, within = found.penalty.min((1, 2)), stats.chi2.ppf(level, 1)
    inside = penalty <= penalty.min() + within
    at_x = i[:, None] + s[:, None, None] * (t - best_y)  # x* of each (s, x at best_y, y*)
    place = np.unravel_index(penalty.argmin(), penalty.shape)
    every_s, every_t = (np.broadcast_to(a, inside.shape) for a in (s[:, None, None], t))
    slope = (float(s[place[0]]), *_ends(every_s, inside, s, ends[0]))
    edge_x, edge_y = _edge(tried_x, best_x), _edge(tried_y, best_y)
    ends_x = beyond(*_ends(at_x, inside, i, ends[1]), best_x, edge_x)
    ends_y = beyond(*_ends(every_t, inside, t, ends[2]), best_y, edge_y)
    ends_y = _led(ends_y, edge_x == "low", edge_x == "high", slope)
    ends_x = _led(ends_x, np.isneginf(ends_y[0]), np.isposinf(ends_y[1]), slope)
    tried = chosen is not None and ((x == chosen[0]) & (y == chosen[1])).any()
    here = chosen if tried else (best_x, best_y)
    across, along = _regrets(found, s, i, t - best_y, here[0], here[1] - best_y, within)
    chi2, df = float(penalty.min()), max(len(x) - 6, 0)

    def known(value, low, high, edge, curvature, regret, most) -> Optimum:
        side = side_of(low, high)
        if side != 0:
            value = curvature = regret = most = np.nan
        rest = {"skew": np.nan, "bottom": np.nan, "points": len(x), "chi2": chi2, "df": df}
        return Optimum(value, low, high, side, curvature, regret, most, edge=edge, **rest)

    of_x = known(float(at_x[place]), *ends_x, edge_x, *across)
    return (of_x, slope), (known(float(t[place[2]]), *ends_y, edge_y, *along), None)


def _near(x, y, loss):
    """The runs near the best, by log2 of both values, and no more than CAP above it.

    A value of zero (-inf) is left out.
    """
    x, y, loss = (np.asarray(a, float) for a in (x, y, loss))
    good = np.isfinite(x) & np.isfinite(y)
    best = np.where(good, loss, np.inf).argmin()
    near = (np.abs(x - x[best]) <= WINDOW) & (np.abs(y - y[best]) <= WINDOW)
    near &= good & (loss <= loss[best] + CAP)
    return x[near], y[near], loss[near]


def _scan(x, y, loss, sigma, s_S, i_I, t_T, skew_K) -> Grid:
    """The fit at every slope, x of the floor at y = 0, and y of its lowest point."""
    centre = loss - loss.mean()
    U = x - s_S[:, None, None] * y - i_I[:, None]  # S, I, n
    U = valley(skew_K[:, None, None], U[:, None])  # S, K, I, n
    V = valley(skew_K[:, None, None], y - t_T[:, None])  # K, T, n
    U, V = U - U.mean(-1, keepdims=True), V - V.mean(-1, keepdims=True)
    uu, vv = np.maximum((U**2).sum(-1), 1e-9), np.maximum((V**2).sum(-1), 1e-9)
    ul, vl = U @ centre, V @ centre
    uv = np.einsum("skin,mtn->skmit", U, V, optimize=True)
    uu, ul = uu[:, :, None, :, None], ul[:, :, None, :, None]
    vv, vl = vv[:, None, :], vl[:, None, :]
    det = np.maximum(uu * vv - uv**2, 1e-9 * uu * vv)
    A, C = (ul * vv - vl * uv) / det, (vl * uu - ul * uv) / det
    alone_A, alone_C = np.maximum(ul / uu, 0), np.maximum(vl / vv, 0)
    only_A = alone_A * ul >= alone_C * vl
    outside = (A < 0) | (C < 0)
    A = np.where(outside, np.where(only_A, alone_A, 0.0), A)
    C = np.where(outside, np.where(only_A, 0.0, alone_C), C)
    penalty = (centre @ centre - A * ul - C * vl) / sigma**2
    asymmetry = (skew_K[:, None] / ASYMMETRY) ** 2 + (skew_K / ASYMMETRY) ** 2
    penalty += asymmetry[:, :, None, None]
    return Grid(penalty, A, C, sigma * np.sqrt(vv / det), sigma * np.sqrt(uu / det))


def _closer(axis, kept_SIT, which):
    """As many values of an axis over the part of it that is kept, and a step beyond."""
    others = tuple(j for j in range(3) if j != which)
    at = np.flatnonzero(kept_SIT.any(others))
    low, high = max(at[0] - 1, 0), min(at[-1] + 1, len(axis) - 1)
    return np.linspace(axis[low], axis[high], COUNT)


def _ends(values, inside, axis, full):
    """The interval of what is inside; open where it reaches the end of what was tried."""
    step = axis[1] - axis[0]
    low, high = float(values[inside].min()), float(values[inside].max())
    return (
        -np.inf if low <= full[0] + step / 2 else low - step,
        np.inf if high >= full[1] - step / 2 else high + step,
    )


def _edge(values, best) -> str:
    values = values[np.isfinite(values)]
    return "low" if best == values.min() else "high" if best == values.max() else ""


def _led(ends, low_open, high_open, slope):
    """Where one coordinate is open the ridge may lead the other as far."""
    rises, falls = slope[2] > 0, slope[1] < 0
    down = (low_open and rises) or (high_open and falls)
    up = (high_open and rises) or (low_open and falls)
    return -np.inf if down else ends[0], np.inf if up else ends[1]


def _regrets(found, s, i, t, x, y, within):
    """Curvature, expected regret at (x, y) and its upper end, across the ridge and along."""
    across = valley(SKEWS[:, None], (x - s * y)[:, None, None] - i)[:, :, None, :, None]
    along = valley(SKEWS[:, None], y - t)[None, None, :, None, :]
    left = found.penalty.min() + within - found.penalty
    weight = np.exp((left - within) / 2)
    most = np.sqrt(np.maximum(left, 0))
    place = np.unravel_index(found.penalty.argmin(), found.penalty.shape)
    for rise, size, error in (
        (across, found.across, found.across_error),
        (along, found.along, found.along_error),
    ):
        highest = np.where(left >= 0, rise * (size + error * most), 0.0)
        yield (
            float(size[place]),
            float(np.average(size * rise, weights=weight)),
            float(highest.max()),
        )
