"""A study at a glance, from its files alone: while it runs, after it died, from another machine.

    python -m sweeps.status runs/nano
    python -m sweeps.status runs/nano --watch

Counts come from the trials' result files, the rest from the driver's last snapshot.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lm.storage import folder
from sweeps.dispatch import ledger
from sweeps.plan.study import Study
from sweeps.plan.trial import Outcome

STALE = 60.0  # seconds after which a silent driver counts as gone
COUNTS = ("finished", "running", "queued", "diverged", "infeasible")


@dataclass
class Row:
    """One cell of the table."""

    phase: str
    counts: Counter = field(default_factory=Counter)
    best: float = math.inf
    flops: float = 0.0
    seconds: float = 0.0
    state: str = "open"

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        self.best = min(self.best, outcome.loss)
        self.flops += outcome.flops
        self.seconds += outcome.seconds

    def words(self) -> tuple[str, ...]:
        best = f"{self.best:.4f}" if math.isfinite(self.best) else ""
        counts = (str(self.counts[name] or "") for name in COUNTS)
        return (self.phase, *counts, best, f"{self.seconds:.0f}", f"{self.flops:.2g}", self.state)


class Status:
    """Reads a workdir; a second look reads only what is new."""

    def __init__(self, workdir: Path):
        self.workdir, self.seen = Path(workdir), {}

    def rows(self) -> dict[str, Row]:
        """The table, by cell.

        Raises:
          FileNotFoundError: the workdir holds no study.
        """
        study = Study(json.loads((self.workdir / "study.json").read_text()))
        rows = {str(cell): Row(phase) for cell, phase in study.cells.items()}
        for path in ledger.folders(self.workdir):
            if path.name not in self.seen and (found := self._trial(study, path)):
                self.seen[path.name] = found
        for cell, outcome in self.seen.values():
            if cell in rows:
                rows[cell].add(outcome)
        driver = self.driver() or {}
        if driver and not driver["over"] and driver["age"] < STALE:
            for name in ("running", "queued"):
                for cell, count in driver[name].items():
                    rows[cell].counts[name] = count
        for cell, row in rows.items():
            row.state = driver.get("waiting", {}).get(cell, row.state)
            path = self.workdir / "certificates" / f"{cell}.json"
            if cell in driver.get("failed", {}):
                row.state = f"held up: {driver['failed'][cell]}"
            elif path.exists():
                complete = json.loads(path.read_text())["complete"]
                row.state = "certified" if complete else "certified, not complete"
        return rows

    def driver(self) -> dict | None:
        """The driver's last snapshot with its age in seconds, None if there is none."""
        try:
            path = self.workdir / "driver.json"
            return {**json.loads(path.read_text()), "age": time.time() - path.stat().st_mtime}
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def text(self) -> str:
        """The table as it is printed."""
        rows = self.rows()
        heads = ("cell", "phase", *COUNTS, "best", "device-s", "FLOPs", "state")
        body = [heads, *((cell, *row.words()) for cell, row in rows.items())]
        widths = [max(map(len, column)) for column in zip(*body, strict=True)]
        left = (0, 1, len(heads) - 1)
        lines = [
            "  ".join(
                text.ljust(width) if i in left else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in body
        ]
        done = sum(row.counts[name] for row in rows.values() for name in ledger.STATUSES)
        certified = sum(row.state.startswith("certified") for row in rows.values())
        lines.append(
            f"{done} trials over, {certified} of {len(rows)} cells certified, "
            f"{sum(row.seconds for row in rows.values()):.0f} device seconds, "
            f"{sum(row.flops for row in rows.values()):.3g} FLOPs"
        )
        lines.append(_driver_line(self.driver()))
        return "\n".join(lines)

    def _trial(self, study: Study, path: Path) -> tuple[str, Outcome] | None:
        """(cell, outcome) of a finished trial folder, None while it has none or cannot be read."""
        try:
            outcome = ledger.read(path)
            trial = study.trial(json.loads((path / "config.json").read_text()))
            return (str(trial.cell), outcome) if outcome and trial else None
        except (OSError, *ledger.UNUSABLE):
            return None


def _driver_line(driver: dict | None) -> str:
    if driver is None:
        return "no driver has run here"
    who = f"driver: process {driver['process']} on {driver['host']}"
    if driver["over"]:
        return f"{who}: {'stopped by failed trials' if driver['failed'] else 'the study is over'}"
    if driver["age"] > STALE:
        return f"{who}: silent for {driver['age']:.0f} s; start it again to go on"
    eta = driver["eta_seconds"]
    return f"{who}: this round ends in about {'?' if eta is None else f'{eta:.0f} s'}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweeps.status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("workdir", type=folder)
    parser.add_argument("--watch", action="store_true", help="refresh until interrupted")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between refreshes")
    arguments = parser.parse_args(argv)
    status = Status(arguments.workdir)
    try:
        while arguments.watch:
            print("\x1b[2J\x1b[H" + status.text(), flush=True)
            time.sleep(arguments.every)
        print(status.text())
    except FileNotFoundError:
        print(f"error: {arguments.workdir} holds no study (no study.json)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
