"""A study asked for its cells, its starting points, and the run config that a trial stands for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lm.config import HOW, ConfigError, config_hash, finalise, non_embedding_params, program_key
from sweeps.plan import rules, transfer
from sweeps.plan.trial import Cell, Trial, freeze


class Study:
    """A resolved study config (`sweeps.plan.config`) and what follows from it."""

    def __init__(self, config: Mapping):
        self.config, self.rule = config, rules.make(config["rule"])
        self.cells: dict[Cell, str] = {
            Cell(optimizer, size, ratio): phase
            for phase, settings in config["phases"].items()
            for size, ratio in settings
            for optimizer in config["optimizers"]
        }
        ours = not config["told"]
        self.hash = lru_cache(maxsize=None)(lambda trial: config_hash(self.run(trial), ours=ours))
        self.program = lru_cache(maxsize=None)(lambda trial: program_key(self.run(trial)))
        self.steps = lru_cache(maxsize=None)(self._steps)
        self._flops: dict[tuple, float] = {}

    def start(self, cell: Cell) -> dict[str, Any]:
        """The published or re-centred starting point of a cell."""
        entry = self.config["optimizers"][cell.optimizer]
        return {**entry["start"], **entry["starts"].get(f"{cell.size},{cell.ratio:g}x", {})}

    def params(self, size: str) -> int:
        """Non-embedding parameters, the N of every budget."""
        return non_embedding_params(self.config["sizes"][size])

    def _steps(self, cell: Cell, batch_size: int) -> int:
        """Training steps of a cell at a batch size: floor(ratio * 20 * N / tokens per step)."""
        budget = cell.ratio * 20 * self.params(cell.size)
        return int(budget // (batch_size * self.config["sizes"][cell.size]["sequence_length"]))

    def tokens(self, trial: Trial) -> int:
        batch = dict(trial.point)["batch_size"]
        length = self.config["sizes"][trial.cell.size]["sequence_length"]
        return self.steps(trial.cell, batch) * batch * length

    def flops(self, trial: Trial) -> float:
        """Model FLOPs of a trial; they depend on its cell and batch size only."""
        key = (trial.cell, dict(trial.point)["batch_size"])
        if key not in self._flops:
            from lm.model.flops import training_flops

            self._flops[key] = float(training_flops(self.run(trial)))
        return self._flops[key]

    def refusal(self, cell: Cell, point: Mapping[str, Any]) -> str | None:
        """Why this point cannot train in this cell (its warm-up is too long), or None."""
        steps = self.steps(cell, point["batch_size"])
        if steps < 1:
            return f"batch_size={point['batch_size']} leaves no training step"
        if point.get("warmup", 0) > steps:
            return f"warmup={point['warmup']} is longer than training: at most {steps} steps"
        return None

    def run(self, trial: Trial) -> dict:
        """The complete, checked run config of a trial.

        Raises:
          ConfigError: one line, naming the cell, the field, its value and the allowed range.
        """
        config, cell, point = self.config, trial.cell, dict(trial.point)
        rule = point.pop(transfer.NAME, None)
        entry = config["optimizers"][cell.optimizer]
        run = {
            "model": {"name": cell.size, **config["sizes"][cell.size]},
            "data": dict(config["data"]),
            "train": {
                **config["train"],
                "chinchilla_ratio": cell.ratio,
                "batch_size": point.pop("batch_size"),
                "seed": trial.seed,
            },
            "optimizer": {
                "name": cell.optimizer,
                "preset": entry["preset"],
                **({"source": entry["source"]} if "source" in entry else {}),
                **point,
            },
            "eval": dict(config["eval"]),
        }
        if rule:
            base = config["transfer"]["base"]
            run["parametrization"] = transfer.section(rule, config["sizes"][base])
            run["parametrization"]["base"]["tokens"] = cell.ratio * 20 * self.params(base)
        if config["told"]:  # its optimizers are nobody's here
            steps = self.steps(cell, run["train"]["batch_size"])
            return {**run, "train": {**run["train"], "steps": steps}}
        run |= {section: dict(config[section]) for section in HOW if section in config}
        try:
            return finalise(run)
        except ConfigError as error:
            raise ConfigError(f"{cell}: {error}") from None

    def trial(self, run: Mapping) -> Trial | None:
        """The trial a stored config.json stands for; None when it is not of this study."""
        optimizer, train = run["optimizer"], run["train"]
        entry = self.config["optimizers"].get(optimizer["name"])
        if entry is None or run["model"]["name"] not in self.config["sizes"]:
            return None
        values = {**optimizer, "batch_size": train["batch_size"]}
        if any(name not in values for name in entry["start"]):
            return None
        cell = Cell(optimizer["name"], run["model"]["name"], train["chinchilla_ratio"])
        point = {name: values[name] for name in entry["start"]}
        if "parametrization" in run:
            point[transfer.NAME] = transfer.label(run["parametrization"])
        return Trial(cell, freeze(point), train["seed"])

    def check(self) -> None:
        """Builds every starting point and every grid value once, so that nothing is refused
        half-way.

        Too long a warm-up is only an error at a starting point: a grid shared by all cells may hold
        values that a short cell has to skip.
        """
        seed = self.config["seeds"][0]
        for cell in self.cells:
            start = self.start(cell)
            self.run(Trial(cell, freeze(start), seed))
            for name, values in self.config["optimizers"][cell.optimizer]["grids"].items():
                for value in values:
                    point = {**start, name: value}
                    if self.refusal(cell, point) is None:
                        self.run(Trial(cell, freeze(point), seed))
