"""Who is ahead of whom in a race, by its fair losses: gaps, verdicts, and who may be the best.

Two cells of a race that stand on the same seeds are compared on them, so that what a seed does to
every optimizer alike is no error of their gap. Verdicts of one report hold together: those against
the baseline by Holm's procedure over all cells, those about the best of a race by Bonferroni over
its rivals and over the races (Hsu's comparison with the best).
"""

import itertools

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimates.table import Rows
from analysis.runs.names import RACE, at
from analysis.stats.noise import Noise

ERROR_RATE = 0.05
CHANCE = 0.8  # of finding what is there, at which a comparison is planned
MOST_SEEDS = 1000  # beyond which seeds do not settle anything
ORDERED = 0.95  # probability above which one optimizer is called faster than another


def gap(a, b) -> tuple[float, float]:
    """How far cell `b` lies below cell `a` (nats), and the standard error of that."""
    square = a.se**2 + b.se**2
    if a.seeds != b.seeds:  # nothing cancels
        square += a.common_se**2 + b.common_se**2
    return a.loss - b.loss, float(np.sqrt(square))


def put_comparisons(rows: Rows, cells: pd.DataFrame, noise: Noise | None, baseline: str) -> None:
    """Gaps to the baseline with Holm's p-values; distances to the best; pairwise probabilities.

    Args:
      cells: `losses.cell_losses`, widened by the scatter of cells.
      noise: its degrees of freedom are those of the errors; None gives gaps without errors.
    """
    races = list(cells.groupby(RACE, sort=False))
    _put_gaps(rows, [race for _, race in races], noise, baseline)
    if noise is None:
        return
    contested = [(key, list(race.itertuples())) for key, race in races if len(race) > 1]
    for key, race in contested:
        _put_behind(rows, race, noise, len(contested))
        probabilities = {}
        for a, b in itertools.combinations(race, 2):
            below, error = gap(b, a)
            probabilities[a.optimizer, b.optimizer] = float(stats.t.cdf(below / error, noise.df))
            half, note = error * noise.quantile(), _advice(a, b, below, error, noise)
            ends = (below - half, below + half)
            rows.put("pair", "fair_losses", f"below_{b.optimizer}", below, *ends, note, **at(a))
        put_order(rows, "fair_losses", probabilities, **dict(zip(RACE, key, strict=True)))


def _put_gaps(rows, races, noise, baseline):
    found = []
    for race in races:
        base = race[race.optimizer == baseline]
        for cell in race[race.optimizer != baseline].itertuples() if len(base) else ():
            value, error = gap(next(base.itertuples()), cell)
            if noise is None:
                rows.put("gap", "fair_losses", "nats", value, note="noise unknown", **at(cell))
            else:
                p = float(2 * stats.t.sf(abs(value) / error, noise.df))
                found.append((cell, value, error * noise.quantile(), p))
                _put_power(rows, next(base.itertuples()), cell, value, error, noise)
    adjusted = holm([p for *_, p in found])
    rivals = {key: len(race) - 1 for race in races for key in race.groupby(RACE).groups}
    for (cell, value, half, p), together in zip(found, adjusted, strict=True):
        ends = (value - half, value + half)
        rows.put("gap", "fair_losses", "nats", value, *ends, verdict(value, together), **at(cell))
        rows.put("gap", "fair_losses", "p_value", p, note="of this gap alone", **at(cell))
        m = rivals[cell.model_size, cell.chinchilla_ratio]
        half *= noise.quantile(1 - ERROR_RATE / m) / noise.quantile()
        note = f"simultaneous over the {m} rivals of the race"
        ends = (value - half, value + half)
        rows.put("gap", "fair_losses", "nats_together", value, *ends, note, **at(cell))
        note = f"of {len(found)} gaps together (Holm)"
        rows.put("gap", "fair_losses", "p_together", together, note=note, **at(cell))


def _reach(error, noise) -> float:
    """The true gap that a comparison with this error finds with the chance CHANCE."""
    return (noise.quantile() + stats.norm.ppf(CHANCE)) * error


def _seeds_to_settle(a, b, effect, error, noise) -> float:
    """Fresh seeds of both cells at which their gap is found with the chance CHANCE, if it is what
    it seems; infinite where cells scatter about their curves by more than that.
    """
    m, n = (len(cell.seeds.split()) for cell in (a, b))
    runs = noise.sd**2 / m + noise.sd**2 / n  # the part of the error that seeds narrow
    left = (effect * error / _reach(error, noise)) ** 2 - max(error**2 - runs, 0.0)
    return np.ceil(runs * min(m, n) / left) if left > 0 else np.inf


def _advice(a, b, effect, error, noise) -> str:
    """Whether a pair is told apart, and what would, in words."""
    if abs(effect) > noise.quantile() * error:
        return "resolved, this pair alone"
    seeds = _seeds_to_settle(a, b, effect, error, noise)
    if seeds > MOST_SEEDS:
        return "not resolved; no more seeds of these cells would, were this gap the true one"
    return f"not resolved; {seeds:.0f} fresh seeds of both would, were this gap the true one"


def _put_power(rows, base, cell, value, error, noise):
    """What the gap of a cell could have shown, and what would settle it."""
    note = f"a true gap of this size is found with a chance of {CHANCE:.0%}, taken by itself"
    rows.put("gap", "fair_losses", "detectable", _reach(error, noise), note=note, **at(cell))
    seeds = _seeds_to_settle(base, cell, value, error, noise)
    note = _advice(base, cell, value, error, noise)
    if seeds <= MOST_SEEDS:
        rows.put("gap", "fair_losses", "seeds_to_settle", seeds, note=note, **at(cell))


def holm(p_values) -> np.ndarray:
    """Holm's adjusted p-values: at most ERROR_RATE of families reject a true null below it."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def verdict(value: float, together: float) -> str:
    """faster, slower or not resolvable, from a gap and its p-value among all of the report."""
    if together > ERROR_RATE:
        return "not resolvable"
    return "faster" if value > 0 else "slower"


def _put_behind(rows, race, noise, races):
    """Loss above the best other's: an interval wholly above zero is not the best of its race."""
    critical = noise.quantile(1 - 2 * ERROR_RATE / races / (len(race) - 1))
    for cell in race:
        others = [(*gap(cell, other), other.optimizer) for other in race if other is not cell]
        behind, _, rival = max(others)
        low = max(distance - critical * error for distance, error, _ in others)
        high = max(distance + critical * error for distance, error, _ in others)
        note = f"against {rival}; simultaneous over {races} races"
        rows.put("race", "fair_losses", "behind_best", behind, low, high, note, **at(cell))


def put_order(rows: Rows, procedure: str, probabilities: dict, **where) -> None:
    """P(a is faster than b) of every pair of a race, one pair at a time."""
    open_pairs = []
    for (a, b), p in probabilities.items():
        note = "" if max(p, 1 - p) >= ORDERED else "not resolvable at this budget"
        if note:
            open_pairs.append(f"{a} and {b} ({max(p, 1 - p):.2f})")
        rows.put("order", procedure, f"p_faster_than_{b}", p, note=note, optimizer=a, **where)
        rows.put("order", procedure, f"p_faster_than_{a}", 1 - p, note=note, optimizer=b, **where)
    if open_pairs:
        note = "cannot order " + "; ".join(open_pairs)
        rows.put("order", procedure, "unordered_pairs", len(open_pairs), note=note, **where)


def headline_races(cells: pd.DataFrame) -> list[pd.DataFrame]:
    """Where headlines come from: at each size the largest budget that at least half as many
    optimizers ran as any budget of that size; lowest fair loss first."""
    races = []
    for _, at_size in cells.groupby("model_size", sort=False):
        count = at_size.groupby("chinchilla_ratio")["optimizer"].nunique()
        ratio = count.index[count >= count.max() / 2].max()
        race = at_size[at_size["chinchilla_ratio"] == ratio]
        races.append(race.sort_values("loss", kind="stable"))
    return races
