"""Critical values that carry how often somebody looked: seeds added one by one, steps chosen later.

Three kinds of looks. Seeds that were added until the result pleased: so many declared looks share
the error (Bonferroni), or, with no number declared, a test that holds at every number of seeds at
once. A stopping step chosen afterwards because the target was reached there: a fixed sequence of
tests from the last step backwards costs nothing. A step chosen because the gap was widest there:
the largest of correlated t statistics.
"""

import math

import numpy as np
from scipy import special

ANY = None  # number of looks: not declared
EFFECT = (
    2.0  # prior scale of an effect in units of sd; any value is valid, this one suits 4-20 runs
)


def critical(error: float, df: float, *, looks: int | None = 1, n: float = math.nan) -> float:
    """How many standard errors a difference must be from the null, two-sided.

    Args:
      error: two-sided error rate of the whole procedure; df: of the standard error.
      looks: how often the runs were looked at, the last time included; ANY if nobody knows.
      n: runs that count (`compare.Difference.n`), needed for ANY alone.
    """
    if not df > 0:
        return math.inf
    if looks is ANY:
        return _at_any_time(error, df, n)
    return _t(1 - error / 2 / looks, df)


def _t(probability, df):
    if np.isinf(df):
        return float(special.ndtri(probability))
    return float(special.stdtrit(df, probability))


def _at_any_time(error, df, n):
    """Where the Bayes factor of a normal effect against none, sigma integrated out, is 1/error.

    The factor (1 + n g)^(-1/2) ((1 + t^2/df) / (1 + t^2/(df (1 + n g))))^((df + 1)/2), g the prior
    variance of effect/sd, is a martingale in the number of runs under the null (Lai 1976; Rouder
    et al. 2009 eq. 1 for two samples; group-invariant e-processes of Perez-Ortiz et al. 2024), so
    Ville's inequality bounds the chance that it ever reaches 1/error. Assumes equal variances.
    """
    wide = 1 + n * EFFECT**2
    if np.isinf(df):
        return math.sqrt(2 * wide / (wide - 1) * math.log(math.sqrt(wide) / error))
    ratio = (math.sqrt(wide) / error) ** (2 / (df + 1))
    if ratio >= wide:
        return math.inf  # so few runs cannot settle anything
    return math.sqrt(df * (ratio - 1) / (1 - ratio / wide))


def sure_from(margin, critical) -> int | None:
    """First look from which on all looks show the target reached; None where the last does not.

    Args:
      margin: (K,) (target - mean) / standard error, in the order of steps; NaN shows nothing.
      critical: one-sided value, or (K,) of them.

    Tests run from the last look backwards and stop at the first that fails. The first look at which
    the target is truly not reached must pass its own test to be claimed, so the error is that of
    one test at any number of looks (a fixed-sequence test; Maurer, Hothorn, Lehmacher 1995).
    """
    failed = np.flatnonzero(~(np.asarray(margin, float) >= critical))
    first = int(failed[-1]) + 1 if len(failed) else 0
    return first if first < len(margin) else None


def not_before(margin, critical) -> int | None:
    """Last look up to which all looks show the target missed; None where the first does not."""
    failed = np.flatnonzero(~(np.asarray(margin, float) <= -critical))
    last = int(failed[0]) - 1 if len(failed) else len(margin) - 1
    return last if last >= 0 else None


def largest_of(residual_nK, df: float, error: float) -> float:
    """Two-sided critical value of the largest |t| over K looks at the same runs.

    Args:
      residual_nK: deviations of n runs (or pairs) from their means at every look; their correlation
        is what makes neighbouring looks cost nearly nothing.
      df: of the standard errors.

    The quantile of a multivariate t by simulation from a fixed seed (Hothorn, Bretz, Westfall
    2008), never above Bonferroni's over K.
    """
    residual = np.asarray(residual_nK, float)
    n, K = residual.shape
    unit = residual / np.maximum(np.sqrt((residual**2).sum(0)), 1e-300)
    rng, draws = np.random.default_rng(0), int(max(10_000, 300 / error))
    top = np.abs(rng.standard_normal((draws, n)) @ unit).max(1)
    scale = np.sqrt(rng.chisquare(df, draws) / df) if np.isfinite(df) else 1.0
    return min(float(np.quantile(top / scale, 1 - error)), _t(1 - error / 2 / K, df))
