"""What a table of losses cannot carry: the gates that a law passes before its numbers are shown.

`before` refuses a table that no law fits; `withheld` names the parameters of a fit that its data do
not determine, each with the reason that stands in its place.
"""

import numpy as np
from scipy import stats

from analysis.fits.lint import ILL_CONDITIONED

DISTINCT = 4  # values of a quantity that its power and a floor need, with one to check them
TOGETHER = 0.99  # correlation of two logs from which their powers cannot be told apart
AGREEMENT = 0.5  # share of the starts that must reach the same optimum
STEEPEST = 3.0


def before(x, loss, names) -> None:
    """Refuses a table that no law of its columns can fit.

    Raises:
      ValueError: naming the column and what is wrong with it, in one line.
    """
    if np.ptp(loss) <= 1e-9 * np.abs(loss).max():
        raise ValueError(f"loss: all {len(loss)} rows have the same loss, {loss[0]:g}")
    for name, values in zip(names, x.T, strict=True):
        count = len(np.unique(values))
        if count < DISTINCT:
            raise ValueError(f"{name}: {count} distinct values; its law needs {DISTINCT}")
    if len(loss) <= 1 + 2 * len(names):
        raise ValueError(
            f"rows: {len(loss)} for {1 + 2 * len(names)} parameters leave nothing to check them by"
        )
    if all(stats.spearmanr(values, loss)[0] > 0 for values in x.T):
        raise ValueError(f"loss: rises with {' and '.join(names)}; a law of this form falls")


def units(x, loss, names) -> list[str]:
    """Columns whose units look wrong."""
    found = []
    if not 0.2 < np.median(loss) < 20:
        found.append(f"a median loss of {np.median(loss):.3g} is no loss in nats per token")
    columns = dict(zip(names, x.T, strict=True))
    for name in ("params", "tokens"):
        if name in columns and np.median(columns[name]) < 1e4:
            found.append(
                f"{name}: a median of {np.median(columns[name]):.3g}; counts, or millions?"
            )
    if {"params", "tokens"} <= set(columns):
        ratio = np.median(columns["tokens"] / columns["params"])
        if not 0.05 < ratio < 1e5:
            found.append(f"{ratio:.3g} tokens for every parameter; are the columns swapped?")
    return found


def withheld(fit, x) -> dict[str, str]:
    """Parameters of a `loss_laws.LawFit` that must not be shown, and why."""
    everything = _unidentified(fit, x)
    if everything:
        return dict.fromkeys([*fit.names, "optimal_share"], everything)
    found = {}
    values = fit.parameters()
    lowest = np.exp(fit.target.min()) if fit.form.logarithmic else fit.target.min()
    for name, value in values.items():
        if name.startswith("exponent") and not 0.01 < value < STEEPEST:
            found[name] = f"{value:.2g} is at the end of what a power can be"
            found[name.replace("exponent", "amplitude")] = found[name]
    if values["floor"] < 1e-3 * lowest:
        found["floor"] = "vanishes: the data do not bend"
    elif values["floor"] >= lowest:
        found["floor"] = f"{values['floor']:.4g} lies above the lowest loss, {lowest:.4g}"
    if any(name.startswith("exponent") for name in found):
        found["optimal_share"] = "an exponent is not determined"
    return found


def _unidentified(fit, x) -> str:
    if len(fit.columns) == 2:
        together = abs(float(np.corrcoef(np.log(x).T)[0, 1]))
        if together > TOGETHER:
            return (
                f"{' and '.join(fit.columns)} rise together (correlation {together:.4f}):"
                " their powers cannot be told apart; fit one of them"
            )
    if not fit.converged:
        return "the fit did not converge"
    if fit.agreement < AGREEMENT:
        return f"only {fit.agreement:.0%} of the starts agree on an optimum"
    if fit.condition > ILL_CONDITIONED:
        return f"the data do not determine the law (condition number {fit.condition:.1g})"
    return ""


def disagreement(value, bootstrap, profile=None) -> str:
    """Why an interval must not be shown beside its value, or nothing."""
    if not bootstrap.low <= value <= bootstrap.high:
        return "its bootstrap interval excludes it"
    if profile is not None and np.isfinite(profile).all():
        wide = [max(ends.high - ends.low, 1e-12 * abs(value)) for ends in (bootstrap, profile)]
        ratio = wide[0] / wide[1] if wide[1] else 1.0
        if not 1 / 4 < ratio < 4:
            return f"bootstrap and profile intervals differ {max(ratio, 1 / ratio):.1f}-fold"
    return ""
