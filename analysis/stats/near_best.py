"""Which settings of a sweep cannot be told from its best, and which hyper-parameters matter.

One rule for planner and report. A point is any hashable value; the sensitive sets need points that
are tuples of (hyper-parameter, value) pairs, as in `analysis.stats.noise.Point`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

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

    Args:
      runs: losses by point, the i-th of every point with the same seed; at least one each, finite.
      centre: the point with the most runs; the best is the one that gains most over it.
      noise: of a run's residual.
      error_rate: of all comparisons together.
    """
    best = max(runs, key=lambda point: gain(runs[point], runs[centre]))
    each = error_rate / max(1, len(runs) - 1)

    def worse(point: P) -> bool:
        behind, seeds = gain(runs[best], runs[point])
        return behind > noise.margin(each, seeds)

    return [point for point in runs if not worse(point)]


def gain(losses: Sequence[float], over: Sequence[float]) -> tuple[float, int]:
    """Mean loss of `over` minus that of `losses` on their common seeds, and how many those are."""
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
