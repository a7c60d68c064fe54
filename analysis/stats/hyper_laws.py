"""How a tuned hyper-parameter moves with size N and Chinchilla ratio r.

The study (arXiv 2509.02046) fits h = A N^B r^C + D with five or more free numbers to ten points
from a start at A = 0, where B and C have no gradient (`analysis.estimates.editions` has that form,
exactly as published). Here it is the three-parameter limb h = A N^B r^C, linear in logs and solved
exactly. The planner runs what it predicts before it trusts it (Phase III).
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

    Args:
      sizes: N, non-embedding parameters, one a cell; `ratios` and `values` likewise.
      values: of the hyper-parameter. Where one is no positive number (a switch, a weight decay of
        0) the law is the most frequent value.
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
