"""A straight line through a few estimates that carry their own errors."""

import math
from typing import NamedTuple

import numpy as np
from scipy import special


class Line(NamedTuple):
    """Weighted least squares; covariance (offset, slope) widened by the points' own misfit."""

    offset: float
    slope: float
    covariance: np.ndarray
    df: int

    def at(self, x: float, level=0.95) -> tuple[float, float, float]:
        """Value of the line and its interval."""
        return self._ends(np.array([1.0, x]), level)

    def per_unit(self, level=0.95) -> tuple[float, float, float]:
        """Slope and its interval."""
        return self._ends(np.array([0.0, 1.0]), level)

    def _ends(self, direction, level):
        value = float(direction @ [self.offset, self.slope])
        half = float(special.stdtrit(self.df, 0.5 + level / 2))
        half *= math.sqrt(float(direction @ self.covariance @ direction))
        return value, value - half, value + half


def line(x, y, se) -> Line:
    """Line through points with standard errors; n - 2 degrees of freedom, so few points say little.

    Raises:
      ValueError: fewer than three points.
    """
    x, y, se = (np.asarray(a, float) for a in (x, y, se))
    if len(x) < 3:
        raise ValueError(f"a line needs three points, got {len(x)}")
    design = np.column_stack([np.ones_like(x), x]) / se[:, None]
    inverse = np.linalg.inv(design.T @ design)
    offset, slope = inverse @ design.T @ (y / se)
    misfit = (((y - offset - slope * x) / se) ** 2).sum() / (len(x) - 2)
    return Line(float(offset), float(slope), inverse * max(float(misfit), 1.0), len(x) - 2)
