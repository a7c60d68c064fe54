"""Gates over sizes: better at the two smallest, then at four, then in a projection to a larger one.

Every gate asks that A be better at all its sizes, so no correction is due for their number (an
intersection-union test). The projection is a straight line of the advantage in log size; its
interval is Student's with sizes - 2 degrees of freedom, so few sizes rarely carry it far.
"""

import math
import re

import numpy as np

from analysis.claims.judge import BETTER, OPEN, WORSE, Question, Verdict, answer, judge
from analysis.claims.tables import Arm, ClaimError
from analysis.stats import sequential, trend

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def size_of(text: str) -> float:
    """Parameters of a size's name: 130m, 1.2b, 1_2b, 3.5e8.

    Raises:
      ClaimError: not a size.
    """
    match = re.fullmatch(r"([0-9._]+(?:e\+?[0-9]+)?)([kmbt]?)", str(text).strip().lower())
    try:
        value = float(match[1].replace("_", ".")) * _UNITS[match[2]]
    except (TypeError, ValueError):
        raise ClaimError(f"size {text!r}: expected a number such as 130m, 1.2b or 3.5e8") from None
    if not value > 0:
        raise ClaimError(f"size {text!r}: must be positive")
    return value


def judge_gates(pairs: dict[str, tuple[Arm, Arm]], ask: Question, project=None) -> Verdict:
    """A against B at every size, gate by gate.

    Args:
      pairs: size name -> (A, B). project: parameters to project to, or None.

    Returns:
      the worst answer of the gates; rows `advantage_<size>` and one row per gate.

    Raises:
      ClaimError: fewer than two sizes.
    """
    names = sorted(pairs, key=size_of)
    if len(names) < 2:
        raise ClaimError(f"gates need two sizes, found {', '.join(names) or 'none'}")
    verdict, answers, points = Verdict(OPEN), {}, []
    for name in names:
        at_size = judge(*pairs[name], ask)
        row = at_size.number("advantage_loss")
        verdict.add(f"advantage_{name}", row["value"], row["low"], row["high"], at_size.answer)
        verdict.notes += [f"{name}: {note}" for note in at_size.notes[:1]]
        answers[name] = at_size.answer
        points.append((math.log2(size_of(name)), row["value"], row["high"] - row["low"]))
    gates = [_gate(verdict, names[:count], answers, ask) for count in (2, 4) if len(names) >= count]
    if project is not None:
        gates.append(_projection(verdict, np.array(points), project, ask))
    verdict.answer = _worst(gates)
    return verdict


def _worst(answers):
    return next(said for said in (WORSE, OPEN, BETTER) if said in answers)


def _gate(verdict, names, answers, ask):
    said = _worst([answers[name] for name in names])
    numbers = [verdict.number(f"advantage_{name}") for name in names]
    weakest = min(numbers, key=lambda row: row["low"])
    note = f"{said}: the weakest of {', '.join(names)}"
    verdict.add(f"gate_{len(names)}_sizes", weakest["value"], weakest["low"], weakest["high"], note)
    return said


def _projection(verdict, points, project, ask):
    """Weighted line through the advantages; scatter beyond the sizes' own errors widens it."""
    x, y, width = points.T
    label = f"gate_projection_{project:g}"
    if len(x) < 3 or not np.isfinite(width).all():
        verdict.add(label, math.nan, note="needs three sizes with a finite interval each")
        return OPEN
    se = width / 2 / sequential.critical(ask.error, math.inf)
    fit = trend.line(x, y, se)
    value, low, high = fit.at(math.log2(project), 1 - ask.error)
    said = answer(low, high, ask.margin)
    octaves = math.log2(project) - x.max()
    note = f"{said}: a straight line in log size, {octaves:.1f} doublings past the largest"
    verdict.add(label, value, low, high, note)
    verdict.add("slope_per_doubling", *fit.per_unit(1 - ask.error), "nats")
    return said
