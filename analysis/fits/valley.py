"""The valley that a sweep of one hyper-parameter runs through, and where its bottom is.

L = a + c q_k(x - x*) in log2 of the value, q_k(d) = 2 (e^kd - kd - 1) / k^2, which rises faster on
one side by k and is a parabola at k = 0. The interval of x* is its profile likelihood with k free
about zero. An optimum that the sweep does not bracket has no value: it is bounded from one side, or
not at all.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

ASYMMETRY = 0.7  # standard deviation of k: one octave up costs up to twice as much as one down
WINDOW = 2.1  # octaves about the best value within which a valley is local
CAP = 0.1  # nats above the best: runs further up bound the optimum and say no more,
CAP_NOISE = 10.0  # unless that is fewer standard deviations of a run than this
STEP = 0.02  # octaves
_K = np.linspace(-1.5, 1.5, 31)


@dataclass(frozen=True)
class Optimum:
    """Where a one-dimensional sweep has its minimum, in log2 coordinates.

    x: estimate; NaN where the sweep does not bracket it (`side` says where it lies).
    low, high: 95 % interval; an infinite end is open.
    side: 0 bracketed; 1 at or above `low`, -1 at or below `high`; NaN where nothing is known.
    curvature: nats per (factor of two)^2, so d doublings off cost about curvature d^2;
    regret: expected excess loss (nats) of the best grid value, or the chosen one, and regret_high
    what it is at most (95 %); skew, bottom: k and a of the valley; all NaN where not bracketed.
    edge: "low", "high" or "", the side on which the best grid value is the last one.
    chi2, df: distance of the points from the valley in units of the noise, and what is left over;
    free: the same where k counts as far as the points move it from its prior.
    """

    x: float
    low: float
    high: float
    side: float
    curvature: float
    regret: float
    regret_high: float
    skew: float
    bottom: float
    edge: str
    points: int
    chi2: float
    df: int
    free: float = 0.0


def optimum(x, loss, sigma, *, chosen=None, level=0.95) -> Optimum | None:
    """The minimum of one sweep.

    Args:
      x: (n,) log2 coordinates; -inf for a value of zero. loss: (n,) nats; those that are not finite
        are left out.
      sigma: noise of one run, and of the points about a valley.
      chosen: the coordinate whose regret is asked for, where it is one of x; else the best run's.

    Returns:
      None with fewer than two finite points: a single value says nothing about where the best is.
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    good = ~np.isnan(x) & (x < np.inf) & np.isfinite(loss)
    x, loss = x[good], loss[good]
    x, loss = (a[np.lexsort((loss, x))] for a in (x, loss))
    _, first = np.unique(x, return_index=True)  # the better of two runs at one value
    x, loss = x[first], loss[first]
    zero = len(x) > 0 and np.isneginf(x[0])
    below = zero and loss.argmin() == 0  # nothing positive is as good as zero
    x, loss = x[int(zero) :], loss[int(zero) :]
    if len(x) < 2:
        return None
    best = int(loss.argmin())
    edge = "low" if best == 0 or below else "high" if best == len(x) - 1 else ""
    place, worse = np.arange(len(x)), loss > loss[best] + max(CAP, CAP_NOISE * sigma)
    walls = [max(x[worse & (place < best)], default=-np.inf)]
    walls += [min(x[worse & (place > best)], default=np.inf)]
    near = (np.abs(x - x[best]) <= WINDOW) & ~worse
    if near.sum() < 3:  # a steep valley is all there is
        near |= abs(place - best) <= 1
    x, loss, best = x[near], loss[near], x[best]
    at, penalty_KA, chi2_KA, curvature_KA, error_KA = _profile(x, loss, sigma, walls)
    profile, within = penalty_KA.min(0), stats.chi2.ppf(level, 1)
    i = int(profile.argmin())
    k = int(penalty_KA[:, i].argmin())
    inside = at[profile <= profile[i] + within]
    low = inside.min() - STEP if inside.min() > at[0] else walls[0]
    high = inside.max() + STEP if inside.max() < at[-1] else walls[1]
    low, high = beyond(low, high, best, edge)
    side = side_of(low, high)
    flat = inside.min() <= at[0] and inside.max() >= at[-1]
    if flat and side == 0:  # between two walls
        side = np.nan
    bracketed = side == 0
    weight = np.exp(-(penalty_KA - profile[i]) / 2)
    rise_KA = valley(_K[:, None], (chosen if chosen in x else best) - at)
    left_KA = within - (penalty_KA - profile[i])  # by which the curvature may still be off
    most_KA = rise_KA * (curvature_KA + error_KA * np.sqrt(np.maximum(left_KA, 0)))
    curvature, skew = float(curvature_KA[k, i]), float(_K[k])
    bottom = float((loss - curvature * valley(skew, x - at[i])).mean())
    return Optimum(
        x=float(at[i]) if bracketed else np.nan,
        low=float(low),
        high=float(high),
        side=side,
        curvature=curvature if bracketed else np.nan,
        regret=float(np.average(curvature_KA * rise_KA, weights=weight)) if bracketed else np.nan,
        regret_high=float(most_KA[left_KA >= 0].max()) if bracketed else np.nan,
        skew=skew if bracketed else np.nan,
        bottom=bottom if bracketed else np.nan,
        edge=edge,
        points=len(x),
        chi2=float(chi2_KA[k, i]),
        df=max(len(x) - 3, 0),
        free=max(len(x) - 3 - _moved(x - at[i], curvature, skew, sigma), 0.0),
    )


def beyond(low, high, best, edge) -> tuple[float, float]:
    """An interval where nothing was tried beyond an edge: how far the optimum lies there is not
    known.
    """
    if edge == "low":
        return -np.inf, max(high, best)
    return (min(low, best), np.inf) if edge == "high" else (low, high)


def side_of(low, high) -> float:
    """`Optimum.side` of an interval."""
    open_low, open_high = np.isneginf(low), np.isposinf(high)
    return np.nan if open_low and open_high else float(open_high) - float(open_low)


def _moved(d, curvature, k, sigma) -> float:
    """The share of a degree of freedom that k takes: its information against its prior's."""
    by_k = curvature * (valley(k + 0.05, d) - valley(k - 0.05, d)) / 0.1
    by_x = valley(k, d + 0.05) - valley(k, d - 0.05)
    others = np.column_stack([np.ones_like(d), valley(k, d), by_x])
    rest = by_k - others @ np.linalg.lstsq(others, by_k, rcond=None)[0]
    information = float(rest @ rest) / sigma**2
    return information / (information + ASYMMETRY**-2)


def valley(k, d):
    """q_k(d), the rise of a valley d octaves from its bottom; two terms of it where k is small."""
    kd, flat = np.clip(k * d, -30, 30), np.abs(k) < 1e-3
    return np.where(flat, d**2 * (1 + kd / 3), 2 / np.where(flat, 1, k) ** 2 * (np.expm1(kd) - kd))


def _profile(x, loss, sigma, walls):
    """Vertices tried, between the walls; by (k, vertex): penalised and plain chi-square, curvature
    and its error.
    """
    at = np.arange(x.min() - 3, x.max() + 3 + STEP / 2, STEP)
    at = at[(at > walls[0]) & (at < walls[1])]
    rise_KAn = valley(_K[:, None, None], x - at[:, None])
    centred = rise_KAn - rise_KAn.mean(-1, keepdims=True)
    spread_KA = np.maximum((centred**2).sum(-1), 1e-12)
    curvature_KA = np.maximum((centred * loss).sum(-1) / spread_KA, 0)
    rest = loss - loss.mean() - curvature_KA[..., None] * centred
    chi2_KA = (rest**2).sum(-1) / sigma**2
    penalty_KA = chi2_KA + (_K[:, None] / ASYMMETRY) ** 2
    return at, penalty_KA, chi2_KA, curvature_KA, sigma / np.sqrt(spread_KA)
