"""A race of an optimizer against a rival at one size; or one that somebody began, joined.

    configs/challenge.py:nano-s,1x,2x     with --optimizers=muon,my_opt:my_sgd: those two, from new
    configs/challenge.py:runs/nano        with --optimizers=my_opt:my_sgd: beside those of runs/nano

`python -m sweeps.challenge` writes these lines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import ladder, study
from lm.config import unknown


def get_config(arg: str = "nano-s,1x", optimizers: Sequence[str] = ("adamw", "muon")) -> dict:
    """The race, as `sweeps.plan.config.complete` takes it.

    Raises:
      ValueError: one line: an unknown size or optimizer, a ratio that is none, no study to join.
    """
    if (Path(arg) / "study.json").is_file():
        return joined(json.loads((Path(arg) / "study.json").read_text()), optimizers)
    size, *ratios = arg.split(",")
    known = [name for name in ladder.SIZES if name not in ladder.PUBLISHED]
    if size not in known:
        raise ValueError(unknown("size", size, known))
    return {"name": "challenge", **duel(size, sorted(map(ladder.ratio, ratios)), optimizers)}


def duel(size: str, ratios: Sequence[float], optimizers: Sequence[str]) -> dict[str, Any]:
    """The learning rate at the smallest budget, then at the others from there; as `study.nano`."""
    first, *others = study.cells([size], ratios)
    rule = {**study.PUBLISHED_RULE, "extend": ["I", "II"]}
    phases = {"I": [first], "II": others}
    return study.cpu(optimizers, phases, only=("learning_rate",), rule=rule, seeds=range(5))


def joined(race: dict[str, Any], optimizers: Sequence[str]) -> dict[str, Any]:
    """A race with optimizers added: searched as widely as its baseline, all else is the race's."""
    if race["told"]:
        raise ValueError("its trials are trained elsewhere (sweeps.Race): add the optimizer there")
    settings = [setting for part in race["phases"].values() for setting in part]
    size = min((ladder.size(name)["name"] for name, _ in settings), key=ladder.params)
    ratio = min(ratio for _, ratio in settings)
    searched = tuple(race["optimizers"][race["baseline"]]["grids"])
    new = [name for name in optimizers if name not in race["optimizers"]]
    if size in ladder.PUBLISHED:
        added = {name: study.published_entry(name) for name in new}
    else:
        added = {name: study.entry(name, size, ratio, searched) for name in new}
    return {**race, "optimizers": {**race["optimizers"], **added}}
