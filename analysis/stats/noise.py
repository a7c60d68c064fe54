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
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from scipy import special

Point = tuple[tuple[str, Any], ...]  # sorted (hyper-parameter, value) pairs

# Changes that cannot matter: of an epsilon this far below the gradients' scale, except where it is
# the floor of a curvature. The study's grids end here (1e-25 to 1e-10).
NULL_HYPERPARAMETERS = ("epsilon", "muon_epsilon", "scion_epsilon")
NULL_BELOW = 1e-10
NULL_EXCEPT = ("sophia",)
MANY = 20  # degrees of freedom from which null changes are pooled by their median
EFFICIENCY = 0.37  # of the median absolute deviation, for normal residuals
ENOUGH = 4  # degrees of freedom below which a spread is not told apart from a wider one
# Races are pooled unless Bartlett's test tells them apart at this level. Not 0.05: pooling what
# differs costs more than keeping apart what does not (Bancroft 1964 has 0.25).
APART = 0.2


class Noise(NamedTuple):
    """Standard deviation of a run's residual, in nats, and the degrees of freedom behind it."""

    sd: float
    df: float

    def margin(self, error_rate: float, seeds: int) -> float:
        """How far two points must differ on so many common seeds to be told apart, one-sided."""
        if self.df <= 0:
            return math.inf
        return _t(error_rate, self.df) * self.sd * math.sqrt(2 / seeds)

    def quantile(self, level: float = 0.95) -> float:
        """Half-width of a two-sided interval in standard errors: wide while the sd is uncertain."""
        return _t((1 - level) / 2, self.df) if self.df > 0 else math.inf

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of the standard deviation (chi-square)."""
        if not 0 < self.df < math.inf:
            return (self.sd, self.sd) if self.df else (0.0, math.inf)
        tails = special.chdtri(self.df, (0.5 - level / 2, 0.5 + level / 2))
        return tuple(self.sd * math.sqrt(self.df / float(tail)) for tail in tails)


class Levels(NamedTuple):
    """How far losses move, by what two runs have in common.

    residual  two settings of one optimizer on one seed
    paired    two optimizers on one seed: the residual, and what the seed does to one of them only
    total     two seeds: everything
    source    "seeds", "null changes" (a lower bound: seed and data order stay) or "assumed"
    groups    of runs that it was measured on
    races     the same for each (size, ratio) where they differ; empty where all are alike
    alike     p-values of "sizes are alike" and "ratios of a size are alike", where tested
    """

    residual: Noise
    paired: Noise
    total: Noise
    source: str
    groups: int = 0
    carries: tuple[float, float] = (0.0, 1.0)  # 95 % interval of `carried`
    races: Mapping[Hashable, Levels] = MappingProxyType({})
    alike: Mapping[str, float] = MappingProxyType({})
    by_sweeps: bool = False  # the residual is that of sweeps about their valleys

    def at(self, *race: Any) -> Levels:
        """The levels of a race, (size, ratio)."""
        return self.races.get(race, self)

    @property
    def least(self) -> Noise:
        """The paired spread with the degrees of freedom that every race has at least."""
        found = [race.paired.df for race in self.races.values()]
        return self.paired._replace(df=min([self.paired.df, *found]))

    @property
    def carried(self) -> float:
        """Share of a seed's variance that two optimizers have in common, between 0 and 1."""
        rest = self.total.sd**2 - self.paired.sd**2
        return max(rest / self.total.sd**2, 0.0) if self.total.sd else 0.0

    @property
    def common(self) -> float:
        """Standard deviation (nats) of what a seed does to all optimizers of a race alike."""
        return math.sqrt(self.carried) * self.total.sd

    @property
    def bounded(self) -> bool:
        """Whether the residual is only known to be no larger than the paired spread."""
        return self.source == "seeds" and self.residual.sd == self.paired.sd

    def with_residual(self, times: float, df: float) -> Levels:
        """The residual so many times as large in every race, with so many degrees of freedom: what
        sweeps scatter about their valleys. A race's own level is as uncertain as before, too.
        """
        races = {
            race: level.with_residual(times, 1 / (1 / df + 1 / level.residual.df))
            for race, level in self.races.items()
        }
        residual = Noise(self.residual.sd * times, df)
        return self._replace(residual=residual, races=races, by_sweeps=True)

    def __str__(self) -> str:
        low, high = self.total.interval()
        text = f"sigma {self.total.sd:.2g} nats ({low:.2g}-{high:.2g}; {self.source}"
        text += f", {self.groups} groups)" if self.groups else ")"
        if self.carried > 0:
            text += (
                f", of which {self.paired.sd:.2g} remain between optimizers on a common seed and"
                f" {self.residual.sd:.2g} between settings of one optimizer"
            )
        return text


def assumed(sd: float) -> Levels:
    """A noise level taken on trust, the same for every comparison."""
    if not (math.isfinite(sd) and sd > 0):
        raise ValueError(f"sigma: must be positive and finite, got {sd}")
    noise = Noise(float(sd), math.inf)
    return Levels(noise, noise, noise, "assumed")


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
    table = _rectangle(rows)
    if not table:
        return 0.0, 0
    count, seeds = len(table), len(table[0])
    by_point = [math.fsum(row) / seeds for row in table]
    by_seed = [math.fsum(column) / count for column in zip(*table, strict=True)]
    middle = math.fsum(by_point) / count
    residuals = (
        loss - point - seed + middle
        for row, point in zip(table, by_point, strict=True)
        for loss, seed in zip(row, by_seed, strict=True)
    )
    return math.fsum(r * r for r in residuals), (count - 1) * (seeds - 1)


def _rectangle(rows: Iterable[Sequence[float]]) -> list[Sequence[float]]:
    """The rows and seeds with the most degrees of freedom between them; none without one."""
    rows = sorted(rows, key=len, reverse=True)
    sizes = [((count - 1) * (len(row) - 1), count) for count, row in enumerate(rows, 1)]
    df, count = max(sizes, default=(0, 0))
    return [row[: len(rows[count - 1])] for row in rows[:count]] if df > 0 else []


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
    """The noise from two-way layouts, null changes and what was known before.

    Null changes may move a run less than a seed does, so they only ever raise the estimate, with
    their own degrees of freedom: alone where they are significantly larger, else together with the
    rest.
    """
    square, df = prior.df * prior.sd**2, prior.df
    for rows in layouts:
        more, degrees = layout_scatter(rows)
        square, df = square + more, df + degrees
    variance = square / df if df else 0.0
    null = null_spread(nulls)
    if not null.df or null.sd**2 <= variance:
        return Noise(math.sqrt(variance), df)
    if not variance or special.fdtrc(null.df, df, null.sd**2 / variance) < 0.05:
        return null
    square, df = square + null.df * null.sd**2, df + null.df
    return Noise(math.sqrt(square / df), df)


def levels(
    settings: Iterable[Iterable[Sequence[float]]],
    optimizers: Mapping[Any, Iterable[Sequence[float]]],
    nulls: Iterable[Sequence[float]],
) -> Levels | None:
    """The three spreads of a study; None where no run was repeated and no change was null.

    Args:
      settings: per cell its settings' losses by seed, and
      optimizers: per race, (size, ratio), its winners' losses by seed, both as `layout_scatter`
        takes them.
      nulls: groups of runs that should agree.

    A spread without ENOUGH degrees of freedom is not told apart from the next wider one. Runs of a
    race that share a seed do not tell of the total independently: its degrees of freedom are those
    of Satterthwaite for the share that is carried over.
    """
    settings = [list(rows) for rows in settings]
    optimizers = {race: list(rows) for race, rows in optimizers.items()}
    groups = [row for rows in settings for row in rows if len(row) > 1]
    square, df = scatter(groups)
    null = null_spread(nulls := list(nulls))
    if df < ENOUGH and null.df:
        return Levels(null, null, null, "null changes", sum(len(set(g)) > 1 for g in nulls))
    if not df:
        return None
    total = Noise(math.sqrt(square / df), df)
    paired = _narrower(estimate(optimizers.values()), total)
    residual = _narrower(estimate(settings), paired)
    found = Levels(residual, paired, total, "seeds", len(groups))
    together = max(len(groups) / len(optimizers), 1.0) if optimizers else 1.0
    total = total._replace(df=df / (1 + (together - 1) * found.carried**2))
    carries = _carries(optimizers.values()) if paired.df else found.carries
    return _apart(found._replace(total=total, carries=carries), optimizers)


def _carries(races: Iterable[list]) -> tuple[float, float]:
    """95 % interval of the share of a seed's variance that is common to the rows of a race.

    The intraclass correlation of pooled two-way layouts, by the ratio of the mean squares of seeds
    and of residuals (F; Shrout and Fleiss 1979).
    """
    between = within = 0.0
    df_between = df_within = count = 0
    for table in map(_rectangle, races):
        means = [math.fsum(column) / len(table) for column in zip(*table, strict=True)]
        (square, df), (spread, seeds) = layout_scatter(table), scatter([means])
        between, within = between + len(table) * spread, within + square
        df_between, df_within = df_between + seeds, df_within + df
        count += len(table) * seeds
    if not within or not between:
        return (0.0, 1.0)
    ratio, many = between / df_between / (within / df_within), count / df_between
    ends = (ratio / float(special.fdtri(df_between, df_within, p)) for p in (0.975, 0.025))
    low, high = ((f - 1) / (f + many - 1) for f in ends)
    return max(low, 0.0), max(high, 0.0)


def _apart(pooled: Levels, optimizers: Mapping[Any, list]) -> Levels:
    """The levels of each race, where sizes or the ratios of a size differ.

    What differs is measured on the winners' common seeds; the parts of the noise keep their
    proportions.
    """
    if pooled.paired.df < ENOUGH or pooled.paired == pooled.total:  # no common seeds to measure on
        return pooled
    races = {race: layout_scatter(rows) for race, rows in optimizers.items()}
    races = {race: of for race, of in races.items() if of[1] >= ENOUGH and of[0] > 0}
    sizes: dict[Any, dict] = {}
    for race, of in races.items():
        sizes.setdefault(race[0], {})[race] = of
    whole = {size: tuple(map(sum, zip(*of.values(), strict=True))) for size, of in sizes.items()}
    alike = {
        "sizes": bartlett([whole.values()]),
        "ratios": bartlett(map(dict.values, sizes.values())),
    }
    if alike["ratios"] < APART:
        own = races
    elif alike["sizes"] < APART:
        own = {race: whole[race[0]] for race in races}
    else:
        own = {}
    times = {race: math.sqrt(square / df) / pooled.paired.sd for race, (square, df) in own.items()}
    found = {race: _scaled(pooled, times[race], df) for race, (_, df) in own.items()}
    # an average of unequal variances is known as well as its largest parts are
    squares = [times[race] ** 2 for race in own]
    known = math.fsum(squares) ** 2 / math.fsum(x * x for x in squares) / len(own) if own else 1.0
    return _scaled(pooled, 1.0, known * pooled.total.df)._replace(races=found, alike=alike)


def _scaled(levels: Levels, times: float, df: float) -> Levels:
    """All spreads so many times as large, known to at most so many degrees of freedom."""
    parts = {name: getattr(levels, name) for name in ("residual", "paired", "total")}
    scaled = {name: Noise(part.sd * times, min(part.df, df)) for name, part in parts.items()}
    return levels._replace(**scaled)


def bartlett(families: Iterable[Iterable[tuple[float, float]]]) -> float:
    """p-value of Bartlett's test that variances are alike within every family.

    Args:
      families: of (sum of squares, degrees of freedom), all positive.
    """
    statistic, degrees = 0.0, 0
    for family in map(list, families):
        if len(family) < 2:
            continue
        df = math.fsum(d for _, d in family)
        pooled = math.log(math.fsum(s for s, _ in family) / df)
        apart = df * pooled - math.fsum(d * math.log(s / d) for s, d in family)
        small = (math.fsum(1 / d for _, d in family) - 1 / df) / (3 * (len(family) - 1))
        statistic, degrees = statistic + apart / (1 + small), degrees + len(family) - 1
    return float(special.chdtrc(degrees, statistic)) if degrees else 1.0


def _narrower(noise: Noise, wider: Noise) -> Noise:
    return noise if noise.df >= ENOUGH and noise.sd < wider.sd else wider


def null_spread(groups: Iterable[Sequence[float]]) -> Noise:
    """Noise from groups of runs that should agree; bit-identical losses of a group count once.

    The median absolute deviation where there are MANY degrees of freedom (mixed code versions
    leave a few groups far apart, see published/README.md), else the root mean square.
    """
    groups = [sorted(set(group)) for group in groups]
    square, df = scatter(groups)
    if df < MANY:
        return Noise(math.sqrt(square / df) if df else 0.0, df)
    away = [
        abs(loss - math.fsum(group) / len(group)) * math.sqrt(len(group) / (len(group) - 1))
        for group in groups
        if len(group) > 1
        for loss in group
    ]
    return Noise(statistics.median(away) / 0.6745, EFFICIENCY * df)
