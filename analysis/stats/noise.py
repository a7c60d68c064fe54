"""How much a final loss moves when nothing that matters changes, and what that allows one to say.

A run's loss is taken as point + seed + residual. The seed's share (initialisation, data order) is
often the largest, but it is the same for all points, so points are compared on common seeds only
and what counts is the residual. Three sources tell of it: points that were run with several common
seeds (a two-way layout); changes that cannot matter (an epsilon far below the gradient's scale),
which bound it from below; and what is known from elsewhere, as so many degrees of freedom (the
moderated variance of Smyth 2004).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from scipy import special

Point = tuple[tuple[str, Any], ...]  # sorted (hyper-parameter, value) pairs

# Changes that cannot matter: of an epsilon this far below the gradients' scale, except where it is
# the floor of a curvature. The study's grids end here (1e-25 to 1e-10).
NULL_HYPERPARAMETERS = ("epsilon", "muon_epsilon", "scion_epsilon")
NULL_BELOW = 1e-10
NULL_EXCEPT = ("sophia",)


class Noise(NamedTuple):
    """Standard deviation of a run's residual, in nats, and the degrees of freedom behind it."""

    sd: float
    df: float

    def margin(self, error_rate: float, seeds: int) -> float:
        """How far two points must differ on so many common seeds to be told apart, one-sided."""
        if self.df <= 0:
            return math.inf
        return _t(error_rate, self.df) * self.sd * math.sqrt(2 / seeds)


UNKNOWN = Noise(0.0, 0.0)


@lru_cache(maxsize=4096)
def _t(error_rate: float, df: float) -> float:
    return -float(special.stdtrit(df, error_rate))


def layout_scatter(rows: Iterable[Sequence[float]]) -> tuple[float, int]:
    """(sum of squares, degrees of freedom) of what neither point nor seed explains.

    Args:
      rows: losses by point; the i-th entries of all rows share a seed, rows may end early. The
        rectangle with the most degrees of freedom is used.
    """
    rows = sorted(rows, key=len, reverse=True)
    sizes = [((count - 1) * (len(row) - 1), count) for count, row in enumerate(rows, 1)]
    df, count = max(sizes, default=(0, 0))
    if df <= 0:
        return 0.0, 0
    seeds = len(rows[count - 1])
    table = [row[:seeds] for row in rows[:count]]
    by_point = [math.fsum(row) / seeds for row in table]
    by_seed = [math.fsum(column) / count for column in zip(*table, strict=True)]
    middle = math.fsum(by_point) / count
    residuals = (
        loss - point - seed + middle
        for row, point in zip(table, by_point, strict=True)
        for loss, seed in zip(row, by_seed, strict=True)
    )
    return math.fsum(r * r for r in residuals), df


def scatter(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Pooled (sum of squares about group means, degrees of freedom)."""
    total, df = 0.0, 0
    for group in groups:
        if len(group) > 1:
            mean = math.fsum(group) / len(group)
            total += math.fsum((x - mean) ** 2 for x in group)
            df += len(group) - 1
    return total, df


def null_groups(losses: Mapping[Point, float], below: float = NULL_BELOW) -> list[list[float]]:
    """Losses of points that differ only in an epsilon no larger than `below`.

    Bit-identical losses are one sample, not two: such a change did not perturb the run at all.
    """
    groups: dict[tuple, set[float]] = {}
    for point, loss in losses.items():
        for name, value in point:
            if name in NULL_HYPERPARAMETERS and 0 < value <= below:
                rest = (name, tuple(pair for pair in point if pair[0] != name))
                groups.setdefault(rest, set()).add(loss)
    return [sorted(group) for group in groups.values()]


def estimate(
    layouts: Iterable[Iterable[Sequence[float]]],
    nulls: Iterable[Sequence[float]] = (),
    *,
    prior: Noise = UNKNOWN,
) -> Noise:
    """The noise from two-way layouts, null changes and what was known before."""
    square, df = prior.df * prior.sd**2, prior.df
    for rows in layouts:
        more, degrees = layout_scatter(rows)
        square, df = square + more, df + degrees
    variance = square / df if df else 0.0
    null_square, null_df = scatter(nulls)
    if null_df and null_square / null_df > variance:
        return Noise(math.sqrt(null_square / null_df), max(df, null_df))
    return Noise(math.sqrt(variance), df)
