"""How many seeds would settle a comparison, and what a given number could have found."""

import math
from typing import NamedTuple

from scipy import optimize, special

from analysis.stats import sequential


class Design(NamedTuple):
    """One comparison: two-sided error, looks (see `sequential`), pairs or two arms of equal size.

    sd: of one run, or of one paired difference. known: the sd is known, not estimated.
    """

    sd: float
    error: float = 0.05
    looks: int | None = 1
    paired: bool = False
    known: bool = False

    def shape(self, seeds: int) -> tuple[float, float, float]:
        """(runs that count, degrees of freedom, critical value) with so many seeds per arm."""
        n, df = (seeds, seeds - 1) if self.paired else (seeds / 2, 2 * seeds - 2)
        df = math.inf if self.known else df
        return n, df, sequential.critical(self.error, df, looks=self.looks, n=n)


def power(effect: float, seeds: int, design: Design) -> float:
    """Chance that a true advantage of `effect` is found with so many seeds per arm."""
    n, df, bar = design.shape(seeds)
    shift = abs(effect) / design.sd * math.sqrt(n)
    if math.isinf(bar):
        return 0.0
    if math.isinf(df):
        return float(special.ndtr(shift - bar))
    below = float(special.nctdtr(df, shift, bar))
    if math.isnan(below):  # far out scipy gives up; Abramowitz and Stegun 26.7.10 does not
        spread = math.sqrt(1 + bar**2 / (2 * df))
        below = float(special.ndtr((bar * (1 - 1 / (4 * df)) - shift) / spread))
    return 1 - below


def seeds_needed(effect: float, design: Design, *, chance=0.8, most=10_000) -> int | None:
    """Fewest seeds per arm that find `effect` with this chance; None if that takes over `most`."""
    if not effect or power(effect, most, design) < chance:
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, design) >= chance else (middle, high)
    return high


def detectable(seeds: int, design: Design, *, chance=0.8) -> float:
    """Smallest advantage found with this chance; infinite where no result would do."""
    _, _, bar = design.shape(seeds)
    if math.isinf(bar) or not design.sd > 0:
        return math.inf
    top = design.sd * (bar + 10) * 4
    return float(optimize.brentq(lambda x: power(x, seeds, design) - chance, 0, top))
