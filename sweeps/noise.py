"""How much a final loss moves when nothing that matters changes, and what that allows one to
conclude.
 Three sources: the same point with other seeds; changes that cannot matter (an epsilon far below
the gradient's scale) at the same seed; and a variance declared by the study, worth a declared
number of degrees of freedom (the moderated variance of Smyth 2004). Null changes share data order
and initialisation, so they bound the seed noise from below: the larger of the two estimates counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from scipy import special

from sweeps.trial import Point

NULL_HYPERPARAMETERS = ("epsilon", "muon_epsilon", "scion_epsilon")


class Noise(NamedTuple):
    """Standard deviation of one run's final loss, in nats, and the degrees of freedom behind it."""

    sd: float
    df: float

    def margin(self, error_rate: float, n: int, m: int) -> float:
        """How far two means of n and m runs must differ to be told apart, one-sided, at this error
        rate.
        """
        if self.df <= 0:
            return math.inf
        return _t(error_rate, self.df) * self.sd * math.sqrt(1 / n + 1 / m)


UNKNOWN = Noise(0.0, 0.0)


@lru_cache(maxsize=4096)
def _t(error_rate: float, df: float) -> float:
    return -float(special.stdtrit(df, error_rate))


def scatter(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Pooled (sum of squares about group means, degrees of freedom)."""
    total, df = 0.0, 0
    for group in groups:
        if len(group) > 1:
            mean = math.fsum(group) / len(group)
            total += math.fsum((x - mean) ** 2 for x in group)
            df += len(group) - 1
    return total, df


def null_groups(losses: Mapping[Point, float], below: float) -> list[list[float]]:
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
    seeds: Iterable[Sequence[float]],
    nulls: Iterable[Sequence[float]] = (),
    *,
    prior_sd: float = 0.0,
    prior_df: float = 0.0,
) -> Noise:
    """The noise from repeats, null changes and the study's own declaration."""
    square, df = scatter(seeds)
    df += prior_df
    variance = (square + prior_df * prior_sd**2) / df if df else 0.0
    null_square, null_df = scatter(nulls)
    if null_df and null_square / null_df > variance:
        return Noise(math.sqrt(null_square / null_df), max(df, null_df))
    return Noise(math.sqrt(variance), df)
