"""When one point counts as better than another: by the study's threshold, or by a test against
measured noise.

A rule looks at a search (`sweeps.plan.search`): what it has run, what it could still ask for.
Losses and thresholds are in nats per token.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from analysis.stats import near_best
from analysis.stats.noise import UNKNOWN, Noise
from sweeps.plan.trial import Point, Trial, finite, gain, loss_of, losses_of


@dataclass(frozen=True)
class Rule(ABC):
    """What both rules share: how far a search goes, whatever "better" means."""

    mode: ClassVar[str]
    order: str = "star"  # or "coordinate": one hyper-parameter after the other
    max_moves: int = 8
    extend: tuple[str, ...] = (
        "I",
    )  # phases whose grids grow at edges; elsewhere these are flagged
    equal_effort: float = 0.0  # runs of all optimizers in a cell equal within this share; 0: off
    verify: bool = False  # Phase III runs the star of its prediction too

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
        """How far a point of a settled cell would have to beat the centre on so many seeds."""

    def finer(self, state: Any, points: Sequence[Point]) -> Point | None:
        """One of the points run for equal effort that takes the centre's place."""
        return None

    def most_repeats(self, star: int) -> int:
        """Repeats that judging one centre and its star may take."""
        return 0

    @property
    def prior(self) -> Noise:
        """The noise of a run that is declared before any has been made."""
        return UNKNOWN


@dataclass(frozen=True)
class Published(Rule):
    """The study's: moves when the best run beats the centre by more than `threshold`."""

    mode = "published"
    threshold: float = 3e-3  # PROTOCOL's Delta 1
    near_best: float = 6.4e-3  # Delta 2, the paper's
    fewer_missing: int = 10  # so many fewer unseen neighbours make a near-best point the centre

    def judge(self, search: Any, candidates: Sequence[Point]) -> Point | None:
        losses = search.losses
        best = min(losses, key=losses.__getitem__, default=None)
        here = losses.get(search.centre, math.inf)
        if best is None or not finite(losses[best]) or here <= losses[best] + self.threshold:
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
        return self.threshold


@dataclass(frozen=True)
class Tested(Rule):
    """Compares on common seeds and moves when a gain is significant at `error_rate`, over the star
    and all looks. Up to `contenders` apparent gains above `tolerance` are repeated before they are
    called ties.
    """

    mode = "tested"
    error_rate: float = 0.05
    tolerance: float = 1e-3
    contenders: int = 3
    looks: tuple[int, ...] = (1, 3, 5)  # runs per contender at each look
    calibration: int = 3  # runs of Phase I's starts and their best neighbours: a first estimate
    prior_sd: float = 0.0  # noise declared before any run, worth prior_df degrees of freedom
    prior_df: float = 0.0

    def judge(self, search: Any, candidates: Sequence[Point]) -> Point | list[Trial] | None:
        centre, runs = search.centre, search.runs
        candidates = [p for p in candidates if finite(loss_of(runs.get(p, ())))]
        if not candidates or not finite(loss_of(runs.get(centre, ()))):
            return min(candidates, key=lambda p: loss_of(runs[p]), default=None)
        error_rate = self.error_rate / (len(candidates) * len(self.looks))
        while True:
            noise = search.measure()
            gains = {p: gain(runs[p], runs[centre]) for p in candidates}
            proven = [p for p, (g, n) in gains.items() if g > noise.margin(error_rate, n)]
            if proven:
                return max(proven, key=gains.__getitem__)
            apparent = [p for p in candidates if gains[p][0] > self.tolerance]
            apparent = sorted(apparent, key=gains.__getitem__, reverse=True)[: self.contenders]
            undecided = [p for p in apparent if len(runs[p]) < self.looks[-1]]
            if not undecided:
                search.ties += [p for p in apparent if p not in search.ties]
                return None
            reached = min(len(runs[p]) for p in undecided)
            look = next(n for n in self.looks if n > reached)
            if missing := search.ask([centre, *undecided], look):
                return missing
            candidates = [p for p in candidates if finite(loss_of(runs[p]))]

    def winner(self, state: Any) -> Point:
        return state.proven or state.centre

    def near(self, state: Any, share: int) -> list[Point]:
        runs = {p: losses_of(runs) for p, runs in state.runs.items() if finite(loss_of(runs))}
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

    def most_repeats(self, star: int) -> int:
        return (self.looks[-1] - 1) * (1 + min(star, self.contenders)) if star else 0

    @property
    def prior(self) -> Noise:
        return Noise(self.prior_sd, self.prior_df)


RULES: dict[str, type[Rule]] = {rule.mode: rule for rule in (Published, Tested)}


def make(values: Mapping[str, Any]) -> Rule:
    """The rule that a study's section `rule` describes: its mode and any of the mode's knobs."""
    knobs = {name: value for name, value in values.items() if name != "mode"}
    return RULES[values.get("mode", "published")](**knobs)


def values(rule: Rule) -> dict[str, Any]:
    """A rule as a study's section, every knob in it."""
    return {"mode": rule.mode, **asdict(rule)}


def knobs(mode: str) -> list[str]:
    return [field.name for field in fields(RULES[mode])]
