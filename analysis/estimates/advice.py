"""What to run next: the cheapest extra runs that would settle a claim the data leave open.

Each candidate is a run repeated m times (m seeds) at one (optimizer, size, ratio). Linearised at
the fit, m runs with gradient g shrink the variance of a claim c to
c'Cc - (c'Cg)^2 / (t^2 + s^2/m + g'Cg), with s the run noise and t the scatter between cells, which
no number of seeds averages away: the D-optimal update for one direction. Costs are 6 N D FLOPs.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.estimates.joint import BASELINE, EquivalentData, JointFit
from analysis.published import TOKENS_PER_PARAM


class Extra(NamedTuple):
    """`runs` seeds of one cell; `flops` in total; `half_width` of the claim's interval after it."""

    optimizer: str
    model_size: str
    chinchilla_ratio: float
    runs: int
    flops: float
    half_width: float


def cheapest(fit: JointFit, claim, optimizers, *, limit=100, level=0.95) -> Extra | None:
    """The cheapest candidate after which the claim's interval excludes zero at today's estimate.

    Args:
      claim: (P,) contrast of `fit.theta`, such as `fit.contrast("muon", N, r)` or a difference.
      optimizers: whose runs to consider (the baseline is always considered).
      limit: the largest number of seeds of one cell.

    Returns:
      None when the claim is already settled, or when no single cell can settle it.
    """
    C, s2 = fit.covariance, fit.variance
    variance, effect = float(claim @ C @ claim), abs(float(claim @ fit.theta))
    critical = stats.t.ppf(0.5 + level / 2, fit.interval_df)
    if effect >= critical * np.sqrt(variance):
        return None
    target = (effect / critical) ** 2
    by_size = fit.cells.groupby("model_size").non_embedding_params.first()
    ratios = sorted(fit.cells.chinchilla_ratio.unique())
    found = []
    for name in dict.fromkeys([*optimizers, fit_baseline(fit)]):
        for size in fit.sizes:
            for ratio in [*ratios, 2 * ratios[-1]]:
                gradient = _gradient(fit, name, size, by_size[size], ratio)
                shared, own = float(claim @ C @ gradient), float(gradient @ C @ gradient)
                gain = variance - target
                # (c'Cg)^2 / (t^2 + s^2/m + g'Cg) >= gain
                room = shared**2 / gain - own - fit.scatter**2
                if room <= 0:
                    continue
                m = int(np.ceil(s2 / room))
                if m > limit:
                    continue
                left = variance - shared**2 / (fit.scatter**2 + s2 / m + own)
                flops = m * 6 * by_size[size] ** 2 * TOKENS_PER_PARAM * ratio
                half = float(critical * np.sqrt(max(left, 0)))
                found.append(Extra(name, size, float(ratio), m, float(flops), half))
    return min(found, key=lambda extra: extra.flops) if found else None


def fit_baseline(fit: JointFit) -> str:
    """The optimizer whose speed-up is one by definition."""
    names = set(fit.cells.optimizer) - set(fit.columns)
    return names.pop() if names else BASELINE


def sentence(extra: Extra | None) -> str:
    """The advice in words, for a note."""
    if extra is None:
        return "no one cell, however often repeated, would resolve it: new cells are needed"
    seeds = f"{extra.runs} seeds of " if extra.runs > 1 else "one run of "
    return (
        f"cheapest that would: {seeds}{extra.optimizer} {extra.model_size} "
        f"{extra.chinchilla_ratio:g}x ({extra.flops:.2g} FLOPs)"
    )


def _gradient(fit, name, size, params, ratio):
    """d loss / d theta at a point that need not have been run."""
    model, S = fit.model, len(fit.sizes)
    offset = 2 * S + 1
    X = np.vstack([model.X_nQ, fit.contrast(name, params, ratio)[offset:]])
    point = EquivalentData(
        np.append(model.size_n, fit.sizes.index(size)),
        np.append(model.exponent_n, 0),
        np.append(model.logr_n, np.log(ratio / fit.ratio0)),
        X,
    )
    return point(fit.theta[None])[1][0, -1]
