"""Time to a target loss: when the mean curve reaches it, and which of two arms gets there first.

The stopping step may be chosen afterwards: `sequential.sure_from` tests from the last look
backwards, so that choosing the earliest step costs nothing, however many looks there are.
"""

import math

import numpy as np

from analysis.claims.judge import BETTER, OPEN, WORSE, Question, Verdict, answer
from analysis.claims.tables import Arm
from analysis.stats import compare, sequential
from analysis.stats.noise import UNKNOWN, Noise


def crossing(steps, losses, target) -> float:
    """First step at which a curve is at or below the target, interpolated; NaN if it never is."""
    steps, losses = np.asarray(steps, float), np.asarray(losses, float)
    below = np.flatnonzero(losses <= target)
    if not len(below):
        return math.nan
    i = below[0]
    if i == 0:
        return float(steps[0])
    share = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def reached(arm: Arm, target: float, ask: Question, error=None) -> tuple[float, float, float, str]:
    """(value, low, high, note): when the mean loss reaches the target, in steps.

    low: the last look before which it surely has not, high: the first from which it surely has;
    0 and infinity where no look is sure. One run and no known noise: nothing is sure.
    """
    looks = arm.looks()
    n, steps = len(looks), looks.columns.to_numpy(float)
    margins, bars = [], []
    apart = np.ptp(looks.iloc[:, -1]) > 0
    for step in looks:
        losses = looks[step].to_numpy()
        noise = _noise(losses, ask)
        se = noise.sd / math.sqrt(n)
        gap = target - losses.mean()
        sure = math.copysign(math.inf, gap) if apart else math.nan  # all alike, as at step 0
        margins.append(gap / se if se > 0 else sure)
        df = noise.df or n - 1
        bars.append(sequential.critical(error or ask.error, df, looks=ask.looks, n=n))
    first, last = (
        f(margins, np.array(bars)) for f in (sequential.sure_from, sequential.not_before)
    )
    note = f"{n} run{'s' * (n > 1)}, {len(steps)} looks"
    return (
        crossing(steps, looks.mean().to_numpy(), target),
        float(steps[last]) if last is not None else 0.0,
        float(steps[first]) if first is not None else math.inf,
        note,
    )


def _noise(losses, ask):
    squares, df = float(((losses - losses.mean()) ** 2).sum()), len(losses) - 1
    if ask.noise.df > 0:
        return compare.merge(squares, df, ask.noise)
    return Noise(math.sqrt(squares / df), df) if squares > 0 else UNKNOWN


def judge_target(arm: Arm, target: float, ask: Question, by: float | None = None) -> Verdict:
    """Does the arm reach the target, by the step claimed where one is?"""
    value, low, high, note = reached(arm, target, ask)
    verdict = Verdict(OPEN)
    verdict.add("time_to_target", value, low, high, f"steps until {target:g} nats, {note}")
    last = arm.looks().columns[-1]
    if by is None:
        verdict.answer = BETTER if high < math.inf else WORSE if low >= last else OPEN
    else:
        verdict.answer = BETTER if high <= by else WORSE if low >= by else OPEN
    verdict.notes.append("the step may be chosen afterwards: tested from the end backwards")
    return verdict


def judge_race(a: Arm, b: Arm, target: float, ask: Question) -> Verdict:
    """Which of two arms reaches the target first.

    Every run gets a time: the mean curve's crossing, plus what the run's own distance from the mean
    there is worth at the mean curve's slope, so a run that ends just above the target counts too.
    Where a mean curve never crosses, the arms' own intervals must not overlap (each at half the
    error).
    """
    verdict = Verdict(OPEN)
    for arm in (a, b):
        value, low, high, note = reached(arm, target, ask)
        verdict.add(f"time_to_target_{arm.name}", value, low, high, f"steps, {note}")
    times = [_times(arm.looks(), target) for arm in (a, b)]
    if all(times):
        found = compare.difference(*times, pair=ask.pair)
        half = ask.critical(found) * found.se if math.isfinite(found.se) else math.inf
        value, low, high = found.value, found.value - half, found.value + half
        verdict.notes.append(found.note.replace("losses", "times"))
    else:
        (_, low_a, high_a, _), (_, low_b, high_b, _) = (
            reached(arm, target, ask, ask.error / 2) for arm in (a, b)
        )
        value, low, high = math.nan, low_b - high_a, high_b - low_a
        verdict.notes.append("a mean curve never reaches the target: the intervals are compared")
    verdict.add("advantage_steps", value, low, high, f"steps by which A reaches {target:g} first")
    verdict.answer = answer(low, high)
    return verdict


def _times(looks, target) -> dict | None:
    """{key: steps to the target}, linear about the mean's crossing; None where there is none."""
    steps, mean = looks.columns.to_numpy(float), looks.mean().to_numpy()
    at = crossing(steps, mean, target)
    if not at > steps[0]:
        return None
    first = max(np.searchsorted(steps, 0.99 * at, side="right") - 1, 0)
    last = min(np.searchsorted(steps, 1.01 * at), len(steps) - 1)
    slope = (mean[first] - mean[last]) / (steps[last] - steps[first])
    there = [np.interp(at, steps, row) for row in looks.to_numpy()]
    return {k: at + (x - target) / slope for k, x in zip(looks.index, there, strict=True)}
