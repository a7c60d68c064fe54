"""Which budgets and how many seeds of a race a time holds (`sweeps.challenge`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sweeps.plan import cost
from sweeps.plan.forecast import forecast
from sweeps.plan.study import Study
from sweeps.plan.trial import Outcome, Trial

SEEDS = (33, 25, 17, 13, 9, 7, 5, 4, 3)  # the first is tuned on, the others are the verdict's
ENOUGH = 5  # seeds below which fewer budgets are better than fewer seeds
COMPILING = 10.0  # seconds a program, before one has been measured


class Design(NamedTuple):
    """A race's budgets, such as "2x", the smallest first, and its seeds."""

    ratios: tuple[str, ...]
    seeds: int


class Speed(NamedTuple):
    """Of one worker: FLOP/s of training, and the seconds it takes to begin a program."""

    rate: float
    compiling: float = COMPILING
    known: str = "assumed"

    def hours(self, needed: cost.Cost, workers: int) -> float:
        return (needed.flops / self.rate + needed.programs * self.compiling) / workers / 3600


def designs(ratios: Sequence[str], seeds: int = 0) -> list[Design]:
    """What may be raced, the best first: all ratios, then as many seeds as go.

    Args:
      ratios: wanted.
      seeds: so many; 0: as many as the time holds.
    """
    most = [tuple(ratios[:k]) for k in range(len(ratios), 0, -1)]
    if seeds:
        return [Design(part, seeds) for part in most]
    several = [Design(part, n) for part in most for n in SEEDS if n >= ENOUGH]
    return several + [Design(most[-1], n) for n in SEEDS if n < ENOUGH]


def left(study: Study, outcomes: Mapping[Trial, Outcome]) -> cost.Cost:
    """What is expected to be trained yet of a study, by whatever has finished of it."""
    done = {trial: run for trial, run in outcomes.items() if trial.cell in study.cells}
    return cost.of(study, forecast(study, done))
