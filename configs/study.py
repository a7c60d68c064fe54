"""Races: sizes x ratios x optimizers, how they are tuned, and what they may cost.

    python -m sweeps.run --config=configs/study.py:nano --workdir=runs/nano

| name | optimizers | sizes | ratios | trials | tokens | on two CPU cores |
|---|---|---|---|---|---|---|
| smoke | 11 | nano-xs | 1/8 1/4 | 95 | 3M | about a minute, half of it compiling |
| nano | 4 | nano-xs nano-s | 1/2 1 2 4 | 290 | 140M | about eight minutes, not run |
| hour | 6 | nano-xs nano-m nano-l | 1 2 4 | 840 | 0.5G | over an hour, not run |
| tenhours | 11 | those, micro-xs held out | 1 2 4 | 4100 | 3.1G | about ten hours, not run |
| published | 11 | 130m 300m 520m 1.2b | 1 2 4 8 | as arXiv 2509.02046 | | |

Trials and tokens are those of the planner played against typical losses (`--dry_run`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

import optim
from configs import grids, ladder, spaces
from lm.config import unknown
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
) -> dict[str, Any]:
    """A race on the CPU ladder: the published grids carried to its smallest training."""
    settings = [setting for part in phases.values() for setting in part]
    sizes = list(dict.fromkeys(size for size, _ in settings))
    smallest = min(sizes, key=ladder.params)
    ratio = min(ratio for _, ratio in settings)
    return {
        "sizes": {name: ladder.SIZES[name] for name in sizes},
        "ratios": sorted({ratio for _, ratio in settings}),
        "phases": phases,
        "optimizers": {name: entry(name, smallest, ratio, only) for name in optimizers},
        "rule": dict(rule or PUBLISHED_RULE),
        "seeds": list(seeds),
        "data": {"corpus": "stdlib"},
        "train": {"compute_dtype": "float32"},
        "eval": {"sequences": sequences, "points": 4},
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
    """The quick start: who wins at two tiny sizes and four budgets, with the noise known.

    Only the learning rate is searched, which is what matters at a few hundred steps; the time goes
    to fresh seeds of the winners, for a seed moves a loss by ten times what a comparison on common
    seeds can resolve. Grids grow until no winner is on an edge.
    """
    sizes = ["nano-xs", "nano-s"]
    phases = {"I": cells(sizes, [1]), "II": cells(sizes, [0.5, 2, 4])}
    rule = {**PUBLISHED_RULE, "extend": ["I", "II"]}
    return cpu(optimizers, phases, only=("learning_rate",), rule=rule, seeds=range(6))


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


RACES = {f.__name__: f for f in (smoke, nano, hour, tenhours, published)}
