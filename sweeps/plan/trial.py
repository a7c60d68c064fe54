"""What a study is made of: cells, points, trials and their outcomes.

A *cell* is one optimizer at one size and ratio, a *point* one setting of its hyper-parameters, a
*trial* a point with a seed. Planners handle these tuples only; the config and its hash appear when
a trial meets the disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.stats import near_best

Point = tuple[tuple[str, Any], ...]  # sorted (hyper-parameter, value) pairs: hashable


class Cell(NamedTuple):
    optimizer: str
    size: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.optimizer}-{self.size}-{self.ratio:g}x"


class Trial(NamedTuple):
    cell: Cell
    point: Point
    seed: int


class Outcome(NamedTuple):
    """What the planner sees of a finished trial. `loss` is infinite unless status is "finished"."""

    status: str  # "finished", "diverged", "infeasible"; replays add "unrecorded"
    loss: float
    hash: str = ""
    reason: str = ""
    flops: float = 0.0
    seconds: float = 0.0
    tokens: float = 0.0


def freeze(point: Mapping[str, Any]) -> Point:
    return tuple(sorted(point.items()))


def finite(loss: float) -> bool:
    return loss < math.inf


def loss_of(runs: Sequence[Outcome]) -> float:
    """Loss of a point's first run; infinite if any of its runs did not finish."""
    for run in runs:
        if not finite(run.loss):
            return math.inf
    return runs[0].loss if runs else math.inf


def losses_of(runs: Sequence[Outcome]) -> list[float]:
    return [run.loss for run in runs]


def gain(runs: Sequence[Outcome], over: Sequence[Outcome]) -> tuple[float, int]:
    """Mean loss of `over` minus that of `runs` on their common seeds, and their number."""
    return near_best.gain(losses_of(runs), losses_of(over))
