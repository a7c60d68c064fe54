"""Equal effort: an optimizer with fewer hyper-parameters spends the difference on finer tuning.

The study gave AdamW 19 runs in a cell where Muon got 33. With `rule.equal_effort` every optimizer
gets as many runs in a cell as the one that needed most, to within that share: first half-steps
around its centre, then changes of two hyper-parameters at once, the most promising first, then
points scattered evenly around the centre.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations, islice
from typing import Any

from sweeps.plan.search import Search, neighbours
from sweeps.plan.trial import Outcome, Point, Trial, finite, freeze

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def runs(state: Search) -> int:
    """Runs a search has spent, repeats of contenders included."""
    return sum(map(len, state.runs.values()))


def equalise(
    states: Sequence[Search], results: Mapping[Trial, Outcome], slack: float
) -> list[Search]:
    """Tops up the searches of one size and ratio to within `slack` of the longest."""
    most = max(map(runs, states))
    wanted = [max(0, math.ceil((1 - slack) * most) - runs(state)) for state in states]
    return [refine(s, results, n) if n else s for s, n in zip(states, wanted, strict=True)]


def refine(state: Search, results: Mapping[Trial, Outcome], count: int) -> Search:
    """The settled search with `count` more points run; `pending` holds those that are missing.

    By the study's rule the best run wins, wherever it is. By the tested rule the centre stays
    unless a finer point is better at the rule's error rate over all of them.
    """
    problem = state.problem
    points = list(islice(refinements(state), count))
    trials = [Trial(problem.cell, point, problem.seed) for point in points]
    outcomes = [results.get(trial) for trial in trials]
    if missing := [t for t, outcome in zip(trials, outcomes, strict=True) if outcome is None]:
        return replace(state, pending=missing)
    refined = replace(state, runs=dict(state.runs), losses=dict(state.losses), refined=len(points))
    for point, outcome in zip(points, outcomes, strict=True):
        refined.take(point, [outcome])
    refined.proven = problem.rule.finer(refined, points)
    return refined


def refinements(state: Search) -> Iterator[Point]:
    """New points around a centre, the most promising first, each once."""
    centre, seen = dict(state.centre), {*state.runs, *state.refused}
    star = neighbours(state.problem, state.centre, state.problem.grids)
    losses = state.losses
    star = sorted((p for p in star if finite(losses.get(p, math.inf))), key=losses.__getitem__)
    changes = [{n: v for n, v in point if v != centre[n]} for point in star]
    halves = ({n: halfway(centre[n], v) for n, v in change.items()} for change in changes)
    pairs = ({**a, **b} for a, b in combinations(changes, 2) if a.keys() != b.keys())
    for change in chain(halves, pairs, _scattered(state)):
        point = freeze({**centre, **change})
        if None in change.values() or point in seen or state.problem.refusal(dict(point)):
            continue
        seen.add(point)
        yield point


def _scattered(state: Search) -> Iterator[dict[str, Any]]:
    """Without end: a Halton sequence in the box between the centre's nearest values."""
    centre, boxes = dict(state.centre), {}
    for name, grid in state.problem.grids.items():
        numbers = sorted(v for v in {*grid, centre[name]} if not isinstance(v, (bool, str)))
        if centre[name] in numbers:
            at = numbers.index(centre[name])
            boxes[name] = (numbers[max(0, at - 1)], numbers[min(len(numbers) - 1, at + 1)])
    for i in range(1, 10_000 if boxes else 1):
        shares = [_radical_inverse(i, prime) for _, prime in zip(boxes, PRIMES, strict=False)]
        yield {
            name: between(*box, share)
            for (name, box), share in zip(boxes.items(), shares, strict=False)
        }


def _radical_inverse(i: int, base: int) -> float:
    share, digit = 0.0, 1.0
    while i:
        i, rest = divmod(i, base)
        digit /= base
        share += rest * digit
    return share


def halfway(a: Any, b: Any) -> Any | None:
    """Between two numbers, in ratio where both are positive; None if nothing is between them."""
    if any(isinstance(v, (bool, str)) for v in (a, b)):
        return None
    middle = between(a, b, 0.5)
    return middle if middle not in (a, b) else None


def between(a: float, b: float, share: float) -> float:
    """The number a share of the way from a to b, in ratio where both are positive."""
    value = a * (b / a) ** share if a > 0 and b > 0 else a + (b - a) * share
    whole = isinstance(a, int) and isinstance(b, int)
    return round(value) if whole else float(f"{value:.6g}")
