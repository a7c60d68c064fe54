"""What a race is made of: cells, points, trials; and the run config that each trial stands for.

A *cell* is one optimizer at one size and ratio, a *point* one setting of its hyper-parameters, a
*trial* a point with a seed. Planners handle these tuples only; the config and its hash appear when
a trial meets the disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from lm import config as run_config
from lm.config import ConfigError

Point = tuple[tuple[str, Any], ...]  # sorted (hyper-parameter, value) pairs: hashable


class Cell(NamedTuple):
    optimizer: str
    size: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.optimizer}-{self.size}-{self.ratio:g}x"


class Trial(NamedTuple):
    cell: Cell
    point: Point
    seed: int


class Outcome(NamedTuple):
    """What the planner sees of a finished trial. `loss` is infinite unless status is "finished"."""

    status: str  # "finished", "diverged", "failed"; replays add "unrecorded"
    loss: float
    hash: str = ""
    flops: float = 0.0
    seconds: float = 0.0
    tokens: float = 0.0


def freeze(point: Mapping[str, Any]) -> Point:
    return tuple(sorted(point.items()))


class Race:
    """A resolved study, asked for cells, starting points, step counts and run configs."""

    def __init__(self, study: Mapping):
        self.study = study
        self.cells: dict[Cell, str] = {
            Cell(optimizer, size, ratio): phase
            for phase, settings in study["phases"].items()
            for size, ratio in settings
            for optimizer in study["optimizers"]
        }
        self.hash = lru_cache(maxsize=None)(self._hash)
        self.program = lru_cache(maxsize=None)(self._program)
        self._steps: dict[tuple, int] = {}
        self._flops: dict[tuple, float] = {}

    def start(self, cell: Cell) -> dict[str, Any]:
        """The published or re-centred starting point of a cell."""
        entry = self.study["optimizers"][cell.optimizer]
        return {**entry["start"], **entry.get("starts", {}).get(f"{cell.size},{cell.ratio:g}x", {})}

    def params(self, size: str) -> int:
        """Non-embedding parameters, the N of every budget."""
        return run_config.non_embedding_params(self.study["sizes"][size])

    def steps(self, cell: Cell, batch_size: int) -> int:
        """Training steps of a cell at a batch size: floor(ratio * 20 * N / tokens per step)."""
        key = (cell.size, cell.ratio, batch_size)
        if key not in self._steps:
            sequence = self.study["sizes"][cell.size]["sequence_length"]
            budget = cell.ratio * 20 * self.params(cell.size)
            self._steps[key] = int(budget // (batch_size * sequence))
        return self._steps[key]

    def tokens(self, trial: Trial) -> int:
        batch = dict(trial.point)["batch_size"]
        return (
            self.steps(trial.cell, batch)
            * batch
            * self.study["sizes"][trial.cell.size]["sequence_length"]
        )

    def refusal(self, cell: Cell, point: Mapping[str, Any]) -> str | None:
        """Why this point cannot train in this cell (its warm-up is too long), or None."""
        steps = self.steps(cell, point["batch_size"])
        if steps < 1:
            return f"batch_size={point['batch_size']} leaves no training step"
        if point.get("warmup", 0) > steps:
            return f"warmup={point['warmup']} is longer than training: at most {steps} steps"
        return None

    def config(self, trial: Trial) -> dict:
        """The complete, checked run config of a trial.

        Raises:
          ConfigError: one line, naming the cell, the field, its value and the allowed range.
        """
        study, cell, point = self.study, trial.cell, dict(trial.point)
        config = {
            "model": {"name": cell.size, **study["sizes"][cell.size]},
            "data": dict(study["data"]),
            "train": {
                **study.get("train", {}),
                "chinchilla_ratio": cell.ratio,
                "batch_size": point.pop("batch_size"),
                "seed": trial.seed,
            },
            "optimizer": {
                "name": cell.optimizer,
                "preset": study["optimizers"][cell.optimizer].get("preset", "study"),
                **point,
            },
            "eval": dict(study["eval"]),
        }
        config |= {section: dict(study[section]) for section in run_config.HOW if section in study}
        try:
            return run_config.finalise(config)
        except ConfigError as error:
            raise ConfigError(f"{cell}: {error}") from None

    def flops(self, trial: Trial) -> float:
        """Model FLOPs of a trial; they depend on its cell and batch size only."""
        key = (trial.cell, dict(trial.point)["batch_size"])
        if key not in self._flops:
            from lm.model.flops import training_flops

            self._flops[key] = float(training_flops(self.config(trial)))
        return self._flops[key]

    def _hash(self, trial: Trial) -> str:
        return run_config.config_hash(self.config(trial))

    def _program(self, trial: Trial) -> str:
        return run_config.program_key(self.config(trial))

    def trial(self, config: Mapping) -> Trial | None:
        """The trial a stored config.json stands for; None when it is not of this race."""
        optimizer, train = config["optimizer"], config["train"]
        entry = self.study["optimizers"].get(optimizer["name"])
        if entry is None or config["model"]["name"] not in self.study["sizes"]:
            return None
        values = {**optimizer, "batch_size": train["batch_size"]}
        if any(name not in values for name in entry["start"]):
            return None
        cell = Cell(optimizer["name"], config["model"]["name"], train["chinchilla_ratio"])
        return Trial(cell, freeze({name: values[name] for name in entry["start"]}), train["seed"])

    def check(self) -> None:
        """Builds every starting point and every grid value once, so that nothing is refused
        half-way.

        Too long a warm-up is only an error at a starting point: a grid shared by all cells may hold
        values that a short cell has to skip.
        """
        seed = self.study["seeds"][0]
        for cell in self.cells:
            start = self.start(cell)
            self.config(Trial(cell, freeze(start), seed))
            for name, values in self.study["optimizers"][cell.optimizer]["grids"].items():
                for value in values:
                    point = {**start, name: value}
                    if self.refusal(cell, point) is None:
                        self.config(Trial(cell, freeze(point), seed))


def finite(loss: float) -> bool:
    return loss < math.inf
