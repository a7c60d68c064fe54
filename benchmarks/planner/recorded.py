"""The study's own runs (arXiv 2509.02046) as a fake trainer: 2,141 recorded losses in 150 cells.

Read from `analysis/published/`. What was never recorded answers "unrecorded": the search passes it
by and the certificate lists it as missing.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from analysis.stats import noise
from sweeps.plan.rules import Rule
from sweeps.plan.search import Problem
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Point, Trial, freeze

FOLDER = Path(__file__).parents[2] / "analysis" / "published"
PARAMS = {"130m": 134217728, "300m": 301989888, "520m": 536870912, "1.2b": 1207959552}
# Scaling-sensitive hyper-parameters as published (its committed JSON; Sophia was never judged).
SENSITIVE = {
    "adamw": {"learning_rate", "warmup", "weight_decay", "batch_size"},
    "nadamw": {"warmup"},
    "lion": {"beta2"},
    "adam_mini": {"learning_rate", "weight_decay", "warmup"},
    "cautious": {"batch_size"},
    "mars": {"warmup", "beta1"},
    "scion": {"learning_rate"},
    "muon": {"learning_rate"},
    "soap": {"block_size", "precondition_frequency", "learning_rate"},
    "kron": {"learning_rate"},
}


@dataclass
class CellRecord:
    """One recorded cell."""

    phase: str
    losses: dict[Point, float] = field(default_factory=dict)  # infinite: diverged
    centre: Point = ()
    best_known: float = math.inf  # of 12 cells' best runs only the loss was ever recorded
    grids: dict[str, list] = field(default_factory=dict)

    @property
    def best(self) -> float:
        return min(self.losses.values())


def rows(name: str) -> list[dict[str, str]]:
    """A published table as text.

    Raises:
      FileNotFoundError: the data is not shipped with this copy.
    """
    data = (FOLDER / name).read_bytes()
    text = gzip.decompress(data) if name.endswith(".gz") else data
    return list(csv.DictReader(io.StringIO(text.decode())))


def value(text: str) -> Any:
    """A table's text as the number it stands for, the same however it was spelled."""
    if text in ("True", "true", "False", "false"):
        return text.lower() == "true"
    try:
        number = float(f"{float(text):.9g}")
    except ValueError:
        return text
    return int(number) if number == int(number) else number


class Recorded:
    """All recorded cells; `get` answers a trial as a trainer would."""

    def __init__(self):
        self.cells: dict[Cell, CellRecord] = {}
        for row in rows("runs.csv.gz"):
            cell = Cell(row["optimizer"], row["model_size"], value(row["chinchilla_ratio"]))
            record = self.cells.setdefault(cell, CellRecord(row["phase"]))
            point = freeze({n[3:]: value(v) for n, v in row.items() if n.startswith("hp_") and v})
            if row["status"] == "missing":
                continue
            finished = row["status"] == "finished"
            record.losses[point] = float(row["loss"]) if finished else math.inf
            if row["role"] == "centre" and finished and not record.centre:
                record.centre = point
        for row in rows("best.csv"):
            cell = Cell(row["optimizer"], row["model_size"], value(row["chinchilla_ratio"]))
            self.cells[cell].best_known = float(row["loss"])
        for row in rows("grids.csv"):
            cell = Cell(row["optimizer"], row["model_size"], value(row["chinchilla_ratio"]))
            if cell in self.cells and json.loads(row["grid"]):
                grid = [value(json.dumps(v)) for v in json.loads(row["grid"])]
                self.cells[cell].grids[row["hyperparameter"]] = grid

    def get(self, trial: Trial) -> Outcome:
        """A recorded trial's outcome. What a point leaves out is as at the cell's centre."""
        record, loss = self.cells.get(trial.cell), None
        if record and trial.seed == 0:
            loss = record.losses.get(freeze({**dict(record.centre), **dict(trial.point)}))
        if loss is None:
            return Outcome("unrecorded", math.inf)
        return Outcome("finished" if math.isfinite(loss) else "diverged", loss)

    def problem(self, cell: Cell, rule: Rule) -> Problem:
        """The search of a recorded cell, from its published centre over every value on record."""
        record = self.cells[cell]
        centre, grids = dict(record.centre), {}
        for name in centre:
            seen = {dict(point).get(name, centre[name]) for point in record.losses}
            values = sorted(seen | set(record.grids.get(name, ())), key=lambda v: (str(type(v)), v))
            if len(values) > 1:
                grids[name] = values
        return Problem(cell, centre, grids, {}, lambda point: None, rule)


def race(recorded: Recorded, study: dict) -> Study:
    """Phases I and II of the published study, started from its recorded centres."""
    optimizers = {}
    for name, given in study["optimizers"].items():
        if name == "sophia":  # the study ran it in Phase I only
            continue
        grids, starts = {n: list(v) for n, v in given["grids"].items()}, {}
        for cell, record in recorded.cells.items():
            if cell.optimizer == name and record.phase == "I":
                centre = {n: v for n, v in record.centre if n in given["start"]}
                starts[f"{cell.size},{cell.ratio}x"] = centre
                for n in grids:
                    grids[n] += [centre[n]] if centre[n] not in grids[n] else []
        optimizers[name] = {**given, "starts": starts, "grids": grids}
    phases = {phase: study["phases"][phase] for phase in ("I", "II")}
    rule = {**study["rule"], "near_best": 6e-3}
    return Study({**study, "optimizers": optimizers, "phases": phases, "rule": rule})


def near_best(recorded: Recorded, optimizer: str, delta: float) -> list[list[dict]]:
    """The study's near-best settings in each Phase I cell of an optimizer.

    Without partitioning a block size means nothing, so the two count as one hyper-parameter. Where
    no recorded run is within delta of the best known loss, the best recorded one stands in.
    """
    found = []
    for cell, record in recorded.cells.items():
        if cell.optimizer == optimizer and record.phase == "I":
            limit = max(record.best, record.best_known + delta)
            near = [dict(point) for point, loss in record.losses.items() if loss <= limit]
            for point in near:
                if point.pop("partition_grads_into_blocks", True) is False:
                    point["block_size"] = None
            found.append(near)
    return found


def divergence_kills(patience: int = 2000, ceiling: float = 6.0) -> dict[tuple, float]:
    """Final loss of each recorded curve that the rule "step >= patience and loss >= ceiling" ends.

    A false kill is one whose final loss is that of a run that went on to train (below 5).
    """
    curves: dict[tuple, list[tuple[int, float]]] = {}
    for row in rows("curves.csv.gz"):
        key = (row["optimizer"], row["model_size"], row["chinchilla_ratio"], row["variant"])
        curves.setdefault(key, []).append((int(row["step"]), float(row["loss"])))
    return {
        key: max(curve)[1]
        for key, curve in curves.items()
        if any(step >= patience and not loss < ceiling for step, loss in curve)
    }


def null_noise(recorded: Recorded) -> float:
    """Standard deviation of one recorded run, from changes of epsilon that cannot matter: by the
    median absolute difference of pairs, since a few are far out.
    """
    differences = []
    for cell, record in recorded.cells.items():
        finished: Mapping = {p: x for p, x in record.losses.items() if math.isfinite(x)}
        groups = noise.null_groups(finished) if cell.optimizer not in noise.NULL_EXCEPT else []
        differences += [b - a for group in groups for a, b in pairwise(group)]
    return statistics.median(differences) / (0.6745 * math.sqrt(2))
