"""A workdir's results and certificates: what counts, what is set aside. Only files are true.

WORKDIR/trials/<hash>/config.json    what is trained
WORKDIR/trials/<hash>/result.json    written last, atomically; a trial without one is not over
WORKDIR/certificates/<cell>.json
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm.storage import write_json
from sweeps.plan.certificates import certificate
from sweeps.plan.phases import Plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial

STATUSES = ("finished", "diverged", "infeasible")
NUMBERS = ("flops", "seconds", "tokens")
UNUSABLE = (ValueError, KeyError, TypeError)  # what `read` raises


@dataclass
class Ledger:
    """The finished trials of a study, and the result files that could not be used."""

    outcomes: dict[Trial, Outcome] = field(default_factory=dict)
    corrupt: dict[Path, str] = field(default_factory=dict)  # to be trained again
    strays: list[Path] = field(default_factory=list)  # of another plan; left alone


def folder(workdir: Path, name: str) -> Path:
    return Path(workdir) / "trials" / name


def folders(workdir: Path) -> Iterator[Path]:
    """Trial folders in name order."""
    root = Path(workdir) / "trials"
    if root.is_dir():
        yield from sorted(path for path in root.iterdir() if path.is_dir())


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
        except UNUSABLE as error:
            ledger.corrupt[path] = f"{type(error).__name__}: {error}"
        else:
            if trial is None or trial.cell not in study.cells or study.hash(trial) != path.name:
                ledger.strays.append(path)
            else:
                ledger.outcomes[trial] = outcome
    return ledger


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
    loss = float(result["loss"]) if result["status"] == "finished" else math.inf
    if result["status"] == "finished" and not math.isfinite(loss):
        raise ValueError(f"loss={loss} of a finished run")
    numbers = {name: float(result[name] or 0) for name in NUMBERS}
    return Outcome(result["status"], loss, path.name, result.get("reason") or "", **numbers)


def discard(path: Path) -> None:
    """Sets an unusable result aside so that its trial runs again; what it held stays readable."""
    os.replace(path / "result.json", path / "result.json.corrupt")


def take(path: Path, log: Callable[[str], Any] = print) -> Outcome | None:
    """As `read`; a result that cannot be used is reported and set aside."""
    try:
        return read(path)
    except UNUSABLE as error:
        log(f"{path}/result.json is unusable and its trial runs again: {error}")
        discard(path)
        return None


def record(path: Path, config: Mapping, status: str, **values: Any) -> Outcome:
    """Writes the result of a trial that no trainer of ours wrote; what is not given is null."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", config)
    keys = (
        "reason diverged_step loss bits_per_byte train_loss steps tokens non_embedding_params "
        "total_params optimizer_bytes flops seconds compile_seconds"
    )
    known = {"hash": path.name, "status": status, **values}
    write_json(path / "result.json", dict.fromkeys(keys.split()) | known)
    return read(path)


def certify(
    study: Study, plan: Plan, workdir: Path, written: dict[Cell, Any], failed: Mapping[Trial, str]
) -> None:
    """Writes the certificates of cells that are over, and removes those of cells that are not.

    Args:
      written: what was known when each cell's certificate was written; updated.
      failed: trials that are not tried again, and why. The cells that they hold up are certified
        as they stand: not complete.
    """
    folder = Path(workdir) / "certificates"
    folder.mkdir(parents=True, exist_ok=True)
    for cell in study.cells:
        causes = {study.hash(t): failed[t] for t in plan.pending if t.cell == cell and t in failed}
        over = cell in plan.repeats or (causes and cell in plan.searches)
        known = (plan.sensitive.get(cell.optimizer), causes) if over else None
        if over and written.get(cell) != known:
            write_json(folder / f"{cell}.json", certificate(study, plan, cell, causes))
        elif not over and cell not in written:
            (folder / f"{cell}.json").unlink(missing_ok=True)
        written[cell] = known
