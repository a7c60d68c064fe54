"""What a compiled step moves between chips and multiplies on each, read off its HLO text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
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
HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[^ ]+) (?:\(.*)?\{$")
LOOP = re.compile(r" while\(.*condition=%?(?P<condition>[^ ,]+), body=%?(?P<body>[^ ,]+)")
BRANCHES = re.compile(
    r"branch_computations=\{(?P<all>[^}]*)\}|"
    r"true_computation=%?(?P<yes>[^ ,]+), false_computation=%?(?P<no>[^ ,]+)"
)
STARTED = re.compile(r"custom-call\(%?([^ ,)]+).*AsyncCollectiveStart")
CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([^ ,}]+)")
TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
LIMIT = re.compile(r"= [su]\d+\[\][^ ]* constant\((\d+)\)")
RESULT = re.compile(r"^ *(?:ROOT )?%?(?P<name>[^ ]+) = (?P<dtype>\w+)\[(?P<dims>[\d,]*)\]")
PRODUCT = re.compile(r" (?:dot|convolution)\(%?(?P<left>[^ ,]+), %?(?P<right>[^ ,)]+)\)")
LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')
# Written by the compiler or by JAX as products, but another machine's has them as LAPACK's.
DECOMPOSITION = re.compile(r"\b(?:qr|eigh|geqrf|householder_product|triangular_solve|cholesky)\b")


class Amounts(NamedTuple):
    """What each chip does in one step, by kind."""

    least: dict[str, int]  # every conditional takes its cheapest branch: most steps
    most: dict[str, int]  # its dearest: a step that refreshes preconditioners


def collectives(text: str, *, chips: int) -> Amounts:
    """Bytes that each chip of a program receives by kind of collective, in all rounds of its loops.

    A loop runs as often as the compiler notes, else as the constant in its condition says, else
    once (a loop until convergence). Ring algorithms are assumed: a gather or scatter over n chips
    moves (n - 1)/n of the whole, a reduction twice that.
    """

    def cost(name, lines):
        # TPU's compiler writes a reduce-scatter as an all-reduce that is cut in the same fusion.
        scatters = name.startswith("all-reduce-scatter")
        started = {match[1] for line in lines if (match := STARTED.search(line))}
        for line in lines:
            collective = COLLECTIVE.search(line)
            if collective and ("chain_id=" not in line or collective["name"] in started):
                kind, amount = collective["kind"], _received(line, collective, chips)
                scattered = scatters and kind == "all-reduce"
                yield ("reduce-scatter", amount / 2) if scattered else (kind, amount)

    return amounts(text, cost)


def products(
    text: str,
    *,
    scope: str = "",
    by: Callable[[str], str] = lambda line: RESULT.match(line)["dtype"],
) -> Amounts:
    """FLOPs of the matrix products of a program, a multiply and an add being two, by dtype or by
    what `by` says of a product's line.

    Only those inside a `jax.named_scope`, if one is named. Those that make up a decomposition (QR,
    eigenvectors, triangular solves) are left out. Loops count as in `collectives`.
    """
    inside = re.compile(rf"(?:^|/){scope}/") if scope else re.compile("")

    def cost(name, lines):
        found = [(line, match) for line in lines if (match := PRODUCT.search(line))]
        results = (RESULT.match(line) for line in lines) if found else ()
        shapes = {match["name"]: _dims(match["dims"]) for match in results if match}
        for line, product in found:
            scopes = OP_NAME.search(line)
            scopes = scopes[1] if scopes else ""
            if inside.search(scopes) and not DECOMPOSITION.search(scopes):
                result = RESULT.match(line)
                operands = shapes[product["left"]], shapes[product["right"]]
                yield by(line), _flops(line, *operands, _dims(result["dims"]))

    return amounts(text, cost)


Cost = Callable[[str, list[str]], Iterable[tuple[str, float]]]


def amounts(text: str, cost: Cost) -> Amounts:
    """What `cost(name, lines)` says of each computation, as (kind, amount), as often as it runs."""
    computations, entry = _computations(text)
    totals = _totals(entry, computations, cost, {})
    return Amounts(*({kind: round(x) for kind, x in sorted(total.items())} for total in totals))


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


def _totals(name: str, computations, cost: Cost, seen: dict) -> tuple[Counter, Counter]:
    """The least and the most that a computation costs, with all that it calls."""
    if name in seen:
        return seen[name]
    seen[name] = least, most = Counter(), Counter()

    def add(amounts: tuple[Counter, Counter], times: int = 1):
        for total, part in zip((least, most), amounts, strict=True):
            total.update({kind: times * x for kind, x in part.items()})

    def inside(callee):
        return _totals(callee, computations, cost, seen)

    lines = computations.get(name, ())
    for kind, amount in cost(name, lines):
        add((Counter({kind: amount}),) * 2)
    for line in lines:
        loop, branches = (r.search(line) for r in (LOOP, BRANCHES))
        if loop:
            limits = TRIPS.findall(line) or LIMIT.findall(
                "\n".join(computations[loop["condition"]])
            )
            add(inside(loop["body"]), times=max(map(int, limits), default=1))
        elif branches:
            names = (branches["all"] or f"{branches['yes']},{branches['no']}").split(",")
            cheap, dear = zip(*(inside(n.strip(" %")) for n in names), strict=True)
            add((min(cheap, key=Counter.total), max(dear, key=Counter.total)))
        else:
            for callee in CALLED.findall(line):
                add(inside(callee))
    return least, most


def _received(line: str, collective: re.Match, chips: int) -> float:
    kind, n = collective["kind"], _members(line, chips)
    # One operation may move several tensors.
    whole = sum(_bytes(*s) for s in SHAPE.findall(collective["result"]))
    if "-start(" in line and kind != "all-reduce":  # its operands are named with its results
        parts = 1 + 1 / n if kind in ("all-gather", "reduce-scatter") else 2
        whole /= parts
    elif kind == "reduce-scatter":
        whole *= n
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
    return BYTES.get(dtype, 4) * math.prod(_dims(dims))


def _dims(text: str) -> list[int]:
    return [int(d) for d in text.split(",") if d]


def _flops(line: str, left: list[int], right: list[int], result: list[int]) -> float:
    """Of a dot, or of the convolution that the TPU's compiler makes of one."""
    labels = LABELS.search(line)
    if not labels:
        contracted = _dims(re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)[1])
        return 2 * math.prod(result) * math.prod(left[d] for d in contracted)
    left_of, right_of, result_of = (
        dict(zip(*pair, strict=True))
        for pair in ((labels[1], left), (labels[2], right), (labels[3], result))
    )
    window = {key: value.split("x") for key, value in re.findall(r"(\w+)=([\dx_-]+)", line)}
    flops = 2 * math.prod(result) * right_of["i"]
    for i, axis in enumerate(sorted(filter(str.isdigit, right_of))):
        step, at, spread = (
            int(window[k][i]) if k in window else 1 for k in ("stride", "rhs_dilate", "lhs_dilate")
        )
        pad = int(window["pad"][i].split("_")[0]) if "pad" in window else 0
        places = (
            divmod(o * step + k * at - pad, spread)
            for o in range(result_of[axis])
            for k in range(right_of[axis])
        )
        hits = sum(not rest and 0 <= place < left_of[axis] for place, rest in places)
        flops *= hits / result_of[axis]
    return flops
