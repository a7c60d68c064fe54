"""What a compiled step moves between chips, read off its HLO text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
# An asynchronous pair is counted at its start. TPU fusions hold the plain name; one collective that
# runs beside several of them is written in each, linked by a chain, and starts in one.
COLLECTIVE = re.compile(
    r"%?(?P<name>[^ ]+) = (?P<result>.*?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\("
)
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
# {{0,1},{2,3}}, [groups,members]<=..., or axes of a mesh of the compiler's: 'axis' or 'axis':(2)4
GROUPS = re.compile(
    r"replica_groups=(?:\[\d+,(?P<members>\d+)\]|\{\{(?P<list>[\d,]+)\}|"
    r"mesh\[(?P<mesh>[^\]]*)\][^{}]*\{(?P<axes>[^}]*)\})"
)
HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[^ ]+) \(.*\{$")
LOOP = re.compile(r" while\(.*condition=%?(?P<condition>[^ ,]+), body=%?(?P<body>[^ ,]+)")
BRANCHES = re.compile(
    r"branch_computations=\{(?P<all>[^}]*)\}|"
    r"true_computation=%?(?P<yes>[^ ,]+), false_computation=%?(?P<no>[^ ,]+)"
)
STARTED = re.compile(r"custom-call\(%?([^ ,)]+).*AsyncCollectiveStart")
CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([^ ,}]+)")
LIMIT = re.compile(r"= [su]\d+\[\][^ ]* constant\((\d+)\)")


class Moved(NamedTuple):
    """Bytes that each chip receives in one step, by kind of collective."""

    least: dict[str, int]  # every conditional takes its cheapest branch: most steps
    most: dict[str, int]  # its dearest: a step that refreshes preconditioners


def collectives(text: str, *, chips: int) -> Moved:
    """What a program moves, in all the rounds of its loops.

    A loop runs as often as the constant in its condition says, once if there is none (a loop until
    convergence). Ring algorithms are assumed: a gather or scatter over n chips moves (n - 1)/n of
    the whole, a reduction twice that.
    """
    computations, entry = _computations(text)
    found = {}
    for choose in (min, max):
        seen: dict[str, Counter] = {}
        moved = _moved(entry, computations, chips, choose, seen)
        found[choose] = {kind: round(size) for kind, size in sorted(moved.items())}
    return Moved(found[min], found[max])


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by name, and the name of the entry."""
    computations: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            name = header["name"]
            entry = name if header["entry"] else entry
        elif name:
            computations.setdefault(name, []).append(line)
    return computations, entry


def _moved(name: str, computations, chips: int, choose: Callable, seen: dict) -> Counter:
    if name in seen:
        return seen[name]
    seen[name] = total = Counter()

    def inside(callee):
        return _moved(callee, computations, chips, choose, seen)

    lines = computations.get(name, ())
    started = {match[1] for line in lines if (match := STARTED.search(line))}
    for line in lines:
        collective, loop, branches = (r.search(line) for r in (COLLECTIVE, LOOP, BRANCHES))
        if collective:
            if "chain_id=" not in line or collective["name"] in started:
                total[collective["kind"]] += _received(line, collective, chips)
        elif loop:
            limits = LIMIT.findall("\n".join(computations[loop["condition"]]))
            times = max(map(int, limits), default=1)
            total.update({kind: times * size for kind, size in inside(loop["body"]).items()})
        elif branches:
            names = (branches["all"] or f"{branches['yes']},{branches['no']}").split(",")
            total.update(choose((inside(n.strip(" %")) for n in names), key=Counter.total))
        else:
            for callee in CALLED.findall(line):
                total.update(inside(callee))
    return total


def _received(line: str, collective: re.Match, chips: int) -> float:
    kind, sizes = collective["kind"], [_bytes(*s) for s in SHAPE.findall(collective["result"])]
    n = _members(line, chips)
    # One operation may move several tensors; the result of a start names its operands too.
    whole = max(sizes, default=0) if "-start(" in line else sum(sizes)
    whole *= n if kind == "reduce-scatter" else 1
    return whole * {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(kind, (n - 1) / n)


def _members(line: str, chips: int) -> int:
    """How many chips take part together; all, where an operation names no groups."""
    groups = GROUPS.search(line)
    if groups is None:
        return chips
    if groups["members"]:
        return int(groups["members"])
    if groups["list"]:
        return groups["list"].count(",") + 1
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups["mesh"]))
    axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", groups["axes"])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)


def _bytes(dtype: str, dims: str) -> int:
    return BYTES.get(dtype, 4) * math.prod(int(d) for d in dims.split(",") if d)
