"""Which settings of a sweep cannot be told from its best, and which hyper-parameters matter.

One rule for planner and report. A point is any hashable value; the sensitive sets need points that
are tuples of (hyper-parameter, value) pairs, as in `analysis.stats.noise.Point`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from scipy import optimize, special

from analysis.stats.noise import Noise

P = TypeVar("P", bound=Hashable)


def within(losses: Mapping[P, float], threshold: float) -> list[P]:
    """The study's rule (arXiv 2509.02046): points at most `threshold` nats above the best.

    Args:
      losses: nats per token; runs that did not finish are infinite and never near-best.
    """
    finished = {point: loss for point, loss in losses.items() if math.isfinite(loss)}
    best = min(finished.values(), default=math.inf)
    return [point for point, loss in finished.items() if loss <= best + threshold]


def not_worse(
    runs: Mapping[P, Sequence[float]], centre: P, noise: Noise, error_rate: float
) -> list[P]:
    """The tested rule: points that are not significantly worse than the best.

    The best of many equal points is ahead by luck, so the margin is that of the range of all of
    them (Tukey): what is truly as good as the best is kept, all of it at once, at `error_rate`.

    Args:
      runs: losses by point, the i-th of every point with the same seed; at least one each, finite.
      centre: the point with the most runs; the best is the one that gains most over it.
      noise: of a run's residual.
    """
    best = max(runs, key=lambda point: gain(runs[point], runs[centre]))

    def worse(point: P) -> bool:
        behind, seeds = gain(runs[best], runs[point])
        return behind > range_margin(noise, len(runs), error_rate) / math.sqrt(seeds)

    return [point for point in runs if not worse(point)]


def range_margin(noise: Noise, count: int, error_rate: float) -> float:
    """What the range of single runs of `count` equal points exceeds at `error_rate`, in nats."""
    if noise.df <= 0:
        return math.inf
    return noise.sd * studentized_range(error_rate, count, noise.df)


@lru_cache(maxsize=4096)
def studentized_range(error_rate: float, count: int, df: float) -> float:
    """Upper quantile of the range of `count` standard normal numbers over an independent estimate
    of their standard deviation with `df` degrees of freedom.

    By quadrature, to four digits of `error_rate`; `scipy.stats.studentized_range` takes a second.
    """
    if count < 2:
        return 0.0
    nodes, weights = np.polynomial.legendre.leggauss(96)
    share, weight = (1 + nodes) / 2, weights / 2
    sd = np.sqrt(2 * special.gammaincinv(df / 2, share) / df) if df < 1e6 else np.ones(1)
    weight = weight if df < 1e6 else np.ones(1)
    z = np.linspace(-8, 8, 257)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])

    def excess(q: float) -> float:
        inside = special.ndtr(z) - special.ndtr(z - q * sd[:, None])
        return weight @ (1 - count * (inside ** (count - 1)) @ density) - error_rate

    high = 4.0
    while excess(high) > 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-6))


def gain(losses: Sequence[float], over: Sequence[float]) -> tuple[float, int]:
    """Mean loss of `over` minus that of `losses` on their common seeds, and how many those are."""
    if len(losses) == 1 or len(over) == 1:
        return over[0] - losses[0], 1
    pairs = list(zip(losses, over, strict=False))
    return math.fsum(b - a for a, b in pairs) / len(pairs), len(pairs)


def sensitive(near: Iterable[Iterable[Mapping[str, Any]]], names: Iterable[str]) -> list[str]:
    """The hyper-parameters no value of which is near-best in every cell: the study's set rule.

    Args:
      near: each cell's near-best points as mappings; cells without any say nothing.
      names: hyper-parameters to ask about.
    """
    cells = [list(points) for points in near]
    values = {n: [{p.get(n) for p in points} for points in cells if points] for n in names}
    return [name for name, sets in values.items() if sets and not set.intersection(*sets)]
