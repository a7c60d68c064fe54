"""A study at a glance, from its files alone: while it runs, after it died, from another machine.

    python -m sweeps.status runs/nano
    python -m sweeps.status runs/nano --watch

Counts come from the trials' results, the rest from the plan and from what workers say.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from lm.command import guarded
from lm.storage import open_store, place
from sweeps.dispatch.accidents import Accidents, Refused
from sweeps.dispatch.ledger import Ledger
from sweeps.plan.phases import plan
from sweeps.plan.trial import Outcome
from sweeps.work import begun

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
    """Looks at a store; a second look reads only what is new."""

    def __init__(self, address: str):
        """Raises Refused where there is no study."""
        self.store = open_store(address)
        self.study = begun(self.store)
        self.ledger = Ledger(self.store, self.study).open()
        self.accidents = Accidents(self.store, self.study)

    def rows(self) -> dict[str, Row]:
        """The table, by cell."""
        self.ledger.look()
        self.accidents.look()
        rows = {str(cell): Row(phase) for cell, phase in self.study.cells.items()}
        for trial, outcome in self.ledger.outcomes.items():
            rows[str(trial.cell)].add(outcome)
        state = plan(self.study, self.ledger.outcomes)
        for trial in state.pending:
            rows[str(trial.cell)].counts["queued"] += 1
        for cell, why in state.waiting.items():
            rows[str(cell)].state = why
        for life in self.workers():
            for cell, count in life.get("running", {}).items():
                if cell in rows:
                    rows[cell].counts["running"] += count
                    rows[cell].counts["queued"] -= count
        for name in self.store.list("certificates"):
            found, cell = self.store.read_json(f"certificates/{name}"), name.removesuffix(".json")
            if found and cell in rows:
                complete = found["complete"]
                rows[cell].state = "certified" if complete else "certified, not complete"
        for trial in state.pending:
            if reason := self.accidents.spent(trial):
                rows[str(trial.cell)].state = f"held up: {reason}"
        return rows

    def workers(self) -> list[dict]:
        """What each worker says of itself; one that was lost says so until another finds out."""
        lives = [self.store.get(f"workers/{name}") for name in self.store.list("workers")]
        found = []
        for life in lives:
            with contextlib.suppress(ValueError):
                found += [json.loads(life.content)] if life else []
        return found

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
        done = len(self.ledger.outcomes)
        certified = sum(row.state.startswith("certified") for row in rows.values())
        lines.append(
            f"{done} trials over, {certified} of {len(rows)} cells certified, "
            f"{sum(row.seconds for row in rows.values()):.0f} device seconds, "
            f"{sum(row.flops for row in rows.values()):.3g} FLOPs"
        )
        for life in self.workers():
            count = len(life.get("trials", []))
            lines.append(
                f"worker {life.get('token', '?')[:8]} on {life.get('host', '?')}: {count} trials, "
                f"{life.get('counter', '?')} signs of life"
            )
        return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweeps.status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("workdir", type=place)
    parser.add_argument("--watch", action="store_true", help="refresh until interrupted")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between refreshes")
    arguments = parser.parse_args(argv)
    return guarded(lambda: show(arguments), Refused, interrupted="it goes on without being watched")


def show(arguments: argparse.Namespace) -> int:
    status = Status(str(arguments.workdir))
    while arguments.watch:
        print("\x1b[2J\x1b[H" + status.text(), flush=True)
        time.sleep(arguments.every)
    print(status.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
