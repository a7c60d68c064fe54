"""IsoFLOP curves: at each budget the model size of least loss, and how it grows with the budget.

Approach 2 of Hoffmann et al. (arXiv 2203.15556). Where they fit a parabola in log N, here the
valley may rise faster on one side and its bottom has a profile interval (`fits.valley`); a budget
whose runs do not bracket the bottom gives no size.
"""

from typing import NamedTuple

import numpy as np

from analysis.fits.valley import WINDOW, Optimum, optimum
from analysis.stats.trend import Line, line

SAME = 0.02  # budgets that follow each other this closely in log are one
LEAST = 4  # model sizes that a curve needs


class Curve(NamedTuple):
    """The runs at one budget; `bottom` is in log2 of the parameters."""

    flops: float
    rows: np.ndarray  # of the table
    bottom: Optimum


def curves(params, tokens, loss) -> list[Curve]:
    """The IsoFLOP curves of a table, smallest budget first; none where no budget has LEAST sizes,
    or where budgets run into each other.

    Args:
      params, tokens, loss: (n,), positive and finite. FLOPs are 6 N D.
    """
    params, loss = np.asarray(params, float), np.asarray(loss, float)
    flops = 6 * params * np.asarray(tokens, float)
    order, groups = np.argsort(flops, kind="stable"), []
    for row in order:
        if groups and np.log(flops[row] / flops[groups[-1][-1]]) <= SAME:
            groups[-1].append(row)
        else:
            groups.append([row])
    groups = [np.array(g) for g in groups if np.log(flops[g[-1]] / flops[g[0]]) <= 2 * SAME]
    groups = [g for g in groups if len(np.unique(params[g])) >= LEAST]
    sigma = _scatter([(np.log2(params[g]), loss[g]) for g in groups])
    if not sigma:
        return []
    found = [(g, optimum(np.log2(params[g]), loss[g], sigma)) for g in groups]
    return [Curve(float(np.exp(np.log(flops[g]).mean())), g, bottom) for g, bottom in found]


def _scatter(groups) -> float:
    """Standard deviation of losses about local parabolas, pooled; 0 without a degree of freedom."""
    square = df = 0
    for x, loss in groups:
        near = np.abs(x - x[loss.argmin()]) <= WINDOW
        if len(np.unique(x[near])) >= LEAST:
            residual = loss[near] - np.polyval(np.polyfit(x[near], loss[near], 2), x[near])
            square, df = square + (residual**2).sum(), df + near.sum() - 3
    return float(np.sqrt(square / df)) if df else 0.0


def growth(found: list[Curve]) -> Line | None:
    """log2 of the best size as a line in log2 of FLOPs; None with fewer than three bottoms."""
    known = [curve for curve in found if curve.bottom.side == 0]
    if len(known) < 3:
        return None
    flops, best = ([c.flops for c in known], [c.bottom.x for c in known])
    widths = np.array([c.bottom.high - c.bottom.low for c in known])
    return line(np.log2(flops), best, np.maximum(widths, 1e-6) / 3.92)
