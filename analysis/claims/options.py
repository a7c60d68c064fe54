"""The options of `python -m analysis.claims`, and what their words mean."""

import argparse
import math
import re
from pathlib import Path

from analysis.claims import rules, tables
from analysis.claims.tables import ClaimError
from analysis.stats import exchange, sequential
from analysis.stats.noise import Noise

OPTIONS = {  # name -> (metavar, type, default, help)
    "--arm": ("COLUMN", str, None, "one table: the column that names the arm"),
    "--a": ("VALUE", str, None, "with --arm: A's name in it"),
    "--b": ("VALUE", str, None, "with --arm: B's name in it"),
    "--loss": ("COLUMN", str, None, "the column of losses, lower is better"),
    "--step": ("S", str, None, "compare there, not at the end: S, S_A,S_B or `chosen` (corrected)"),
    "--target": ("LOSS", "number", None, "compare the time to this loss"),
    "--by": ("STEP", "number", None, "with --target and A alone: the step claimed"),
    "--looks": ("N|any", "looks", 1, "how often the runs were looked at while seeds were added"),
    "--variants": ("N", "count", 1, "settings tried of which A is the best"),
    "--margin": ("NATS", "number", 0.0, "A must be better by more; negative: not worse by more"),
    "--level": ("P", "share", 0.95, "of the interval (default 0.95)"),
    "--sigma": ("SD[:DF]", "sigma", None, "known scatter of one run, nats"),
    "--exchange": ("RATE|CSV", str, None, "NATS[:SE]/STEPS, or runs of several planned lengths"),
    "--sizes": ("COLUMN", str, None, "gates over the sizes that this column names"),
    "--project": ("SIZE", str, None, "with --sizes: a last gate, projected to this size"),
    "--check": ("CSV|track3", str, None, "recompute a table of stated claims"),
}


def parser(about: str) -> argparse.ArgumentParser:
    """about: the command's docstring; its second paragraph is the examples, its third the codes."""
    examples, codes = about.split("\n\n")[1:3]
    made = argparse.ArgumentParser(
        prog="python -m analysis.claims",
        description=about.splitlines()[0],
        epilog=f"examples:\n{examples}\n\n{codes}\nMore in docs/claims.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kinds = {"number": number, "count": count, "looks": looks, "share": share, "sigma": sigma}
    made.add_argument("a_source", nargs="?", metavar="A", help="CSV, results folder or track3:N")
    made.add_argument("b_source", nargs="?", metavar="B", help="the same, to compare A with")
    for name, (metavar, kind, default, text) in OPTIONS.items():
        kind = kinds.get(kind, kind)
        made.add_argument(name, metavar=metavar, type=kind, default=default, help=text)
    made.add_argument("--only", metavar="COLUMN=VALUE", action="append", default=[],
                      help="use rows with this value; may be repeated")  # fmt: skip
    made.add_argument("--axis", choices=tables.AXES, default="step", help="the budget made equal")
    made.add_argument("--pair", action=argparse.BooleanOptionalAction, default=None,
                      help="pair by seed, or do not; tested otherwise")  # fmt: skip
    made.add_argument(
        "--rule", choices=sorted(rules.RULES), help="another board's rule beside ours"
    )
    made.add_argument("--json", action="store_true", help="the verdict as one JSON object")
    return made


def _parsed(text, convert, good, expected):
    """A number that fits, or an error that says what was expected."""
    try:
        value = convert(text)
    except ValueError:
        value = None
    if value is None or not good(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def number(text):
    return _parsed(text, float, math.isfinite, "a number")


def count(text):
    return _parsed(text, int, lambda n: n > 0, "a positive whole number")


def looks(text):
    return sequential.ANY if text == "any" else count(text)


def share(text):
    return _parsed(text, float, lambda p: 0.5 <= p < 1, "0.5 or more and below 1")


def sigma(text):
    sd, _, df = text.partition(":")
    nats = _parsed(sd, float, lambda x: 0 < x < math.inf, "a positive SD or SD:DF")
    return Noise(nats, _parsed(df or "inf", float, lambda x: x > 0, "positive degrees of freedom"))


def rate(text) -> exchange.Rate:
    """NATS[:SE]/STEPS, or a CSV of runs of one setting at several planned lengths."""
    match = re.fullmatch(r"([^:/]+)(?::([^:/]+))?/([^:/]+)", text)
    if match and not Path(text).exists():
        try:
            nats, se, steps = (float(part) if part else math.nan for part in match.groups())
        except ValueError:
            nats = math.nan
        if not (nats > 0 and steps > 0):
            raise ClaimError(f"--exchange: expected NATS/STEPS such as 0.0045/100, got {text!r}")
        return exchange.Rate(nats / steps, se / steps, math.inf, "as given")
    table = tables.read(text)
    if "run" not in table:
        table = table.assign(run=range(len(table)))  # a row is a run
    lengths = tables.arm(text, table).last
    if "step" not in lengths:
        raise ClaimError(f"{text}: no column `step`, so no lengths")
    try:
        rate = exchange.from_lengths(lengths.step, lengths.loss)
    except ValueError as error:
        raise ClaimError(f"{text}: an exchange rate {error}") from None
    if not rate.value > 0:
        raise ClaimError(f"{text}: longer runs are no better, so a step has no worth")
    return rate


def steps(text):
    if text is None or text == "chosen":
        return text
    try:
        parts = [number(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        parts = []
    if len(parts) not in (1, 2):
        raise ClaimError(f"--step: expected a step, two (A's,B's) or `chosen`, got {text!r}")
    return (parts[0], parts[-1])


def only(text):
    column, equal, value = text.partition("=")
    if not equal:
        raise ClaimError(f"--only: expected COLUMN=VALUE, got {text!r}")
    return column, value
