"""Laws of the loss. First the published form, L(r) = alpha r^-B + beta at one model size."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import curve_fit


@dataclass(frozen=True)
class DataLaw:
    """L(r) = alpha r^-exponent + floor; r the Chinchilla ratio (or tokens), L in nats per token."""

    alpha: float
    exponent: float
    floor: float

    def loss(self, ratio):
        return self.alpha * np.asarray(ratio, float) ** -self.exponent + self.floor

    def data_for(self, loss):
        """The ratio at which this law reaches `loss`; infinite at or below the floor, never NaN."""
        gap = np.asarray(loss, float) - self.floor
        reachable = gap > 0
        ratio = (np.where(reachable, gap, 1.0) / self.alpha) ** (-1 / self.exponent)
        return np.where(reachable, ratio, np.inf)


def fit_data_law(ratio, loss) -> DataLaw:
    """The study's fit: unweighted least squares from one start, on one size's AdamW losses.

    Three parameters on four or five points: a reproduction, not a recommendation.

    Args:
      ratio: (n,) Chinchilla ratios (or tokens), n >= 3.
      loss: (n,) best losses in nats per token.

    Raises:
      ValueError: fewer than three distinct ratios, or a loss that is not finite.
    """
    ratio, loss = np.asarray(ratio, float), np.asarray(loss, float)
    if len(np.unique(ratio)) < 3:
        raise ValueError(f"ratio: a data law needs 3 distinct ratios, got {sorted(set(ratio))}")
    if not np.isfinite(loss).all():
        raise ValueError(f"loss: must be finite, got {loss}")
    order = np.argsort(ratio)
    ratio, loss = ratio[order], loss[order]
    start = [loss[0] - loss[-1], 0.5, loss[-1]]
    (alpha, exponent, floor), _ = curve_fit(_power_law, ratio, loss, p0=start)
    return DataLaw(alpha, exponent, floor)


def _power_law(ratio, alpha, exponent, floor):
    return alpha * ratio**-exponent + floor
