"""Result files to a table and back. Only a readable `result.json` counts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm.storage import write_json
from sweeps.plan.certificates import certificate
from sweeps.plan.phases import Plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial

STATUSES = ("finished", "diverged", "failed")


@dataclass
class Ledger:
    """The finished trials of a study, and the result files that could not be used."""

    outcomes: dict[Trial, Outcome] = field(default_factory=dict)
    corrupt: dict[Path, str] = field(default_factory=dict)  # to be trained again
    strays: list[Path] = field(default_factory=list)  # of another plan; left alone


def folder(workdir: Path, name: str) -> Path:
    return Path(workdir) / "trials" / name


def load(workdir: Path, study: Study) -> Ledger:
    """Reads every trial folder of a workdir.

    A corrupt or truncated result is reported and does not count, so its trial runs again.
    """
    ledger = Ledger()
    for path in folders(workdir):
        try:
            outcome = read(path)
            if outcome is None:
                continue
            trial = study.trial(json.loads((path / "config.json").read_text()))
        except FileNotFoundError:
            ledger.corrupt[path] = "config.json is missing"
            continue
        except (ValueError, KeyError, TypeError) as error:
            ledger.corrupt[path] = f"{type(error).__name__}: {error}"
            continue
        if trial is None or trial.cell not in study.cells or study.hash(trial) != path.name:
            ledger.strays.append(path)
        else:
            ledger.outcomes[trial] = outcome
    return ledger


def folders(workdir: Path) -> Iterator[Path]:
    """Trial folders in name order."""
    root = Path(workdir) / "trials"
    if root.is_dir():
        yield from sorted(path for path in root.iterdir() if path.is_dir())


def read(path: Path) -> Outcome | None:
    """The outcome of one trial folder, None while there is no result.

    Raises:
      ValueError, KeyError, TypeError: the file is truncated or not a result.
    """
    try:
        result = json.loads((path / "result.json").read_text())
    except FileNotFoundError:
        return None
    if result["status"] not in STATUSES:
        raise ValueError(f"status {result['status']!r} is not one of {', '.join(STATUSES)}")
    if result["hash"] != path.name:
        raise ValueError(f"is the result of {result['hash']}")
    loss = math.inf
    if result["status"] == "finished":
        loss = float(result["loss"])
        if not math.isfinite(loss):
            raise ValueError(f"loss={loss} of a finished run")
    return Outcome(
        result["status"],
        loss,
        path.name,
        float(result["flops"] or 0),
        float(result["seconds"] or 0),
        float(result["tokens"] or 0),
    )


def discard(path: Path) -> None:
    """Sets an unusable result aside so that its trial runs again; what it held stays readable."""
    os.replace(path / "result.json", path / "result.json.corrupt")


def record_failure(path: Path, config: Mapping, reason: str) -> None:
    """The result of a trial whose pack died before it could write one."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", config)
    result: dict[str, Any] = {"hash": path.name, "status": "failed", "reason": reason}
    keys = (
        "diverged_step loss bits_per_byte train_loss steps tokens non_embedding_params "
        "total_params optimizer_bytes flops seconds compile_seconds"
    )
    write_json(path / "result.json", result | dict.fromkeys(keys.split()))


def certify(study: Study, plan: Plan, workdir: Path, written: dict[Cell, Any]) -> None:
    """Writes the certificate of each cell whose search and repeats are over.

    Args:
      written: what was known of the optimizer when a cell's certificate was written; it is written
        again when that has changed. Updated.
    """
    folder = Path(workdir) / "certificates"
    for cell in plan.repeats:
        known = plan.sensitive.get(cell.optimizer)
        if cell not in written or written[cell] != known:
            folder.mkdir(parents=True, exist_ok=True)
            value = certificate(plan, cell, phase=study.cells[cell], name=study.hash)
            write_json(folder / f"{cell}.json", value)
            written[cell] = known
