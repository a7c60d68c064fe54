"""The difference of two groups of runs: paired by seed where that is shown to help, else Welch's t.

Everything here is a mean, its standard error and the degrees of freedom behind it; how many looks
or variants the critical value must carry is `sequential`'s question, how many seeds `power`'s.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from analysis.stats.noise import UNKNOWN, Noise, bartlett, scatter

PAIRS = 4  # fewer common seeds say nothing about how far seeds carry over
ROUNDING = 1e-12  # relative: losses closer than this are the same


class Difference(NamedTuple):
    """mean(b) - mean(a) with its standard error; what it rests on.

    n: runs that count, n_a n_b / (n_a + n_b), or the number of pairs. sd: of one run, or of one
    paired difference. correlation: of same-seed values, NaN with fewer than three common seeds.
    """

    value: float
    se: float
    df: float
    n: float
    sd: float
    paired: bool
    correlation: float
    note: str


def difference(
    a: Mapping, b: Mapping, *, pair: bool | None = None, noise: Noise = UNKNOWN
) -> Difference:
    """mean(b) - mean(a) of two groups given as {seed: value}; a key that is unique pairs nothing.

    Args:
      pair: True or False as decided beforehand. None: pair when the common seeds' correlation is
        above zero (one-sided p < 0.05) and the pairs then say more than all runs unpaired. The
        choice looks at the scatter alone, which says nothing about the difference of the means.
      noise: what is known of one run's scatter from elsewhere; joined with the groups' own unless
        they contradict it (p < 0.01). Not used for pairs.

    Returns:
      se is infinite where nothing tells the noise: one run each, or all values equal.

    Raises:
      ValueError: an empty group, or `pair` without two common seeds.
    """
    if not a or not b:
        raise ValueError("a group has no runs")
    common = sorted(set(a) & set(b), key=str)
    x, y = (np.array([group[seed] for seed in common], float) for group in (a, b))
    correlation = math.nan
    if len(common) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
        correlation = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if pair and len(common) < 2:
        raise ValueError(f"pairs need two common seeds, found {len(common)}")
    left, right = (np.array(list(group.values()), float) for group in (a, b))
    if pair or (pair is None and _helps(correlation, len(common), len(left), len(right))):
        gap = y - x
        sd = float(gap.std(ddof=1))
        note = f"paired on {len(common)} common seeds (correlation {correlation:.2f})"
        if sd <= ROUNDING * np.abs(x).max():
            return _blind(float(gap.mean()), len(common), correlation, "all pairs differ alike")
        se, df = sd / math.sqrt(len(gap)), len(gap) - 1
        return Difference(float(gap.mean()), se, df, len(gap), sd, True, correlation, note)
    note = "unpaired"
    if len(common) >= PAIRS and pair is None:
        note = f"unpaired: {len(common)} common seeds do not help (correlation {correlation:.2f})"
    return _unpaired(left, right, noise, correlation, note)


def _helps(r, common, n_a, n_b):
    if common < PAIRS or not r > 0:
        return False
    t = r * math.sqrt((common - 2) / max(1 - r * r, 1e-12))
    return special.stdtr(common - 2, -t) < 0.05 and 2 * (1 - r) / common < 1 / n_a + 1 / n_b


def _blind(value, n, correlation, note):
    return Difference(value, math.inf, 0, n, math.nan, False, correlation, note)


def _unpaired(a, b, noise, correlation, note):
    value, n = float(b.mean() - a.mean()), 1 / (1 / len(a) + 1 / len(b))
    squares = [float(((x - x.mean()) ** 2).sum()) for x in (a, b)]
    own_df = len(a) + len(b) - 2
    if noise.df > 0:
        merged = merge(sum(squares), own_df, noise)
        note += "; the noise given" + (
            " is joined" if merged.df > own_df else " is refuted by the runs"
        )
        se = merged.sd / math.sqrt(n)
        return Difference(value, se, merged.df, n, merged.sd, False, correlation, note)
    if sum(squares) <= (ROUNDING * np.abs(a).max()) ** 2:
        why = "one run each" if not own_df else "all losses of an arm are the same"
        return _blind(value, n, correlation, f"{why}: nothing tells the noise (give --sigma)")
    sd = math.sqrt(sum(squares) / own_df)
    if min(len(a), len(b)) == 1:
        note += "; one arm has a single run and is taken to scatter like the other"
        return Difference(value, sd / math.sqrt(n), own_df, n, sd, False, correlation, note)
    parts = [s / (len(x) - 1) / len(x) for s, x in zip(squares, (a, b), strict=True)]
    df = sum(parts) ** 2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (a, b), strict=True))
    return Difference(value, math.sqrt(sum(parts)), df, n, sd, False, correlation, note)


def merge(squares: float, df: float, noise: Noise) -> Noise:
    """A sum of squares joined with known noise; what was known gives way when refuted (p < .01)."""
    if df > 0:
        ratio = squares / df / noise.sd**2
        tail = special.fdtr(df, noise.df, ratio) if np.isfinite(noise.df) else 0.0
        if not np.isfinite(noise.df):
            tail = special.chdtr(df, ratio * df)
        if not 0.005 < tail < 0.995:
            return Noise(math.sqrt(squares / df), df)
    if not np.isfinite(noise.df):
        return noise
    return Noise(math.sqrt((noise.df * noise.sd**2 + squares) / (noise.df + df)), noise.df + df)


def pooled(groups) -> tuple[Noise, float]:
    """Scatter common to all groups, and the p-value of "one sigma fits all" (Bartlett).

    Args:
      groups: sequences of values; those with fewer than two values count for nothing.
    """
    squares = [scatter([group]) for group in groups if len(group) > 1]
    square, df = map(math.fsum, zip(*squares, strict=True))
    return Noise(math.sqrt(square / df), df), bartlett([squares])


def fisher(correlations, pairs, level=0.95) -> tuple[float, float, float]:
    """A common correlation of several groups of pairs: estimate, low, high (Fisher's z)."""
    r, n = np.asarray(correlations, float), np.asarray(pairs, float)
    keep = (n > 3) & np.isfinite(r)
    weight = (n - 3)[keep]
    z = (weight * np.arctanh(np.clip(r[keep], -0.999999, 0.999999))).sum() / weight.sum()
    half = special.ndtri(0.5 + level / 2) / math.sqrt(weight.sum())
    return tuple(float(v) for v in np.tanh([z, z - half, z + half]))
