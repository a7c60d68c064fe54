"""The search of one cell as a pure function of its finished results.

Two orders, one stopping rule. `star` (the study, arXiv 2509.02046) tries every one-parameter
change of the centre at once; `coordinate` tries one hyper-parameter after the other and moves as
soon as one helps. Either stops when the whole star of the centre has been run and nothing in it is
better. With `pairs` that star has four points more, where learning rate and batch size move
together: one-parameter changes do not see the ridge between them.

What counts as better is the rule's (`sweeps.plan.rules`). The search is replayed from its starting
point each time and uses only results it has itself asked for, so any interruption leads to the same
end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

from analysis.stats.hyper_laws import PAIR
from analysis.stats.noise import NULL_EXCEPT, UNKNOWN, Noise, estimate, null_groups
from sweeps.plan.rules import Rule
from sweeps.plan.trial import Cell, Outcome, Point, Trial, finite, freeze, gain, loss_of, losses_of


@dataclass(frozen=True)
class Problem:
    """One cell's search: where it starts, what it may try, and how it decides."""

    cell: Cell
    start: Mapping[str, Any]
    grids: Mapping[str, Sequence[Any]]
    bounds: Mapping[str, tuple[float, float]]  # whose grid may grow at its edges, and how far
    refusal: Callable[[Mapping[str, Any]], str | None]
    rule: Rule
    seed: int = 0
    fresh_seeds: tuple[int, ...] = ()  # for the winner only, never used to choose it
    prior: Noise | None = None  # the noise known before this cell's runs; None: the rule's
    calibrate: bool = False  # repeat the start and its best neighbours before judging

    @property
    def groups(self) -> list[tuple]:
        """What is tried at once: hyper-parameters, and last a pair of them that moves together."""
        star = self.rule.order == "star" or not self.grids
        groups: list[tuple] = [tuple(self.grids)] if star else [(name,) for name in self.grids]
        return groups + [(PAIR,)] * (self.rule.pairs and set(PAIR) <= set(self.grids))

    def seeds(self, count: int) -> list[int]:
        """The search's seeds: the study's first, then ones no winner is re-run with."""
        spare = max((self.seed, *self.fresh_seeds)) + 1
        return [self.seed, *range(spare, spare + count - 1)]


@dataclass
class Search:
    """One cell's search, replayed: where it stands, what it has run, what it needs to go on."""

    problem: Problem
    results: Mapping[Trial, Outcome]  # anything with `get`
    centre: Point
    pending: list[Trial] = field(default_factory=list)  # empty: the search is over
    runs: dict[Point, list[Outcome]] = field(default_factory=dict)  # in the order of asking
    losses: dict[Point, float] = field(default_factory=dict)  # of `runs`, at the study's seed
    refused: dict[Point, str] = field(default_factory=dict)
    moves: list[Point] = field(default_factory=list)
    ties: list[Point] = field(default_factory=list)
    noise: Noise = UNKNOWN  # of a run, when all is in
    converged: bool = False  # nothing around the centre is better; else stopped by max_moves
    refined: int = 0  # points run beyond the search, for equal effort
    proven: Point | None = None  # one of them that the rule prefers to the centre
    measured: Noise | None = None  # what `measure` found, while nothing has been taken in since

    def take(self, point: Point, outcomes: list[Outcome]) -> None:
        """Takes in all runs of a point."""
        self.runs[point], self.losses[point] = outcomes, loss_of(outcomes)
        self.measured = None

    @property
    def best(self) -> Point | None:
        """The winner: the lowest run by the study's rule, the centre by the tested rule."""
        point = self.problem.rule.winner(self)
        return point if finite(self.losses.get(point, math.inf)) else None

    def gain(self, point: Point, over: Point) -> tuple[float, int]:
        """By how much a point is better than another, and on how many common seeds."""
        return gain(self.runs[point], self.runs[over])

    def ask(self, points: Iterable[Point], count: int = 1) -> list[Trial]:
        """Takes up `count` runs of each feasible point; returns those not there yet."""
        missing, cell, seeds = [], self.problem.cell, self.problem.seeds(count)
        for point in points:
            if point in self.refused or len(self.runs.get(point, ())) >= count:
                continue
            if reason := self.problem.refusal(dict(point)):
                self.refused[point] = reason
                continue
            trials = [Trial(cell, point, seed) for seed in seeds]
            outcomes = [self.results.get(trial) for trial in trials]
            if None not in outcomes:
                self.take(point, outcomes)
                continue
            missing += [trial for trial, out in zip(trials, outcomes, strict=True) if out is None]
        return missing

    def open(self) -> list[Trial]:
        """What is missing of the start, its first neighbours, and the calibration of both."""
        problem, centre = self.problem, freeze(self.problem.start)
        first = neighbours(problem, centre, problem.groups[0])
        missing = self.ask([centre, *first])
        if missing or not (problem.calibrate and first):
            return missing
        tried = sorted((p for p in first if p in self.runs), key=self.losses.__getitem__)
        return self.ask([centre, *tried[:2]], problem.rule.calibration)

    def outward(self, point: Point) -> list[Point]:
        """One step beyond each edge on which a point lies, where the grid may grow."""
        base, grids, found = dict(point), self.problem.grids, []
        for name, bounds in self.problem.bounds.items():
            if name in grids and (value := extension(grids[name], base[name], bounds)) is not None:
                found.append(freeze({**base, name: value}))
        return found

    def unseen(self, centre: Point) -> int:
        """How many neighbours of a would-be centre have not been run."""
        star = neighbours(self.problem, centre, self.problem.grids)
        return sum(point not in self.runs and point not in self.refused for point in star)

    def repeated(self) -> list[list[float]]:
        """Losses by point and seed of what ran with more than one seed."""
        many = ((point, runs) for point, runs in self.runs.items() if len(runs) > 1)
        return [losses_of(runs) for point, runs in many if finite(self.losses[point])]

    def measure(self) -> Noise:
        """A run's residual, from all that was repeated or changed in vain so far."""
        if self.measured is None:
            nulls = ()
            if self.problem.cell.optimizer not in NULL_EXCEPT:
                nulls = null_groups({p: loss for p, loss in self.losses.items() if finite(loss)})
            prior = self.problem.prior or self.problem.rule.prior
            self.measured = estimate([self.repeated()], nulls, prior=prior)
        return self.measured


def neighbours(problem: Problem, centre: Point, names: Iterable[str | tuple]) -> list[Point]:
    """All one-parameter changes over the grids, one step beyond where the centre is on an edge; of
    a pair of names both moved at once, by one step each.
    """
    base, found = dict(centre), []
    names_in_order = list(base)
    for name in names:
        if isinstance(name, tuple):
            steps = [_steps(values(problem, one, base[one]), base[one]) for one in name]
            found += [freeze(base | dict(zip(name, both, strict=True))) for both in product(*steps)]
            continue
        at, here = names_in_order.index(name), base[name]
        before, after = centre[:at], centre[at + 1 :]
        others = [value for value in values(problem, name, here) if value != here]
        found += [(*before, (name, value), *after) for value in others]
    return found


def values(problem: Problem, name: str, here: Any) -> list[Any]:
    """What a hyper-parameter may be around a centre that has `here`."""
    found = list(problem.grids[name])
    if name in problem.bounds:
        beyond = extension(found, here, problem.bounds[name])
        found += [beyond] if beyond is not None else []
        found += between(found, here)
    return found


def _steps(values: Sequence[Any], here: Any) -> list[Any]:
    """The next smaller and the next larger value."""
    less, more = sorted(v for v in values if v < here), sorted(v for v in values if v > here)
    return less[-1:] + more[:1]


def between(values: Sequence[Any], value: Any) -> list[float]:
    """Factors of two and four around the centre of a grid of decades; nothing in a finer grid."""
    if not in_decades(values):
        return []
    return [v for k in (0.25, 0.5, 2, 4) if (v := float(f"{value * k:.6g}")) not in values]


def in_decades(values: Sequence[Any]) -> bool:
    numbers = sorted(values)
    return len(numbers) > 2 and numbers[0] > 0 and all(b >= 8 * a for a, b in pairwise(numbers))


def extension(values: Sequence[Any], value: Any, bounds: tuple[float, float]) -> Any | None:
    """The next value beyond a grid's edge, or beyond a value out there, by the grid's spacing; None
    inside or out of bounds.
    """
    grid = sorted(values)
    if len(grid) < 2 or grid[0] < value < grid[-1]:
        return None
    edge, inner = (grid[0], grid[1]) if value <= grid[0] else (grid[-1], grid[-2])
    ratios = [b / a for a, b in pairwise(grid)] if grid[0] > 0 else [1.0]
    geometric = max(ratios) < 1.5 * min(ratios) and max(ratios) >= 1.5
    beyond = value * (edge / inner) if geometric else value + (edge - inner)
    beyond = float(f"{beyond:.6g}")
    if all(isinstance(v, int) for v in values):
        beyond = round(beyond)
    return beyond if bounds[0] <= beyond <= bounds[1] and beyond != value else None


def opening(problem: Problem, results: Mapping[Trial, Outcome]) -> Search:
    """The first round of a cell's search and the calibration of its noise."""
    search = Search(problem, results, freeze(problem.start))
    search.pending = search.open()
    return search


def descend(problem: Problem, results: Mapping[Trial, Outcome]) -> Search:
    """A cell's search as far as the results carry it. Pure: the same results, the same answer."""
    return go_on(opening(problem, results))


def go_on(search: Search) -> Search:
    """`descend` from the search's opening."""
    _walk(search)
    search.noise = search.measure()
    return search


def _walk(search: Search) -> None:
    """Moves until nothing is better, or something is missing."""
    problem, rule, groups = search.problem, search.problem.rule, search.problem.groups
    quiet = turn = 0
    while quiet < len(groups) and not search.pending:
        candidates = neighbours(problem, search.centre, groups[turn % len(groups)])
        search.pending = search.ask(candidates)
        if search.pending:
            return
        verdict = rule.judge(search, candidates)
        if isinstance(verdict, list):
            search.pending = verdict
        elif verdict is None:
            quiet += 1
        elif len(search.moves) == rule.max_moves:
            return
        else:
            search.centre, quiet = verdict, 0
            search.moves.append(verdict)
        turn += 1
    search.converged = not search.pending
