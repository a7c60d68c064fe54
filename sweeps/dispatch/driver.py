"""The loop from plan to packs to results to the next plan, until all cells are certified."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm import config as run_config
from lm.storage import write_json
from sweeps.dispatch import ledger as ledgers
from sweeps.dispatch.executor import Executor, Report
from sweeps.dispatch.ledger import Ledger, folder
from sweeps.dispatch.packs import Pack, Widths, packs
from sweeps.plan.phases import Plan, plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Trial, finite

# Of one trial alone, by cause.
RETRIES = {"failed": 0, "memory": 0, "killed": 3, "timeout": 0, "preempted": 20}
GIVE_UP = 8  # this many failures with nothing finished: the set-up is broken, not the trials
HEARTBEAT = 5.0  # seconds between signs of life for `sweeps.status`


class Refused(Exception):
    """The study cannot start or go on; one line says why."""


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """One driver per workdir. The system frees the lock of a driver that dies, even by kill -9.

    Raises:
      Refused: another driver holds it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise Refused(f"{workdir} is being driven by {owner}; one driver at a time") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


class Driver:
    """One study on one workdir with one executor."""

    def __init__(
        self,
        study: Study,
        workdir: Path,
        executor: Executor,
        ledger: Ledger,
        *,
        log: Callable[[str], Any] = print,
        width: int = 16,
        workers: int = 1,
        timeout: float = 3600.0,
    ):
        self.study, self.workdir, self.executor, self.log = study, Path(workdir), executor, log
        self.outcomes = ledger.outcomes
        self.widths, self.workers = Widths(min(width, executor.widest)), workers
        self.timeout = timeout
        self.running: dict[Any, tuple[Pack, Any, float]] = {}
        self.split: list[Pack] = []  # parts of packs that died, to be run as they are
        self.attempts: Counter = Counter()
        self.certified: dict = {}
        self.failures, self.finished, self.done_flops = [], 0, 0.0
        self.began, self.stopped = time.monotonic(), threading.Event()

    def run(self) -> Plan:
        """Runs the study to its end; returns the final plan.

        Raises:
          OSError: no space left on the device.
          Refused: nothing can be trained here.
        """
        threading.Thread(target=self._show_life, daemon=True).start()
        try:
            self._adopt()
            while True:
                state = plan(self.study, self.outcomes)
                ledgers.certify(self.study, state, self.workdir, self.certified)
                queue = self._queue(state)
                while queue and self.executor.capacity() > 0:
                    self._start(queue.pop(0))
                self.split = [pack for pack in queue if pack in self.split]
                self._snapshot(state, queue)
                if not self.running:
                    return state
                while not self._collect(state):
                    time.sleep(0.05)
        finally:
            self.stopped.set()
            for _, handle, _ in self.running.values():
                self.executor.cancel(handle)
            self.executor.close()

    def _adopt(self) -> None:
        """Takes over packs that a driver before this one left running, where packs outlive it."""
        for configs, handle in self.executor.adopt():
            trials = [self.study.trial(run_config.what(config)) for config in configs]
            if any(t is None or t.cell not in self.study.cells for t in trials):
                self.executor.cancel(handle)  # of a study that has changed since
                continue
            trials = tuple(t for t in trials if t not in self.outcomes)
            self.log(f"a pack with {len(trials)} trials to go is running already")
            pack = Pack(self.study.program(trials[0]) if trials else "", trials)
            self.running[id(handle)] = (pack, handle, time.monotonic())

    def _queue(self, state: Plan) -> list[Pack]:
        """What could start now: parts of packs that died, then the plan's trials, longest first."""
        taken = {t for pack, _, _ in self.running.values() for t in pack.trials}
        taken |= {t for pack in self.split for t in pack.trials}
        trials = [t for t in state.pending if t not in taken]
        fresh = packs(
            trials,
            self.study.program,
            self.study.flops,
            width=self.widths,
            workers=self.workers,
        )
        return [*self.split, *fresh]

    def _start(self, pack: Pack) -> None:
        configs = [self.study.run(trial) for trial in pack.trials]
        folders = [folder(self.workdir, self.study.hash(trial)) for trial in pack.trials]
        for path in folders:
            path.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            handle = self.executor.start(configs, folders, timeout=self.timeout)
        except ValueError as error:
            raise Refused(f"nothing here can run {pack.trials[0].cell}: {error}") from None
        self.running[id(handle)] = (pack, handle, began)

    def _collect(self, state: Plan) -> bool:
        """Takes in the packs that have ended; True if there were any."""
        ended = False
        for name, (pack, handle, began) in list(self.running.items()):
            report = self.executor.poll(handle)
            if report is None:
                continue
            del self.running[name]
            self._take_in(pack, report)
            self._say(pack, state, time.monotonic() - began)
            ended = True
        return ended

    def _take_in(self, pack: Pack, report: Report) -> None:
        rest = []
        for trial in pack.trials:
            path = folder(self.workdir, self.study.hash(trial))
            outcome = ledgers.read(path)
            if outcome is None:
                rest.append(trial)
                continue
            self.outcomes[trial] = outcome
            self.finished += outcome.status != "failed"
            self.done_flops += self.study.flops(trial)
        if report.cause == "disk":
            raise OSError(
                28, f"{report.reason}; finished results are kept, free some space and run again"
            )
        if not rest:
            self.widths.ran(pack.key, [self.outcomes[trial] for trial in pack.trials])
            return
        cause, reason = report.cause or "failed", report.reason or "training wrote no result"
        self.log(f"a pack of {len(pack.trials)} lost {len(rest)} trials ({cause}): {reason}")
        left = pack._replace(trials=tuple(rest))
        if cause == "infeasible":
            raise Refused(f"nothing here can run {rest[0].cell}: {reason}")
        if len(rest) > 1 and cause != "preempted":
            if cause == "memory":
                self.widths.too_wide(pack.key, len(pack.trials))
            self.split += left.halves()
            return
        again = []
        for trial in rest:
            self.attempts[trial, cause] += 1
            if self.attempts[trial, cause] <= RETRIES[cause]:
                again.append(trial)
            else:
                self._fail(trial, f"{cause}: {reason}")
        if again:  # together: they go on from checkpoints of the same step
            self.split.append(left._replace(trials=tuple(again)))

    def _fail(self, trial: Trial, reason: str) -> None:
        config = run_config.what(self.study.run(trial))
        path = folder(self.workdir, self.study.hash(trial))
        self.failures.append(f"{trial.cell}: {reason}")
        if len(self.failures) >= GIVE_UP and not self.finished:
            raise Refused(
                f"the first {GIVE_UP} trials all failed; the last was {self.failures[-1]}"
            )
        ledgers.record_failure(path, config, reason)
        self.outcomes[trial] = ledgers.read(path)

    def _say(self, pack: Pack, state: Plan, seconds: float) -> None:
        cells = Counter(str(trial.cell) for trial in pack.trials)
        losses = [self.outcomes[t].loss for t in pack.trials if t in self.outcomes]
        best = min(losses, default=float("inf"))
        left = len([t for t in state.pending if t not in self.outcomes])
        what = ", ".join(f"{name} x{n}" for name, n in cells.items())
        shown = f"best {best:.4f}" if finite(best) else "no finite loss"
        eta = self._eta(state)
        self.log(
            f"[{len(self.outcomes)} done, {left} to go in this round, about {_clock(eta)}] "
            f"{what}: {seconds:.1f} s, {shown}"
        )

    def _eta(self, state: Plan) -> float | None:
        elapsed = time.monotonic() - self.began
        left = sum(self.study.flops(t) for t in state.pending if t not in self.outcomes)
        return elapsed * left / self.done_flops if self.done_flops else None

    def _show_life(self) -> None:
        """Keeps the snapshot's time fresh while a pack holds the driver's thread up."""
        while not self.stopped.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(self.workdir / "driver.json")

    def _snapshot(self, state: Plan, queue: list[Pack]) -> None:
        """What `sweeps.status` shows beyond the results: a convenience, no driver reads it back."""
        count = lambda trials: dict(Counter(str(t.cell) for t in trials))  # noqa: E731
        write_json(
            self.workdir / "driver.json",
            {
                "process": os.getpid(),
                "host": socket.gethostname(),
                "over": not self.running,
                "running": count(t for p, _, _ in self.running.values() for t in p.trials),
                "queued": count(t for p in queue for t in p.trials),
                "settled": [str(c) for c in state.repeats],
                "waiting": {str(c): why for c, why in state.waiting.items()},
                "eta_seconds": self._eta(state),
            },
        )


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"


def read_study(workdir: Path) -> dict | None:
    path = Path(workdir) / "study.json"
    return json.loads(path.read_text()) if path.exists() else None
