"""What a running driver says: a line per pack, and a snapshot for `sweeps.status`."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lm.storage import write_json
from sweeps.plan.phases import Plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Outcome, Trial, finite

HEARTBEAT = 5.0  # seconds between signs of life for `sweeps.status`


class Progress:
    """Nothing here is read back by a driver."""

    def __init__(
        self, study: Study, workdir: Path, outcomes: Mapping[Trial, Outcome], log: Callable
    ):
        self.study, self.outcomes, self.log = study, outcomes, log
        self.path = Path(workdir) / "driver.json"
        self.began, self.done_flops = time.monotonic(), 0.0
        self.stopped = threading.Event()
        threading.Thread(target=self._show_life, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()

    def trained(self, trial: Trial) -> None:
        self.done_flops += self.study.flops(trial)

    def ended(self, trials: Iterable[Trial], state: Plan, seconds: float) -> None:
        """Says how a pack ended, and how long the round may still take."""
        cells = Counter(str(trial.cell) for trial in trials)
        losses = [self.outcomes[trial].loss for trial in trials if trial in self.outcomes]
        best = min(losses, default=math.inf)
        left = sum(trial not in self.outcomes for trial in state.pending)
        what = ", ".join(f"{name} x{n}" for name, n in cells.items())
        shown = f"best {best:.4f}" if finite(best) else "no finite loss"
        self.log(
            f"[{len(self.outcomes)} done, {left} to go in this round, about "
            f"{_clock(self._eta(state))}] {what}: {seconds:.1f} s, {shown}"
        )

    def snapshot(
        self, state: Plan, running: Iterable[Trial], queued: Iterable[Trial], failed: Mapping
    ) -> None:
        count = lambda trials: dict(Counter(str(trial.cell) for trial in trials))  # noqa: E731
        running = count(running)
        value: dict[str, Any] = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "over": not running,
            "running": running,
            "queued": count(queued),
            "failed": {str(trial.cell): why for trial, why in failed.items()},
            "waiting": {str(cell): why for cell, why in state.waiting.items()},
            "eta_seconds": self._eta(state),
        }
        write_json(self.path, value)

    def _eta(self, state: Plan) -> float | None:
        left = sum(self.study.flops(t) for t in state.pending if t not in self.outcomes)
        elapsed = time.monotonic() - self.began
        return elapsed * left / self.done_flops if self.done_flops else None

    def _show_life(self) -> None:
        """Keeps the snapshot's time fresh while a pack holds the driver's thread up."""
        while not self.stopped.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"
