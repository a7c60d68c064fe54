"""Races: sizes x ratios x optimizers, how they are tuned, and what they may cost.

    python -m sweeps.run --config=configs/study.py:nano --workdir=runs/nano

| name | optimizers | sizes | ratios | trials | tokens | on two CPU cores |
|---|---|---|---|---|---|---|
| smoke | 11 | nano-xs | 1/8 1/4 | 95 | 3M | about a minute, half of it compiling |
| nano | 4 | nano-xs nano-s | 1/2 1 2 | 192 | 60M | about twelve minutes |
| hour | 6 | nano-xs nano-m nano-l | 1 2 4 | 840 | 0.57G | over two hours, not run |
| tenhours | 11 | those, micro-xs held out | 1 2 4 | 4100 | 3.1G | about fifteen hours, not run |
| published | 11 | 130m 300m 520m 1.2b | 1 2 4 8 | as arXiv 2509.02046 | | |
| transfer | 4 | nano-xs nano-m nano-l | 1 | see docs/transfer.md | | |
| transfer-130m | 4 | 130m 300m 520m | 1 | the same for a pod | | |
| transfer-smoke | 2 | nano-xs nano-s | 1/8 | the same for a test | | |
| isoflop | 3 | nano-xs nano-s nano-m nano-l | 8 of equal FLOPs | | | |
| architecture | 4 | nano-s nano-m, and both with norms of 2026 | 1 | | | |

Trials and tokens are those of the planner played against typical losses (`--dry_run`); hours follow
from their FLOPs at the 23 GFLOP/s that nano-s was measured at on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

import optim
from configs import grids, ladder, spaces
from lm.config import unknown
from lm.model.flops import forward_flops_per_token
from optim.catalogue import is_plugin
from sweeps.plan.config import complete

CORE = ("learning_rate", "weight_decay", "warmup", "decay", "beta2", "momentum")

# What a rule does not name here has the default of sweeps.plan.rules; all of it can be set:
# --config.rule.max_moves=2. Every race of ours stops after four moves a cell.
PUBLISHED_RULE = {"mode": "published", "max_moves": 4}
TESTED_RULE = {"mode": "tested", "max_moves": 4, "extend": ["I", "II"]}


def get_config(name: str = "nano", optimizers: Sequence[str] = ()) -> ConfigDict:
    """A race by name, complete and locked; between `optimizers`, names or import paths, if given.

    Raises:
      ValueError: no such race or optimizer; names the nearest.
    """
    if name not in RACES:
        raise ValueError(unknown("study", name, RACES))
    for optimizer in optimizers:
        optim.catalogue.get(optimizer)
    full = complete({"name": name, **RACES[name](*[tuple(optimizers)] * bool(optimizers))})
    return ConfigDict(full, allow_dotted_keys=True).lock()  # starts are named nano-s,0.5x


def cells(sizes: Sequence[str], ratios: Sequence[float]) -> list[list]:
    return [[size, ratio] for size in sizes for ratio in ratios]


def cpu(
    optimizers: Sequence[str],
    phases: dict[str, list[list]],
    *,
    only: Sequence[str] = (),
    rule: dict | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    sequences: int = 256,
    points: int = 4,
    others: dict[str, dict] | None = None,
) -> dict[str, Any]:
    """A race on the CPU ladder: the published grids carried to its smallest training.

    `others` are models beside the ladder's, by name.
    """
    settings = [setting for part in phases.values() for setting in part]
    sizes = list(dict.fromkeys(size for size, _ in settings))
    smallest = min((name for name in sizes if name in ladder.SIZES), key=ladder.params)
    ratio = min(ratio for _, ratio in settings)
    return {
        "sizes": {name: (others or {}).get(name) or ladder.SIZES[name] for name in sizes},
        "ratios": sorted({ratio for _, ratio in settings}),
        "phases": phases,
        "optimizers": {name: entry(name, smallest, ratio, only) for name in optimizers},
        "rule": dict(rule or PUBLISHED_RULE),
        "seeds": list(seeds),
        "data": {"corpus": "stdlib"},
        "train": {"compute_dtype": "float32"},
        "eval": {"sequences": sequences, "points": points},
        "program": {"unroll": True},
    }


def entry(name: str, size: str, ratio: float, only: Sequence[str] = ()) -> dict[str, Any]:
    """One optimizer's part in a race on the CPU ladder, whose shortest training this is."""
    if not is_plugin(name):
        return grids.recentred(name, size, ratio, only=only)
    adamw = grids.recentred("adamw", size, ratio)
    return spaces.entry(name, adamw, ladder.steps(size, ratio), only)


def smoke(optimizers: Sequence[str] = tuple(grids.GRIDS)) -> dict[str, Any]:
    """The shortest race that goes through everything, with all eleven: for tests, a first look."""
    phases = {"I": cells(["nano-xs"], [0.125]), "II": cells(["nano-xs"], [0.25])}
    rule = {**PUBLISHED_RULE, "max_moves": 1, "equal_effort": 0.0}  # no race, and in a minute
    only = ("learning_rate",)
    return cpu(optimizers, phases, only=only, rule=rule, seeds=(0, 1), sequences=64)


def nano(optimizers: Sequence[str] = ("adamw", "nadamw", "lion", "muon")) -> dict[str, Any]:
    """The quick start: who wins at two tiny sizes and three budgets, with the noise known.

    Only the learning rate is searched, which is what matters at a few hundred steps; the time goes
    to fresh seeds of the winners, for a seed moves a loss by ten times what a comparison on common
    seeds can resolve: four fresh ones, two for each core. Grids grow until no winner is on an edge.
    """
    sizes = ["nano-xs", "nano-s"]
    phases = {"I": cells(sizes, [1]), "II": cells(sizes, [0.5, 2])}
    rule = {**PUBLISHED_RULE, "extend": ["I", "II"]}
    only = ("learning_rate",)
    return cpu(optimizers, phases, only=only, rule=rule, seeds=range(5), points=2)


SIX = ("adamw", "nadamw", "lion", "muon", "scion", "soap")


def hour(optimizers: Sequence[str] = SIX) -> dict[str, Any]:
    """Six optimizers, decided by the tested rule; a third size by the cut search of Phase II."""
    second = [*cells(["nano-xs", "nano-m"], [2, 4]), ["nano-l", 1]]
    phases = {"I": cells(["nano-xs", "nano-m"], [1]), "II": second}
    return cpu(optimizers, phases, only=CORE, rule=TESTED_RULE)


def tenhours(optimizers: Sequence[str] = tuple(grids.GRIDS)) -> dict[str, Any]:
    """All eleven, every hyper-parameter, and laws verified where none was tuned."""
    first = [*cells(["nano-xs"], [1, 2, 4]), ["nano-m", 1]]
    second = [*cells(["nano-m"], [2, 4]), *cells(["nano-l"], [1, 2])]
    phases = {"I": first, "II": second, "III": [["nano-l", 4], ["micro-xs", 1]]}
    return cpu(optimizers, phases, rule=TESTED_RULE)


def published(optimizers: Sequence[str] = tuple(grids.GRIDS)) -> dict[str, Any]:
    """arXiv 2509.02046 as it was run: its settings, grids, starting points and thresholds; one
    seed.
    """
    first = [*cells(["130m"], [1, 2, 4, 8]), ["300m", 1], ["520m", 1]]
    phases = {
        "I": first,
        "II": cells(["300m", "520m"], [2, 4, 8]),
        "III": cells(["1.2b"], [1, 2, 4, 8]),
    }
    return {
        "sizes": {name: ladder.SIZES[name] for name in ladder.PUBLISHED},
        "ratios": [1, 2, 4, 8],
        "phases": phases,
        "optimizers": {name: published_entry(name) for name in optimizers},
        "rule": {**PUBLISHED_RULE, "extend": [], "equal_effort": 0.0},
        "seeds": [0],
        "data": {"corpus": "study"},
        "train": {"compute_dtype": "bfloat16"},
        "eval": {"sequences": 1024, "points": 20},
        "pack": {"width": 1},
    }


def published_entry(name: str) -> dict[str, Any]:
    """One optimizer's part in the published race."""
    if not is_plugin(name):
        return grids.published(name)
    return spaces.entry(name, grids.published("adamw"), grids.PUBLISHED_STEPS)


# Who answers for which rule of `optim.scaling`; the hyperball's own is no factor for the width.
CARRIED = {
    "adamw": ["mup", "mup,p=0", "hyperp"],
    "muon": ["mup", "mup,p=0", "hyperp"],
    "soap": ["mup", "mup,p=0"],
    "muonh": ["hyperp"],
}
TRANSFER = tuple(CARRIED)


def carry(study: dict[str, Any], base: str, rules: dict | None = None) -> dict[str, Any]:
    """The study with its winners at `base` carried to all its sizes, and weight decay searched on a
    grid of doublings, so that the exponent of its law can be seen.
    """
    for given in study["optimizers"].values():
        if given["start"].get("weight_decay") and "weight_decay" in given["grids"]:
            given["grids"]["weight_decay"] = [0.05, 0.1, 0.2, 0.4]
    rules = {name: (rules or CARRIED).get(name, ["mup"]) for name in study["optimizers"]}
    return {**study, "transfer": {"base": base, "rules": rules}}


def transfer(optimizers: Sequence[str] = TRANSFER) -> dict[str, Any]:
    """Does what is tuned small hold at three times the width, by which scaling rule? Both ends are
    tuned in full; the size between gets what their fitted law says.
    """
    phases = {"I": cells(["nano-xs", "nano-l"], [1]), "III": cells(["nano-m"], [1])}
    only = ("learning_rate", "weight_decay")
    rule = {**PUBLISHED_RULE, "order": "coordinate"}
    return carry(cpu(optimizers, phases, only=only, rule=rule, seeds=range(4)), "nano-xs")


def transfer_smoke(optimizers: Sequence[str] = ("adamw", "muon")) -> dict[str, Any]:
    """The way of `transfer` from end to end, in a minute or two: its numbers mean nothing."""
    phases = {"I": cells(["nano-xs", "nano-s"], [0.125])}
    rule = {**PUBLISHED_RULE, "max_moves": 0, "extend": [], "equal_effort": 0.0}
    only = ("learning_rate", "weight_decay")
    study = cpu(optimizers, phases, only=only, rule=rule, seeds=range(3), sequences=32)
    for given in study["optimizers"].values():
        given["grids"]["learning_rate"] = given["grids"]["learning_rate"][1:4]
    return carry(study, "nano-xs", {name: ["mup"] for name in study["optimizers"]})


def transfer_130m(optimizers: Sequence[str] = TRANSFER) -> dict[str, Any]:
    """`transfer` at the published sizes, for a pod."""
    study = published(optimizers)
    phases = {"I": cells(["130m", "520m"], [1]), "III": cells(["300m"], [1])}
    sizes = {name: study["sizes"][name] for name in ("130m", "300m", "520m")}
    for given in study["optimizers"].values():
        for part in ("grids", "bounds"):
            searched = ("learning_rate", "weight_decay")
            given[part] = {n: v for n, v in given[part].items() if n in searched}
        given["phase_two"] = {}
    rule = {**PUBLISHED_RULE, "order": "coordinate", "extend": ["I"]}
    new = {"sizes": sizes, "ratios": [1], "phases": phases, "rule": rule, "seeds": [0, 1, 2]}
    return carry(study | new, "130m")


def isoflop(optimizers: Sequence[str] = ("adamw", "muon", "soap")) -> dict[str, Any]:
    """Each optimizer at its own best split of the same FLOPs into parameters and tokens: four sizes
    at two budgets, those of nano-s and nano-m at ratio 1.
    """
    names = ["nano-xs", "nano-s", "nano-m", "nano-l"]

    def ratio(name: str, like: str) -> float:
        flops = {n: forward_flops_per_token(ladder.SIZES[n]) * ladder.params(n) for n in names}
        return round(flops[like] / flops[name], 3)

    settings = [[name, ratio(name, like)] for like in ("nano-s", "nano-m") for name in names]
    return cpu(optimizers, {"I": settings}, only=("learning_rate",), seeds=range(3))


def architecture(optimizers: Sequence[str] = ("adamw", "lion", "muon", "soap")) -> dict[str, Any]:
    """Does the ranking survive QK-norms, post-norms, ReLU² and tied embeddings? Two sizes, each in
    the study's architecture and in that one.
    """
    others = {f"{name}-modern": ladder.modern(name) for name in ("nano-s", "nano-m")}
    phases = {"I": cells(["nano-s", "nano-m", *others], [1])}
    return cpu(optimizers, phases, only=("learning_rate",), seeds=range(4), others=others)


RACES = {
    f.__name__.replace("_", "-"): f
    for f in (
        *(smoke, nano, hour, tenhours, published),
        *(transfer, transfer_smoke, transfer_130m, isoflop, architecture),
    )
}
