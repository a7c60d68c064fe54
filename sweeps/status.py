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

from lm import storage
from sweeps.dispatch import ledger

STALE = 60.0  # seconds after which a silent driver counts as gone


@dataclass
class Row:
    """One cell of the table."""

    phase: str
    counts: Counter = field(default_factory=Counter)
    best: float = math.inf
    flops: float = 0.0
    seconds: float = 0.0
    state: str = ""


class Status:
    """Reads a workdir; a second look reads only what is new."""

    def __init__(self, workdir: Path):
        self.workdir, self.seen = Path(workdir), {}

    def rows(self) -> dict[str, Row]:
        """The table, by cell.

        Raises:
          FileNotFoundError: the workdir holds no study.
        """
        study = json.loads((self.workdir / "study.json").read_text())
        rows = {
            f"{optimizer}-{size}-{ratio:g}x": Row(phase)
            for phase, settings in study["phases"].items()
            for size, ratio in settings
            for optimizer in study["optimizers"]
        }
        for path in ledger.folders(self.workdir):
            if path.name not in self.seen and (found := _trial(path)):
                self.seen[path.name] = found
        for cell, outcome in self.seen.values():
            if cell not in rows:
                continue
            row = rows[cell]
            row.counts[outcome.status] += 1
            row.best = min(row.best, outcome.loss)
            row.flops += outcome.flops
            row.seconds += outcome.seconds
        driver = self.driver()
        live = driver is not None and not driver["over"] and driver["age"] < STALE
        for cell, row in rows.items():
            row.counts["running"] = driver["running"].get(cell, 0) if live else 0
            row.counts["queued"] = driver["queued"].get(cell, 0) if live else 0
            certified = (self.workdir / "certificates" / f"{cell}.json").exists()
            waiting = driver["waiting"].get(cell, "") if driver else ""
            row.state = "certified" if certified else waiting or "open"
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
        rows, driver = self.rows(), self.driver()
        names = ("finished", "running", "queued", "diverged", "failed")
        heads = ("cell", "phase", *names, "best", "device-s", "FLOPs", "state")
        body = [
            (
                cell,
                row.phase,
                *(str(row.counts[name] or "") for name in names),
                f"{row.best:.4f}" if math.isfinite(row.best) else "",
                f"{row.seconds:.0f}",
                f"{row.flops:.2g}",
                row.state,
            )
            for cell, row in rows.items()
        ]
        widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
        lines = [
            "  ".join(
                text.ljust(width) if i in (0, 1, 10) else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (heads, *body)
        ]
        done = sum(row.counts[name] for row in rows.values() for name in ledger.STATUSES)
        certified = sum(row.state == "certified" for row in rows.values())
        lines.append(
            f"{done} trials over, {certified} of {len(rows)} cells certified, "
            f"{sum(row.seconds for row in rows.values()):.0f} device seconds, "
            f"{sum(row.flops for row in rows.values()):.3g} FLOPs"
        )
        lines.append(_driver_line(driver))
        return "\n".join(lines)


def _trial(path: Path):
    """(cell, outcome) of a finished trial folder, None while it has none or cannot be read."""
    try:
        outcome = ledger.read(path)
        if outcome is None:
            return None
        config = json.loads((path / "config.json").read_text())
        name = f"{config['optimizer']['name']}-{config['model']['name']}"
        return f"{name}-{config['train']['chinchilla_ratio']:g}x", outcome
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _driver_line(driver: dict | None) -> str:
    if driver is None:
        return "no driver has run here"
    who = f"driver: process {driver['process']} on {driver['host']}"
    if driver["over"]:
        return f"{who}: the study is over"
    if driver["age"] > STALE:
        return f"{who}: silent for {driver['age']:.0f} s; start it again to go on"
    eta = driver["eta_seconds"]
    return f"{who}: this round ends in about {'?' if eta is None else f'{eta:.0f} s'}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sweeps.status", allow_abbrev=False)
    parser.add_argument("workdir", type=storage.folder)
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
