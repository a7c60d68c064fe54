"""Rules of other boards beside ours, and a check of claims that state their own numbers.

Track 3 of modded-nanogpt: z tests with an assumed sigma. A result must show
(3.28 - mean) sqrt(n) >= 0.004; to beat another, (difference of means + difference of steps x
0.0045/100) / sqrt(1/n_1 + 1/n_2) >= 0.004. It picks the earliest step that passes.
"""

import math
from dataclasses import dataclass

import pandas as pd
from scipy import special

from analysis.claims.tables import Arm
from analysis.published import track3
from analysis.stats.exchange import Rate
from analysis.stats.noise import Noise

# measured on the board's own logs (`python -m analysis.records track3`)
NOISE = Noise(0.00111, 524)
RATE = Rate(4.82e-5, 0.23e-5, 26, "of track 3, between two lengths of result 12")


@dataclass(frozen=True)
class Track3:
    """The board's constants, and what the record itself says of noise and exchange rate."""

    target: float = track3.TARGET
    threshold: float = 0.004
    sigma: float = 0.0013
    per_step: float = 0.0045 / 100
    noise: Noise = NOISE
    rate: Rate = RATE

    def reaches(self, mean: float, n: int) -> float:
        return (self.target - mean) * math.sqrt(n)

    def beats(self, old, new, *, per_step: float | None = None) -> float:
        """old, new: (mean, n, steps). Positive speaks for `new`."""
        steps = (old[2] - new[2]) * (self.per_step if per_step is None else per_step)
        return (old[0] - new[0] + steps) / math.sqrt(1 / old[1] + 1 / new[1])

    def p_value(self, value: float) -> float:
        return float(special.ndtr(-value / self.sigma))

    def passes(self, value: float) -> bool:
        return value >= self.threshold - 1e-12

    def stopping_step(self, arm: Arm) -> float | None:
        """The earliest look at which the arm passes, as the board picks it; None if none does."""
        looks = arm.looks()
        for step in looks:
            if self.passes(self.reaches(looks[step].mean(), len(looks))):
                return float(step)
        return None


RULES = {"track3": Track3()}


def check_statements(table: pd.DataFrame, rule: Track3) -> pd.DataFrame:
    """Recomputes claims that state their own value, p or verdict.

    Args:
      table: id, kind ("target", "pairwise", "exchange"), a_mean, a_n, a_steps (the older result, or
        the only one), b_mean, b_n, b_steps, and as text stated_value, stated_p, stated_verdict;
        a_result and b_result name results of the record where there are some.

    Returns:
      id, claim, value, p, verdict, status, note. status: "reproduced" to the digits stated,
      "reproduced from the logs" with the record's unrounded means, or "wrong"; the note of a wrong
      one says which count of runs would give the stated value.
    """
    means = track3.results().set_index("result_number").logs_mean
    return pd.DataFrame([_check(row, rule, means) for row in table.itertuples()])


def _check(row, rule, means):
    a, b = (tuple(getattr(row, f"{s}_{what}") for what in ("mean", "n", "steps")) for s in "ab")
    if row.kind == "exchange":
        return _check_exchange(row, a, b)

    def value(a, b):
        return rule.reaches(*a[:2]) if row.kind == "target" else rule.beats(a, b)

    found = value(a, b)
    status, note = "reproduced", ""
    if not _agrees(row, found, rule):
        status = "wrong"
        logs = [means.get(getattr(row, f"{s}_result")) for s in "ab"]
        if None not in logs and _agrees(row, value((logs[0], *a[1:]), (logs[1], *b[1:])), rule):
            status = "reproduced from the logs"
        else:
            note = _wrong_count(row, value, a, b)
    verdict = "pass" if rule.passes(found) else "fail"
    return _answer(row, found, rule.p_value(found), verdict, status, note)


def _answer(row, value, p, verdict, status, note):
    known = {"id": row.id, "claim": row.claim, "value": value, "p": p, "verdict": verdict}
    return known | {"status": status, "note": note}


def _agrees(row, found, rule):
    said = row.stated_verdict
    verdict = not isinstance(said, str) or (said == "pass") == rule.passes(found)
    return verdict and _same(row.stated_value, found) and _same(row.stated_p, rule.p_value(found))


def _same(stated, found):
    """Equal to the digits stated (half a unit of the last, and a hair for ties)."""
    if not isinstance(stated, str):
        return True
    digits = stated.lower().partition("e")[0].partition(".")[2]
    unit = 10.0 ** -len(digits) * (10.0 ** int(stated.lower().partition("e")[2] or 0))
    return abs(float(stated) - found) <= 0.501 * unit


def _wrong_count(row, value, a, b):
    if not isinstance(row.stated_value, str):
        return ""
    fits = [n for n in range(1, 65) if _same(row.stated_value, value(a, (b[0], n, b[2])))]
    if not fits:
        return ""
    several = f"from {fits[0]} to {fits[-1]}" if len(fits) > 1 else f"= {fits[0]}"
    return f"n {several} in place of {b[1]:g} would give {row.stated_value}"


def _check_exchange(row, a, b):
    """Steps for a loss at the stated rate, or a rate from two lengths of one setting."""
    gap = b[0] - a[0]
    if math.isnan(a[2]):
        found = gap / row.exchange_per_100_steps * 100
        status = "reproduced" if _same(row.stated_value, found) else "wrong"
        return _answer(row, found, math.nan, "", status, "steps")
    rate = RULES["track3"].rate
    low, high = (100 * (rate.value + s * 1.96 * rate.se) for s in (-1, 1))
    inside = low <= float(row.stated_value) <= high
    note = f"nats per 100 steps; like with like {100 * rate.value:.4f} ({low:.4f} to {high:.4f})"
    return _answer(row, 100 * rate.value, math.nan, "", "reproduced" if inside else "wrong", note)
