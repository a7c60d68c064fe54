"""Names what is wrong with a fit before anybody reads its numbers.

Every function returns a list of sentences; an empty list means that none of the named patterns was
found, not that the fit is right.
"""

import numpy as np

TINY_EXPONENT = 0.01
ILL_CONDITIONED = 1e8
AGREEMENT = 0.95


def law(fit, *, grid=None) -> list[str]:
    """A `laws.LawFit`.

    Args:
      grid: optional (low, high) of the range in which predictions are to be made, in the units of a
        single x; said to extrapolate when it leaves the data.
    """
    found = []
    if not fit.converged:
        found.append("did not converge")
    moved = np.abs(fit.theta - fit.start)
    still = [n for n, d in zip(fit.names, moved, strict=True) if d < 1e-9 * (1 + abs(d))]
    if still:
        found.append(f"equal to the start value: {', '.join(still)}")
    found += _exponents({n: v for n, v in fit.parameters().items() if n.startswith("exponent")})
    lowest = np.exp(fit.target.min()) if fit.form.logarithmic else fit.target.min()
    if fit.parameters()["floor"] >= lowest:
        found.append(f"floor {fit.parameters()['floor']:.4g} above the lowest loss {lowest:.4g}")
    if fit.parameters()["floor"] < 1e-3 * lowest:
        found.append("floor vanishes: the data do not bend")
    found += _quality(len(fit.target) - len(fit.theta), fit.condition, fit.agreement)
    if fit.share_linear > 0.5:
        found.append(f"{fit.share_linear:.0%} of the points outside delta: delta is too small")
    if grid is not None and len(fit.columns) == 1:
        x = np.exp(fit.form.logx_nK[:, 0]) * fit.centre_K[0]
        if grid[0] < x.min() * 0.999 or grid[1] > x.max() * 1.001:
            found.append(f"prediction off the data: {x.min():.3g}-{x.max():.3g}")
    return found


def joint(fit) -> list[str]:
    """A `joint.JointFit`."""
    found = [] if fit.converged else ["did not converge"]
    S = len(fit.sizes)
    B = fit.theta[2 * S]
    found += _exponents({"exponent": B})
    floors = fit.theta[:S] - np.exp(fit.theta[S : 2 * S]) / B if B > 0 else np.full(S, -np.inf)
    for i, size in enumerate(fit.sizes):
        lowest = fit.cells.loss[fit.cells.model_size == size].min()
        if floors[i] >= lowest:
            found.append(f"{size}: floor {floors[i]:.4g} above the lowest loss {lowest:.4g}")
    found += _quality(fit.df, fit.condition, fit.agreement)
    if fit.scatter > fit.noise:
        found.append(
            f"cells scatter by {fit.scatter:.2g} nats beyond the run noise of {fit.noise:.2g}: "
            "tuning that stopped short, or the form; the intervals carry it"
        )
    p = fit.shared_exponent_test()
    if p is not None and p < 0.01:
        found.append(f"one exponent for all sizes is rejected (p = {p:.2g})")
    return found + list(fit.notes)


def effort(trials) -> list[str]:
    """Trials per cell (CELL, trials): unbalanced tuning flatters whoever was tuned longer."""
    found = []
    for (size, ratio), group in trials.groupby(["model_size", "chinchilla_ratio"], sort=False):
        if len(group) < 2:
            continue
        most, least = group.loc[group.trials.idxmax()], group.loc[group.trials.idxmin()]
        if most.trials > 1.1 * least.trials + 1:
            found.append(
                f"{size} {ratio:g}x: {most.optimizer} {most.trials:g} trials against "
                f"{least.optimizer} {least.trials:g}"
            )
    return found


def _exponents(exponents):
    found = [
        f"{name} {value:.2g} near zero: not a power of anything"
        for name, value in exponents.items()
        if abs(value) < TINY_EXPONENT
    ]
    found += [
        f"{name} {value:.2g} is implausibly steep"
        for name, value in exponents.items()
        if abs(value) > 3
    ]
    return found


def _quality(df, condition, agreement):
    found = []
    if df < 2:
        found.append(f"n - p = {df:g}: the fit cannot be checked against its own data")
    if condition > ILL_CONDITIONED:
        found.append(f"condition number {condition:.1g}")
    if agreement < AGREEMENT:
        found.append(f"only {agreement:.0%} of the starts agree")
    return found
