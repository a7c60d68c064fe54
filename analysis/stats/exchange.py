"""The exchange rate of steps for loss: what a step is worth, with its error, and ratios by it."""

import math
from typing import NamedTuple

import numpy as np


class Rate(NamedTuple):
    """Nats that one more unit of budget takes off the loss; standard error; how it was measured."""

    value: float
    se: float
    df: float
    how: str


def from_lengths(budget, loss) -> Rate:
    """Rate from runs of different planned lengths: minus the slope of final loss on budget.

    Raises:
      ValueError: fewer than three runs, or one length only.
    """
    x, y = np.asarray(budget, float), np.asarray(loss, float)
    if len(x) < 3 or not np.ptp(x) > 0:
        raise ValueError("needs three runs of at least two lengths")
    slope, offset = np.polyfit(x, y, 1)
    square = ((y - offset - slope * x) ** 2).sum() / (len(x) - 2)
    se = math.sqrt(square / ((x - x.mean()) ** 2).sum())
    return Rate(-float(slope), se, len(x) - 2, f"between lengths, {len(x)} runs")


def from_curves(curves, *, share=0.05) -> Rate:
    """Rate within runs: minus the mean slope over the last `share` of each, error across runs.

    Not the same as training longer: a schedule that decays bends the curve, so the slope depends on
    the window. On track 3 it is 1.5 times the rate between lengths (median of 45 results; one sd
    30 %). Runs of two lengths are better where there are some.

    Args:
      curves: (budget_K, loss_K) per run, in the order of budget; fewer than three points in the
        window and the last three count.

    Raises:
      ValueError: no curve has three points.
    """
    slopes = []
    for x, y in curves:
        x, y = np.asarray(x, float), np.asarray(y, float)
        late = x >= x[-1] - share * (x[-1] - min(x[0], 0))
        late = late if late.sum() >= 3 else np.arange(len(x)) >= len(x) - 3
        if late.sum() >= 3 and np.ptp(x[late]) > 0:
            slopes.append(-np.polyfit(x[late], y[late], 1)[0])
    if not slopes:
        raise ValueError("needs curves of three points or more")
    n = len(slopes)
    se = float(np.std(slopes, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    how = f"within runs, last {share:.0%} of {n} curve{'s' * (n > 1)}"
    return Rate(float(np.mean(slopes)), se, n - 1, how)


def ratio(value, se, rate: Rate, critical: float) -> tuple[float, float]:
    """Fieller's interval of value / rate: what a difference of loss is worth in budget.

    Both ends are infinite where the rate itself is not clearly above zero.
    """
    error = rate.se if math.isfinite(rate.se) else 0.0
    a = rate.value**2 - (critical * error) ** 2
    if not (math.isfinite(se) and math.isfinite(critical)) or rate.value <= 0 or a <= 0:
        return -math.inf, math.inf
    b, c = -2 * value * rate.value, value**2 - (critical * se) ** 2
    root = math.sqrt(max(b * b - 4 * a * c, 0))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)
