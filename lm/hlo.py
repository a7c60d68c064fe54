"""What a compiled step moves between chips, read off its HLO text."""

from __future__ import annotations

import math
import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
# An asynchronous pair is counted at its start; TPU fusions hold the plain name.
COLLECTIVE = re.compile(
    r"= (?P<result>.*?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\("
)
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\})")


def collectives(
    text: str, *, chips: int, layers: int, chunks: int = 1, accumulate: int = 1
) -> dict[str, int]:
    """Bytes that each chip receives in one step, by kind of collective.

    An operation inside a loop is written once and runs as often as the loop: its `op_name` says
    whether that is the loop over layers (`layers`) or over pieces of the loss (`chunks`), and a
    loop over microbatches (`accumulate`) is outside of those. Loops of optimizers move nothing.
    Ring algorithms are assumed: a gather or scatter over n chips moves (n - 1)/n of the whole, a
    reduction twice that.
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = COLLECTIVE.search(line)
        if match is None:
            continue
        kind, sizes = match["kind"], [_bytes(*shape) for shape in SHAPE.findall(match["result"])]
        groups = GROUPS.search(line)
        n = chips  # an operation without groups is among all
        if groups:
            n = int(groups[1]) if groups[1] else groups[2].count(",") + 1
        whole = max(sizes, default=0) * (n if kind == "reduce-scatter" else 1)
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(kind, (n - 1) / n)
        found[kind] = found.get(kind, 0.0) + whole * share * _times(
            line, layers, chunks, accumulate
        )
    return {kind: round(size) for kind, size in sorted(found.items())}


def _times(line: str, layers: int, chunks: int, accumulate: int) -> int:
    """How often the operation of an HLO line runs in a step."""
    name = re.search(r'op_name="([^"]*)"', line)
    loops = name[1].count("while/body") if name else 0
    if not loops:
        return 1
    inside = layers if "blocks" in name[1] else chunks if "loss" in name[1] else 1
    return accumulate if accumulate > 1 and loops == 1 else accumulate * inside


def _bytes(dtype: str, dims: str) -> int:
    return BYTES.get(dtype, 4) * math.prod(int(d) for d in dims.split(",") if d)
