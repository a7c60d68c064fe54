"""How a tuned hyper-parameter moves with size N and Chinchilla ratio r.

The study fits h = A N^B r^C + D with five or more free numbers to ten points from a start at A =
0, where B and C have no gradient (`analysis.estimates.optima` has that form, exactly as published).
Here it is the three-parameter limb h = A N^B r^C, linear in logs, solved exactly, and trusted no
further than its prediction is run (Phase III).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Law(NamedTuple):
    """h = exp(a) (N / n0)^b r^c, or a constant where the value cannot be a power law."""

    a: float
    b: float
    c: float
    n0: float
    constant: Any = None

    def predict(self, n: float, ratio: float) -> Any:
        if self.constant is not None:
            return self.constant
        return math.exp(self.a + self.b * math.log(n / self.n0) + self.c * math.log(ratio))


def fit(sizes: Sequence[float], ratios: Sequence[float], values: Sequence[Any]) -> Law:
    """Least squares in logs; of several solutions the one with the smallest exponents.

    Values that are not positive numbers (switches, a weight decay of 0) give the most frequent
    value instead.
    """
    n0 = math.exp(math.fsum(map(math.log, sizes)) / len(sizes))
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values)
    if not numeric:
        return Law(0.0, 0.0, 0.0, n0, constant=max(values, key=list(values).count))
    logs = np.log(np.asarray(values, float))
    design = np.stack([np.log(np.asarray(sizes, float) / n0), np.log(np.asarray(ratios, float))], 1)
    centre, level = design.mean(0), logs.mean()
    exponents, *_ = np.linalg.lstsq(design - centre, logs - level, rcond=1e-9)
    b, c = map(float, exponents)
    return Law(float(level - centre @ exponents), b, c, n0)


def snap(value: Any, grid: Sequence[Any], bounds: tuple[float, float] | None = None) -> Any:
    """The value of a grid nearest to a prediction, in ratio; a geometric grid goes on within its
    bounds.
    """
    if value in grid or not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    numbers = sorted(grid)
    if bounds is not None and len(numbers) > 1 and numbers[0] > 0:
        step = numbers[-1] / numbers[-2]
        while numbers[-1] < value and numbers[-1] * step <= bounds[1]:
            numbers.append(_like(grid, numbers[-1] * step))
        step = numbers[1] / numbers[0]
        while numbers[0] > value and numbers[0] / step >= bounds[0]:
            numbers.insert(0, _like(grid, numbers[0] / step))
    positive = [v for v in numbers if v > 0]
    if not positive or value <= 0:
        return min(numbers, key=lambda v: abs(v - value))
    return min(positive, key=lambda v: abs(math.log(v / value)))


def _like(grid: Sequence[Any], value: float) -> Any:
    value = float(f"{value:.6g}")
    return round(value) if all(isinstance(v, int) for v in grid) else value
