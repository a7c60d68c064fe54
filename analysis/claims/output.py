"""A verdict as lines of text, or as one JSON object for another program."""

import json
import math

from analysis.claims.judge import Question, Verdict


def as_json(verdict: Verdict, ask: Question, names: list[str], code: int) -> str:
    """JSON; open ends and missing numbers are null."""
    numbers = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in verdict.numbers
    ]
    answer = {
        "verdict": verdict.answer,
        "exit_code": code,
        "arms": names,
        "level": ask.level,
        "margin": ask.margin,
        "looks": ask.looks or "any",
        "variants": ask.variants,
        "numbers": numbers,
        "notes": verdict.notes,
    }
    return json.dumps(answer, indent=1, default=float)


def as_text(verdict: Verdict, ask: Question, names: list[str]) -> str:
    """The answer, its numbers, and what must be known of them."""
    lines = [f"{verdict.answer}: {' against '.join(names)}"]
    if ask.margin:
        lines[0] += f", by more than {ask.margin:g} nats"
    for row in verdict.numbers:
        interval = ""
        if not math.isnan(row["low"]):
            interval = f"({_short(row['low'])} to {_short(row['high'])})"
        value = _short(row["value"])
        lines.append(f"  {row['quantity']:24} {value:>10} {interval:24} {row['note']}".rstrip())
    lines += [f"- {note}" for note in verdict.notes]
    return "\n".join(lines)


def _short(value) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"
