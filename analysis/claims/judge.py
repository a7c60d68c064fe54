"""Is A better than B, by how much, and what would settle it: the verdict of one comparison."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from analysis.claims.tables import AXES, Arm, ClaimError
from analysis.stats import compare, exchange, power, sequential
from analysis.stats.noise import UNKNOWN, Noise

BETTER, WORSE, OPEN = "better", "worse", "cannot be told"
EXIT = {BETTER: 0, WORSE: 1, OPEN: 3}  # 2 is a usage error
CHANCE = 0.8  # of finding what is there, wherever seeds or resolutions are stated
BEND = 0.3  # sd of a curve's late slope over the rate between lengths, 45 results of track 3


@dataclass(frozen=True)
class Question:
    """How the claim came about and what it must show.

    level: of the two-sided interval. looks: times the seeds were looked at, ANY if unknown.
    variants: settings tried of which A is the best. margin: nats by which A must be better; a
    negative one asks for "not worse by more". pair: None decides from the data (`compare`).
    noise: known scatter of one run. rate: nats per step, measured from curves where None.
    steps: of A and B; None is the end of the runs, "chosen" the step with the widest gap.
    axis: what "the same budget" means.
    """

    level: float = 0.95
    looks: int | None = 1
    variants: int = 1
    margin: float = 0.0
    pair: bool | None = None
    noise: Noise = UNKNOWN
    rate: exchange.Rate | None = None
    steps: tuple[float, float] | Literal["chosen"] | None = None
    axis: str = "step"

    @property
    def error(self) -> float:
        """Two-sided error rate of one comparison: the variants share it (Bonferroni)."""
        return (1 - self.level) / self.variants

    def critical(self, found: compare.Difference) -> float:
        return sequential.critical(self.error, found.df, looks=self.looks, n=found.n)


@dataclass
class Verdict:
    """answer; numbers: quantity, value, low, high, note; notes: what the reader must know."""

    answer: str
    numbers: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, quantity, value, low=math.nan, high=math.nan, note=""):
        row = {"quantity": quantity, "value": value, "low": low, "high": high, "note": note}
        self.numbers.append(row)

    def number(self, quantity) -> dict:
        return next(row for row in self.numbers if row["quantity"] == quantity)


def answer(low: float, high: float, margin: float = 0.0) -> str:
    """What an interval of an advantage says about "more than margin"."""
    return BETTER if low > margin else WORSE if high < margin else OPEN


def judge(a: Arm, b: Arm, ask: Question) -> Verdict:
    """A against B in loss at equal budget, with what the difference is worth in budget.

    The advantage is mean loss of B minus mean loss of A, plus what the budgets' difference is worth
    at the exchange rate. Positive means that A is better. A rate that was only read off the curves
    says what the advantage is worth but does not decide: without `ask.rate`, unequal budgets need
    an arm that is better with no more.

    Raises:
      ClaimError: the arms hold no common ground: steps that do not fit, curves that are missing.
    """
    if ask.steps == "chosen":
        found, bar, steps = _widest(a, b, ask)
    else:
        steps = ask.steps or (None, None)
        found = _difference(a.losses(steps[0]), b.losses(steps[1]), ask.pair, ask.noise)
        bar = ask.critical(found)
    verdict = Verdict(OPEN, notes=[found.note])
    if ask.steps == "chosen":
        verdict.notes.append(
            f"step {steps[0]:g} was chosen for the widest gap, and the interval corrected for that;"
            " a gap in mid-run says little about the end"
        )
    budget = [arm.budget(ask.axis, step) for arm, step in zip((a, b), steps, strict=True)]
    scaled = None if ask.rate is None else _per_unit(ask.rate, b, steps[1], ask.axis)
    value, se, note = _at_equal_budget(found, budget, scaled, ask.axis)
    if note:
        verdict.notes.append(note)
    low, high = value - _half(bar, se), value + _half(bar, se)
    verdict.answer = answer(low, high, ask.margin)
    if note and scaled is None:
        verdict.answer = _without_rate(verdict.answer, *budget)
    known = "budgets are not recorded" if None in budget else f"at equal {ask.axis}"
    verdict.add("advantage_loss", value, low, high, f"nats, {known}")
    rate = ask.rate or _slope(a, b, verdict.notes)
    if rate is not None and ask.steps != "chosen":
        _worth(verdict, found, (a, b), steps, rate, bar)
    _resolution(verdict, found, value, se, ask)
    return verdict


def _difference(a, b, pair, noise):
    try:
        return compare.difference(a, b, pair=pair, noise=noise)
    except ValueError as error:
        raise ClaimError(str(error)) from None


def _half(bar, se):
    return math.inf if math.isinf(bar) or math.isinf(se) else bar * se


def _widest(a, b, ask):
    """The look with the largest t in A's favour, and the critical value of the largest of all."""
    if ask.looks is sequential.ANY:
        raise ClaimError("--step=chosen needs a declared number of looks, not --looks=any")
    left, right = a.looks(), b.looks()
    apart = left.std(ddof=0) + right.std(ddof=0)  # NaN where one arm did not look
    steps = list(apart.index[apart > 0])
    if not steps:
        raise ClaimError("--step=chosen: the arms have no step in common")
    last = _difference(left[steps[-1]].to_dict(), right[steps[-1]].to_dict(), ask.pair, ask.noise)
    if not last.df > 0:
        return last, math.inf, (steps[-1], steps[-1])
    at = [_difference(left[s].to_dict(), right[s].to_dict(), last.paired, ask.noise) for s in steps]
    left, right = left[steps], right[steps]
    if last.paired:
        gap = (right - left).dropna()
        residual = (gap - gap.mean()).to_numpy()
    else:
        residual = np.vstack([left - left.mean(), right - right.mean()])
    best = max(range(len(at)), key=lambda i: (at[i].value - ask.margin) / at[i].se)
    bar = sequential.largest_of(residual, at[best].df, ask.error / ask.looks)
    found = at[best]._replace(note=last.note)
    return found, bar, (steps[best], steps[best])


def _slope(a, b, notes):
    """Exchange rate read off B's curves, or else A's, with what a schedule may bend it."""
    for arm in (b, a):
        try:
            rate = exchange.from_curves(arm.curves("step"))
        except ValueError:
            continue
        if rate.value > 0:
            notes.append(
                f"exchange rate from the end of {arm.name}'s curves: on track 3 such slopes are 1.5"
                " times what longer runs gain; give --exchange to let it decide"
            )
            spread = BEND * rate.value
            se = math.hypot(rate.se, spread) if rate.df > 0 else spread
            return rate._replace(se=se, df=44)
    return None


def _per_unit(rate, arm, step, axis):
    """The rate per unit of another axis, by how many steps of the arm make one unit."""
    steps, units = arm.budget("step", step), arm.budget(axis, step)
    if not steps or not units:
        return None
    scale = steps / units
    return rate._replace(value=rate.value * scale, se=rate.se * scale)


def _at_equal_budget(found, budget, rate, axis):
    """The advantage and its error with the budgets made equal; a note where they were not."""
    if None in budget or budget[0] == budget[1]:
        return found.value, found.se, None
    gap = budget[1] - budget[0]
    what = f"budgets differ: {axis} {budget[0]:g} and {budget[1]:g}"
    if rate is None:
        return found.value, found.se, f"{what}, and no exchange rate is known (--exchange)"
    error = rate.se * gap if math.isfinite(rate.se) else 0.0
    return found.value + rate.value * gap, math.hypot(found.se, error), what


def _without_rate(said, used_a, used_b):
    """More loss for more budget is worse whatever a step is worth; anything else stays open."""
    fits = {BETTER: used_a <= used_b, WORSE: used_a >= used_b, OPEN: True}
    return said if fits[said] else OPEN


def _worth(verdict, found, arms, steps, rate, bar):
    """The difference in every recorded budget: what B lacks to A's loss, and the ratio."""
    a, b = arms
    ends = _around(100 * rate.value, 100 * rate.se, rate.df)
    verdict.add("exchange_rate", 100 * rate.value, *ends, f"nats per 100 steps, {rate.how}")
    for axis in AXES:
        per_unit = _per_unit(rate, b, steps[1], axis)
        have = a.budget(axis, steps[0]), b.budget(axis, steps[1])
        if per_unit is None or None in have or not have[0]:
            continue
        lacks = found.value / per_unit.value
        low, high = exchange.ratio(found.value, found.se, per_unit, bar)
        far = abs(lacks) > 0.2 * have[1]
        note = f"{axis} B needs for A's loss over those A used"
        note += "; extrapolates: the rate holds near the end only" if far else ""
        saved = [have[1] - have[0] + x for x in (lacks, low, high)]
        verdict.add(f"saved_{axis}", *saved, "B's need less A's use")
        verdict.add(f"speedup_{axis}", *((have[1] + x) / have[0] for x in (lacks, low, high)), note)


def _around(value, se, df):
    if not (math.isfinite(se) and df > 0):
        return math.nan, math.nan
    half = sequential.critical(0.05, df) * se
    return value - half, value + half


def _resolution(verdict, found, value, se, ask):
    """How noisy the runs are, how many would settle it, what these could have found."""
    if not math.isfinite(found.se):
        verdict.add("seeds_needed", math.nan, note=found.note)
        return
    verdict.add("sd", found.sd, note="of a paired difference" if found.paired else "of one run")
    if math.isfinite(found.correlation):
        verdict.add("seed_correlation", found.correlation, note="of same-seed losses")
    if ask.looks is not sequential.ANY:
        bar = sequential.critical(ask.error, found.df, looks=sequential.ANY, n=found.n)
        half = _half(bar, se)
        said = answer(value - half, value + half, ask.margin)
        note = f"if seeds were added until it pleased: {said}"
        verdict.add("advantage_any_looks", value, value - half, value + half, note)
    design = power.Design(found.sd, ask.error, ask.looks, found.paired, found.df > 200)
    seeds = found.n if found.paired else max(2, round(2 * found.n))
    finds = power.detectable(int(seeds), design, chance=CHANCE)
    note = f"nats that {int(seeds)} seeds per arm find with {CHANCE:.0%} chance"
    verdict.add("detectable", finds, note=note)
    need = power.seeds_needed(value - ask.margin, design, chance=CHANCE)
    note = f"per arm, to settle an advantage as large as observed, with {CHANCE:.0%} chance"
    verdict.add("seeds_needed", math.nan if need is None else need, note=note)
