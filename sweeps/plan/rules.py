"""When one point counts as better than another: by the study's threshold, or by a test against
measured noise.

A rule looks at a search (`sweeps.plan.search`): what it has run, what it could still ask for.
Losses and thresholds are in nats per token.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from analysis.stats import near_best
from analysis.stats.noise import UNKNOWN, Noise
from lm.config import Field
from sweeps.plan.trial import Point, Trial, finite, gain, losses_of

PHASES = ("I", "II", "III")


def knob(default: Any, low: float = -math.inf, high: float = math.inf, **others: Any) -> Any:
    """A field that a study may set; of a tuple, limits and choices hold for each value."""
    kind = type(default[0] if isinstance(default, tuple) else default)
    return field(default=default, metadata={"field": Field(kind, default, low, high, **others)})


@dataclass(frozen=True)
class Rule(ABC):
    """What both rules share: how far a search goes, whatever "better" means."""

    mode: ClassVar[str]
    order: str = knob("star", choices=("star", "coordinate"))  # all changes at once, or by turns
    max_moves: int = knob(8, 0, 100)
    extend: tuple[str, ...] = knob(("I",), choices=PHASES)  # where grids grow at their edges
    equal_effort: float = knob(0.1, 0.0, 0.9)  # all optimizers' runs within this share; 0: off
    verify: bool = knob(False)  # Phase III runs the star of its prediction too
    pairs: bool = knob(False)  # learning rate and batch size are moved together too

    @abstractmethod
    def judge(self, search: Any, candidates: Sequence[Point]) -> Any:
        """Where to move: a point, None to stay, or the list of trials to be run first."""

    @abstractmethod
    def winner(self, state: Any) -> Point:
        """The point of a settled cell that is reported."""

    @abstractmethod
    def near(self, state: Any, share: int) -> list[Point]:
        """The points of a settled cell that cannot be told from its best.

        Args:
          share: cells that are judged together.
        """

    @abstractmethod
    def margin(self, state: Any, seeds: int) -> float:
        """How far a point of a settled cell would have to beat the winner on so many seeds."""

    def finer(self, state: Any, points: Sequence[Point]) -> Point | None:
        """One of the points run for equal effort that takes the centre's place."""
        return None

    def most_repeats(self, stars: Sequence[int]) -> int:
        """Repeats that judging one centre may take, by neighbours that are judged together."""
        return 0

    @property
    def prior(self) -> Noise:
        """The noise of a run that is declared before any has been made."""
        return UNKNOWN


@dataclass(frozen=True)
class Published(Rule):
    """The study's: moves when the best run beats the centre by more than `threshold`."""

    mode = "published"
    threshold: float = knob(3e-3, 0.0, 1.0)  # PROTOCOL's Delta 1
    near_best: float = knob(6.4e-3, 0.0, 1.0)  # Delta 2, the paper's
    fewer_missing: int = knob(10, 1, 1000)  # fewer unseen neighbours that a near-best centre needs

    def judge(self, search: Any, candidates: Sequence[Point]) -> Point | list[Trial] | None:
        best = None
        while best != (best := self.winner(search)):  # not left on an edge that may grow
            losses = search.losses
            if not finite(losses.get(best, math.inf)):
                return None
            if missing := search.ask(search.outward(best)):
                return missing
        if losses.get(search.centre, math.inf) <= losses[best] + self.threshold:
            return None
        near = near_best.within(losses, self.threshold)
        missing = {point: search.unseen(point) for point in near}
        fewest = min(near, key=lambda point: (missing[point], losses[point]))
        return fewest if missing[fewest] <= missing[best] - self.fewer_missing else best

    def winner(self, state: Any) -> Point:
        losses = state.losses
        return min(losses, key=losses.__getitem__, default=state.centre)

    def near(self, state: Any, share: int) -> list[Point]:
        return near_best.within(state.losses, self.near_best)

    def margin(self, state: Any, seeds: int) -> float:
        return 0.0  # the lowest run is reported, wherever the centre stays


@dataclass(frozen=True)
class Tested(Rule):
    """Compares on common seeds and moves when a gain is significant at `error_rate`, over the star
    and all looks. Up to `contenders` apparent gains above `tolerance` are repeated before they are
    called ties.
    """

    mode = "tested"
    error_rate: float = knob(0.05, 1e-6, 0.5)
    tolerance: float = knob(1e-3, 0.0, 1.0)
    contenders: int = knob(3, 1, 100)
    looks: tuple[int, ...] = knob((1, 3, 5), 1, 100)  # runs per contender at each look
    calibration: int = knob(3, 1, 100)  # runs of Phase I's starts and their best neighbours
    prior_sd: float = knob(0.0, 0.0, 10.0)  # noise declared before any run, worth so many
    prior_df: float = knob(0.0, 0.0, 1e6)  # degrees of freedom

    def judge(self, search: Any, candidates: Sequence[Point]) -> Point | list[Trial] | None:
        centre, runs, losses = search.centre, search.runs, search.losses
        candidates = [p for p in candidates if finite(losses.get(p, math.inf))]
        if not candidates or not finite(losses.get(centre, math.inf)):
            return min(candidates, key=losses.__getitem__, default=None)
        error_rate = self.error_rate / (len(candidates) * len(self.looks))
        contenders: list[Point] = []
        while True:
            noise = search.measure()
            gains = {p: gain(runs[p], runs[centre]) for p in candidates}
            proven = [p for p, (g, n) in gains.items() if g > noise.margin(error_rate, n)]
            if proven:
                return max(proven, key=gains.__getitem__)
            apparent = [p for p in candidates if gains[p][0] > self.tolerance]
            apparent = sorted(apparent, key=gains.__getitem__, reverse=True)
            contenders = contenders or apparent[: self.contenders]  # the same at every look
            apparent = [p for p in apparent if p in contenders]
            undecided = [p for p in apparent if len(runs[p]) < self.looks[-1]]
            if not undecided:
                search.ties += [p for p in apparent if p not in search.ties]
                return None
            reached = min(len(runs[p]) for p in undecided)
            look = next(n for n in self.looks if n > reached)
            if missing := search.ask([centre, *undecided], look):
                return missing
            candidates = [p for p in candidates if finite(losses[p])]

    def winner(self, state: Any) -> Point:
        return state.proven or state.centre

    def near(self, state: Any, share: int) -> list[Point]:
        runs = {p: losses_of(runs) for p, runs in state.runs.items() if finite(state.losses[p])}
        if not runs:
            return []
        centre = state.centre if state.centre in runs else min(runs, key=lambda p: runs[p][0])
        return near_best.not_worse(runs, centre, state.noise, self.error_rate / share)

    def margin(self, state: Any, seeds: int) -> float:
        tests = max(1, len(state.runs) - 1) * len(self.looks)
        return state.noise.margin(self.error_rate / tests, seeds)

    def finer(self, state: Any, points: Sequence[Point]) -> Point | None:
        losses = state.losses
        best = min(points, key=losses.__getitem__, default=state.centre)
        margin = state.noise.margin(self.error_rate / max(1, len(points)), 1)
        here = losses.get(state.centre, math.inf)
        return best if points and losses[best] < here - margin else None

    def most_repeats(self, stars: Sequence[int]) -> int:
        return (self.looks[-1] - 1) * (1 + sum(min(n, self.contenders) for n in stars))

    @property
    def prior(self) -> Noise:
        return Noise(self.prior_sd, self.prior_df)


RULES: dict[str, type[Rule]] = {rule.mode: rule for rule in (Published, Tested)}
SHARED = [f.name for f in fields(Rule)]


def make(values: Mapping[str, Any]) -> Rule:
    """The rule that a study's section `rule` describes: its mode and any of the mode's knobs."""
    knobs = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n != "mode"}
    return RULES[values.get("mode", "published")](**knobs)


def knobs(mode: str) -> dict[str, Field]:
    """What a study may set of a rule: types, defaults, limits."""
    return {f.name: f.metadata["field"] for f in fields(RULES[mode])}
