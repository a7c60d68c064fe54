"""The search of one cell as a pure function of its finished results.

Two orders, one stopping rule. `star` (the study, arXiv 2509.02046) tries every one-parameter
change of the centre at once; `coordinate` tries one hyper-parameter after the other and moves as
soon as one helps. Either stops when the whole star of the centre has been run and nothing in it is
better.

"Better" is either the study's fixed threshold or a test against measured noise. The search is
replayed from its starting point each time and uses only results it has itself asked for, so any
interruption leads to the same end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from analysis.stats.noise import Noise, estimate, null_groups
from sweeps.plan.trial import Cell, Outcome, Point, Trial, finite, freeze


@dataclass(frozen=True)
class Rule:
    """How a race decides. Losses and thresholds in nats per token.

    `published` moves when the best run beats the centre by more than `threshold`. `noise` compares
    on common seeds, moves when a gain is significant at `error_rate` over the star and all looks,
    and repeats up to `contenders` apparent gains above `tolerance` before it calls them ties.
    """

    mode: str = "published"
    order: str = "star"
    threshold: float = 3e-3  # PROTOCOL's Delta 1
    near_best: float = 6.4e-3  # Delta 2, the paper's
    fewer_missing: int = 10  # so many fewer unseen neighbours make a near-best point the centre
    max_moves: int = 8
    error_rate: float = 0.05
    tolerance: float = 1e-3
    contenders: int = 3
    looks: tuple[int, ...] = (1, 3, 5)  # runs per contender at each look
    calibration: int = 3  # runs of Phase I's starts and their best neighbours: a first estimate
    prior_sd: float = 0.0  # noise declared before any run, worth prior_df degrees of freedom
    prior_df: float = 0.0
    null_below: float = 1e-12  # epsilons up to here cannot matter
    extend: tuple[str, ...] = (
        "I",
    )  # phases whose grids grow at edges; elsewhere these are flagged
    equal_effort: float = 0.0  # runs of all optimizers in a cell equal within this share; 0: off
    verify: bool = False  # Phase III runs the star of its prediction too


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
    def groups(self) -> list[tuple[str, ...]]:
        """The hyper-parameters that are tried together."""
        if self.rule.order == "star" or not self.grids:
            return [tuple(self.grids)]
        return [(name,) for name in self.grids]

    def seeds(self, count: int) -> list[int]:
        """The search's seeds: the study's first, then ones no winner is re-run with."""
        spare = max((self.seed, *self.fresh_seeds)) + 1
        return [self.seed, *range(spare, spare + count - 1)]


class Pending(NamedTuple):
    """The search needs these before it can go on."""

    trials: list[Trial]


@dataclass
class Settled:
    """The end of a search: its centre, everything it ran, and how sure it is."""

    problem: Problem
    centre: Point
    runs: dict[Point, list[Outcome]]  # every point asked for, in the order of asking
    refused: dict[Point, str]
    moves: list[Point]
    noise: Noise
    converged: bool = True  # False: stopped by max_moves
    ties: list[Point] = field(default_factory=list)
    refined: int = 0  # points run beyond the search, for equal effort
    proven: Point | None = None  # one of them that the noise rule prefers to the centre

    @cached_property
    def losses(self) -> dict[Point, float]:
        """Loss of every point that was run, at the study's seed: comparable, point by point."""
        return {point: loss_of(runs) for point, runs in self.runs.items()}

    @cached_property
    def best(self) -> Point | None:
        """The winner: the lowest run by the study's rule, the tested centre by the noise rule."""
        point = self.proven or self.centre
        if self.problem.rule.mode == "published":
            point = min(self.losses, key=self.losses.__getitem__, default=point)
        return point if finite(self.losses.get(point, math.inf)) else None

    def gain(self, point: Point, over: Point) -> tuple[float, int]:
        """By how much a point is better than another, and on how many common seeds."""
        return gain(self.runs[point], self.runs[over])


def loss_of(runs: Sequence[Outcome]) -> float:
    """Loss of a point's first run; infinite if any of its runs did not finish."""
    return runs[0].loss if runs and all(finite(run.loss) for run in runs) else math.inf


def gain(runs: Sequence[Outcome], over: Sequence[Outcome]) -> tuple[float, int]:
    """Mean loss of `over` minus that of `runs` on their common seeds, and their number."""
    pairs = list(zip(runs, over, strict=False))
    return math.fsum(b.loss - a.loss for a, b in pairs) / len(pairs), len(pairs)


def neighbours(problem: Problem, centre: Point, names: Iterable[str]) -> list[Point]:
    """All one-parameter changes over the grids, one step beyond where the centre is on an edge."""
    base, found = dict(centre), []
    for name in names:
        values = list(problem.grids[name])
        if name in problem.bounds:
            beyond = extension(values, base[name], problem.bounds[name])
            values += [beyond] if beyond is not None else []
        found += [freeze({**base, name: value}) for value in values if value != base[name]]
    return found


def extension(values: Sequence[Any], value: Any, bounds: tuple[float, float]) -> Any | None:
    """The next value beyond the edge of a grid, by its spacing; None inside or out of bounds."""
    numbers = sorted({*values, value})
    if len(numbers) < 2 or value not in (numbers[0], numbers[-1]):
        return None
    edge, inner = (numbers[0], numbers[1]) if value == numbers[0] else (numbers[-1], numbers[-2])
    positive = numbers[0] > 0
    ratios = [b / a for a, b in pairwise(numbers)] if positive else []
    geometric = positive and max(ratios) < 1.5 * min(ratios) and max(ratios) >= 1.5
    beyond = edge * (edge / inner) if geometric else edge + (edge - inner)
    beyond = float(f"{beyond:.6g}")
    if all(isinstance(v, int) for v in values):
        beyond = round(beyond)
    return beyond if bounds[0] <= beyond <= bounds[1] and beyond != edge else None


def layout(problem: Problem, results: Mapping[Trial, Outcome]) -> list[list[float]] | None:
    """Losses of a cell's calibration by point and seed, or None while any is missing."""
    search = _Search(problem, results)
    if search.open():
        return None
    runs = [r for r in search.runs.values() if len(r) > 1 and finite(loss_of(r))]
    return [[run.loss for run in r] for r in runs]


def opening(problem: Problem, results: Mapping[Trial, Outcome]) -> list[Trial]:
    """What is missing of the first round and its calibration."""
    return _Search(problem, results).open()


def descend(problem: Problem, results: Mapping[Trial, Outcome]) -> Pending | Settled:
    """The next trials of a cell's search, or its end. Pure: the same results give the same answer.

    Args:
      results: outcomes by trial; anything with `.get`.
    """
    rule, search, groups = problem.rule, _Search(problem, results), problem.groups
    if missing := search.open():
        return Pending(missing)
    centre, moves, quiet, turn = freeze(problem.start), [], 0, 0
    while quiet < len(groups):
        candidates = neighbours(problem, centre, groups[turn % len(groups)])
        if missing := search.ask(candidates):
            return Pending(missing)
        verdict = search.judge(centre, candidates)
        if isinstance(verdict, Pending):
            return verdict
        turn += 1
        if verdict is None:
            quiet += 1
            continue
        if len(moves) == rule.max_moves:
            return search.settled(centre, moves, converged=False)
        centre, quiet = verdict, 0
        moves.append(centre)
    return search.settled(centre, moves, converged=True)


class _Search:
    """What one replay of a search has asked for so far."""

    def __init__(self, problem: Problem, results: Mapping[Trial, Outcome]):
        self.problem, self.results = problem, results
        self.runs: dict[Point, list[Outcome]] = {}
        self.refused: dict[Point, str] = {}
        self.ties: list[Point] = []

    def open(self) -> list[Trial]:
        """What is missing of the start, its first neighbours, and the calibration of both."""
        problem, centre = self.problem, freeze(self.problem.start)
        first = neighbours(problem, centre, problem.groups[0])
        missing = self.ask([centre, *first])
        if missing or not (problem.calibrate and first):
            return missing
        tried = sorted((p for p in first if p in self.runs), key=lambda p: loss_of(self.runs[p]))
        return self.ask([centre, *tried[:2]], problem.rule.calibration)

    def ask(self, points: Iterable[Point], count: int = 1) -> list[Trial]:
        """Takes up `count` runs of each feasible point; returns those not there yet."""
        missing = []
        for point in points:
            if point in self.refused or len(self.runs.get(point, ())) >= count:
                continue
            if reason := self.problem.refusal(dict(point)):
                self.refused[point] = reason
                continue
            trials = [Trial(self.problem.cell, point, seed) for seed in self.problem.seeds(count)]
            outcomes = [self.results.get(trial) for trial in trials]
            missing += [trial for trial, out in zip(trials, outcomes, strict=True) if out is None]
            if None not in outcomes:
                self.runs[point] = outcomes
        return missing

    def judge(self, centre: Point, candidates: Sequence[Point]) -> Point | Pending | None:
        """Where to move, what to repeat first, or None to stay."""
        if self.problem.rule.mode == "noise":
            return self._judge_noise(centre, candidates)
        rule, losses = self.problem.rule, {p: loss_of(r) for p, r in self.runs.items()}
        best = min(losses, key=losses.__getitem__, default=None)
        here = losses.get(centre, math.inf)
        if best is None or not finite(losses[best]) or here <= losses[best] + rule.threshold:
            return None
        missing = {
            point: self._unseen(point)
            for point, loss in losses.items()
            if loss <= losses[best] + rule.threshold
        }
        fewest = min(missing, key=lambda p: (missing[p], losses[p]))
        return fewest if missing[fewest] <= missing[best] - rule.fewer_missing else best

    def _unseen(self, centre: Point) -> int:
        """How many neighbours of a would-be centre have not been run."""
        star = neighbours(self.problem, centre, self.problem.grids)
        return sum(point not in self.runs and point not in self.refused for point in star)

    def _judge_noise(self, centre: Point, candidates: Sequence[Point]) -> Point | Pending | None:
        rule, runs = self.problem.rule, self.runs
        candidates = [p for p in candidates if finite(loss_of(runs.get(p, ())))]
        if not candidates or not finite(loss_of(runs.get(centre, ()))):
            return min(candidates, key=lambda p: loss_of(runs[p]), default=None)
        error_rate = rule.error_rate / (len(candidates) * len(rule.looks))
        while True:
            noise = self.noise()
            gains = {p: gain(runs[p], runs[centre]) for p in candidates}
            proven = [p for p, (g, n) in gains.items() if g > noise.margin(error_rate, n)]
            if proven:
                return max(proven, key=gains.__getitem__)
            apparent = [p for p in candidates if gains[p][0] > rule.tolerance]
            apparent = sorted(apparent, key=gains.__getitem__, reverse=True)[: rule.contenders]
            undecided = [p for p in apparent if len(runs[p]) < rule.looks[-1]]
            if not undecided:
                self.ties += [p for p in apparent if p not in self.ties]
                return None
            reached = min(len(runs[p]) for p in undecided)
            look = next(n for n in rule.looks if n > reached)
            if missing := self.ask([centre, *undecided], look):
                return Pending(missing)
            candidates = [p for p in candidates if finite(loss_of(runs[p]))]

    def noise(self) -> Noise:
        rule, runs = self.problem.rule, self.runs
        finished = {p: r for p, r in runs.items() if finite(loss_of(r))}
        rows = [[run.loss for run in r] for r in finished.values() if len(r) > 1]
        nulls = null_groups({p: r[0].loss for p, r in finished.items()}, rule.null_below)
        prior = self.problem.prior or Noise(rule.prior_sd, rule.prior_df)
        return estimate([rows], nulls, prior=prior)

    def settled(self, centre: Point, moves: list[Point], converged: bool) -> Settled:
        return Settled(
            problem=self.problem,
            centre=centre,
            runs=self.runs,
            refused=self.refused,
            moves=moves,
            noise=self.noise(),
            converged=converged,
            ties=self.ties,
        )
