"""The loop from plan to packs to results to the next plan, until all cells are certified."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lm.config import what
from sweeps.dispatch import ledger
from sweeps.dispatch.accidents import Accidents, Refused, begun, write_off
from sweeps.dispatch.executor import Executor, Report
from sweeps.dispatch.packs import Pack, Widths, packs
from sweeps.dispatch.progress import Progress
from sweeps.plan import cost
from sweeps.plan.phases import Plan, plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Outcome, Trial


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
        outcomes: dict[Trial, Outcome],
        *,
        log: Callable[[str], Any] = print,
        timeout: float = 3600.0,
    ):
        self.study, self.workdir, self.executor, self.log = study, Path(workdir), executor, log
        self.outcomes, self.timeout = outcomes, timeout
        self.accidents = Accidents(workdir, study.hash)
        self.widths = Widths(min(study.config["pack"]["width"], executor.widest))
        self.workers = executor.capacity()
        self.running: dict[Any, tuple[Pack, Any, float]] = {}
        self.again: list[Pack] = []  # parts of packs that died, to be run as they are
        self.certified: dict = {}

    def run(self) -> tuple[Plan, dict[Trial, str]]:
        """Runs the study as far as it goes.

        Returns:
          the final plan, and the trials that failed for good, with their causes.
        Raises:
          OSError: no space left on the device.
          Refused: nothing can be trained here.
        """
        self.progress = Progress(self.study, self.workdir, self.outcomes, self.log)
        try:
            self._adopt()
            if not begun(self.outcomes):  # attempts of a broken set-up do not count
                self.accidents.forget(plan(self.study, self.outcomes).pending)
            while True:
                state = plan(self.study, self.outcomes)
                if self._set_aside(state):
                    continue
                self._check_budget()
                failed = self.accidents.failed(state.pending)
                queue = self._queue([trial for trial in state.pending if trial not in failed])
                while queue and self.executor.capacity() > 0:
                    self._start(queue.pop(0))
                self.again = [pack for pack in queue if pack in self.again]
                over = not self.running
                ledger.certify(
                    self.study, state, self.workdir, self.certified, failed if over else {}
                )
                running = [t for pack, *_ in self.running.values() for t in pack.trials]
                queued = [t for pack in queue for t in pack.trials]
                self.progress.snapshot(state, running, queued, failed)
                if over:
                    return state, failed
                while not self._collect(state):
                    time.sleep(0.05)
        finally:
            self.progress.stop()
            for _, handle, _ in self.running.values():
                self.executor.cancel(handle)
            self.executor.close()

    def _set_aside(self, state: Plan) -> bool:
        """Takes in what never fits in memory; True where that changes the plan.

        Raises:
          Refused: nothing has finished and the first trials all failed.
        """
        if not begun(self.outcomes):
            self.accidents.check_start(state.pending)
            return False
        found = write_off(self.study, state.pending, self.accidents)
        for trial, outcome in found.items():
            self.log(f"{trial.cell}: recorded as infeasible: {outcome.reason}")
        self.outcomes |= found
        return bool(found)

    def _check_budget(self) -> None:
        """Raises Refused when what has finished took more than the study may."""
        runs = self.outcomes.values()
        rate = cost.rate(cost.HERE, runs)
        if reason := cost.over_budget(cost.spent(runs), self.study.config["budget"], rate):
            raise Refused(f"{reason}, which is spent; results are kept, raise the budget to go on")

    def _adopt(self) -> None:
        """Takes over packs that a driver before this one left running, where packs outlive it."""
        for configs, handle in self.executor.adopt():
            trials = [self.study.trial(what(config)) for config in configs]
            if any(t is None or t.cell not in self.study.cells for t in trials):
                self.executor.cancel(handle)  # of a study that has changed since
                continue
            trials = tuple(t for t in trials if t not in self.outcomes)
            self.log(f"a pack with {len(trials)} trials to go is running already")
            pack = Pack(self.study.program(trials[0]) if trials else "", trials)
            self.running[id(handle)] = (pack, handle, time.monotonic())

    def _queue(self, trials: Sequence[Trial]) -> list[Pack]:
        """What could start now: first parts of packs that died, then the plan's trials."""
        taken = {t for pack, *_ in self.running.values() for t in pack.trials}
        taken |= {t for pack in self.again for t in pack.trials}
        fresh = packs(
            [trial for trial in trials if trial not in taken],
            self.study.program,
            self.study.flops,
            width=self.widths,
            workers=self.workers,
            alone=self.accidents.alone,
        )
        return [*self.again, *fresh]

    def _start(self, pack: Pack) -> None:
        configs = [self.study.run(trial) for trial in pack.trials]
        folders = [self._folder(trial) for trial in pack.trials]
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
            self.progress.ended(pack.trials, state, time.monotonic() - began)
            ended = True
        return ended

    def _take_in(self, pack: Pack, report: Report) -> None:
        rest = []
        for trial in pack.trials:
            outcome = ledger.take(self._folder(trial), self.log)
            if outcome is None:
                rest.append(trial)
            else:
                self.outcomes[trial] = outcome
                self.progress.trained(trial)
        if report.cause == "disk":
            kept = "finished results are kept, free some space and run again"
            raise OSError(errno.ENOSPC, f"{report.reason}; {kept}")
        if not rest:
            self.widths.ran(pack.key, [self.outcomes[trial] for trial in pack.trials])
            return
        self.log(
            f"a pack of {len(pack.trials)} lost {len(rest)} trials ({report.cause or 'failed'}): "
            f"{report.reason or 'training wrote no result'}"
        )
        if len(rest) > 1 and report.cause == "memory":
            self.widths.too_wide(pack.key, len(pack.trials))
        groups = self.accidents.lost(rest, report)
        self.again += [pack._replace(trials=tuple(group)) for group in groups]

    def _folder(self, trial: Trial) -> Path:
        return ledger.folder(self.workdir, self.study.hash(trial))
