"""A worker plans, claims, trains and writes, until the study is over. Any number may do so at once.

Planning is a pure function of the results, so that all workers want the same trials; claims decide
who trains which. A worker takes of a pack what it can get and trains that. One that finds nothing
to claim waits for the others; what they leave behind when they are lost it takes over.
"""

from __future__ import annotations

import bisect
import errno
import math
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lm.storage import Store, in_bucket
from sweeps.dispatch.accidents import Accidents, Node
from sweeps.dispatch.begun import Refused
from sweeps.dispatch.executor import Executor, Report
from sweeps.dispatch.ledger import Ledger, certify
from sweeps.dispatch.packs import Pack, Widths, packs
from sweeps.dispatch.right import Right
from sweeps.plan import cost
from sweeps.plan.phases import Plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Trial, finite

LOOK = (1.0, 5.0)  # seconds between looks at a disk and at a bucket
RARELY = (5.0, 60.0)  # where nothing has come for long
LOOKS = (100.0, 20.0)  # a second, of all workers together
TRIED = (32, 1)  # claims of others looked at in one go, on a disk and in a bucket
LOSSES = ("failed", "killed", "memory", "timeout")  # that may be the node's fault


class Avoided(Exception):
    """This node is left: packs only die here, and end well elsewhere."""


class Stopping(Exception):
    """The worker was asked to stop, and has."""


def node_name() -> str:
    names = (os.environ.get(name) for name in ("BESTIARY_NODE", "SLURMD_NODENAME"))
    return next(filter(None, names), socket.gethostname())


class Worker:
    """One worker of a study on one store."""

    def __init__(
        self,
        store: Store,
        study: Study,
        executor: Executor,
        *,
        log: Callable[[str], Any] = print,
        timeout: float = math.inf,
        die: Callable[[str], Any],
    ):
        """Args:
        timeout: seconds a pack may take.
        die: ends this process with a reason, when its right was lost.
        """
        self.store, self.study, self.executor, self.log = store, study, executor, log
        self.timeout, self.node = timeout, Node(store, node_name())
        self.asked_to_stop = threading.Event()
        self.slots = executor.capacity()
        about = {"host": socket.gethostname(), "node": node_name(), "slots": self.slots}
        self.right = executor.right = Right(store, about, die)
        self.widths = Widths(min(study.config["pack"]["width"], executor.widest))
        self.running: dict[int, tuple[Pack, Any, float]] = {}
        self.again: list[Pack] = []  # parts of packs that died, to be run as they are
        self.too_large: dict[str, str] = {}  # programs that this machine cannot hold, and why
        self.certified: dict = {}
        self.began, self.done_flops, self.deaths = time.monotonic(), 0.0, 0
        far = in_bucket(store.address)
        self.often, self.rarely, self.tried = LOOK[far], RARELY[far], TRIED[far]
        self.patience, self.workers, self.looks = self.often, [self.right.token], LOOKS[far]

    def run(self) -> tuple[Plan, dict[Trial, str], Ledger]:
        """Works as long as there is something to do.

        Returns:
          the final plan, the trials that failed for good, with their causes, and the results.
        Raises:
          OSError: no space left on the device, or the store does not answer.
          Refused: nothing can be trained; Avoided: not here; Stopping: when asked to.
        """
        try:
            with self.right:
                self.open()
                while True:
                    try:
                        if (over := self.step()) is not None:
                            self._tidy()
                            return *over, self.ledger
                        self._wait()
                    except OSError as error:
                        # A bucket may fail for a while; for how long, the right decides.
                        if not in_bucket(self.store.address):
                            raise
                        self.log(f"the store does not answer: {error}")
                        time.sleep(self.often)
        finally:
            self.executor.close()

    def open(self) -> None:
        """Reads what the store holds."""
        self.ledger = Ledger(self.store, self.study).open()
        self.accidents = Accidents(self.store, self.study)
        self.accidents.look()

    def step(self) -> tuple[Plan, dict[Trial, str]] | None:
        """Takes in what has ended, here and elsewhere, and starts what can start.

        Returns:
          the final plan and what failed, once nothing is left to train; else None.
        """
        if self._collect() | self.ledger.look() | self.accidents.look():
            self.patience = self.often
        else:
            self.patience = min(self.rarely, 1.5 * self.patience)
        state, failed = self._plan()
        todo = [trial for trial in state.pending if trial not in failed]
        if not self.asked_to_stop.is_set():
            self._start(self._fit(todo))
        over = not todo and not self.running
        certify(self.study, state, self.store, self.certified, failed if over else {})
        if over:
            return state, failed
        if self.asked_to_stop.is_set() and not self.running:
            raise Stopping
        return None

    def _fit(self, todo: list[Trial]) -> list[Trial]:
        """The trials that this machine can hold; all of them where nobody else is there.

        Raises:
          Refused: none.
        """
        if not self.too_large:
            return todo
        fit = [trial for trial in todo if self.study.program(trial) not in self.too_large]
        if todo and not fit and not self.running:
            (reason, *_) = self.too_large.values()
            if self._others():
                raise Refused(f"what is left to train does not fit this machine: {reason}")
            self.too_large.clear()
            return todo
        return fit

    def _tidy(self) -> None:
        """Removes what killed workers left: of lives, those up to the next that goes on."""
        over = {run.hash for run in self.ledger.outcomes.values()}
        for name in self.store.list("claims"):
            if name in over:
                self.store.delete(f"claims/{name}")
        self._others()

    def stop(self) -> None:
        """Running packs save and end, nothing new is begun; from a signal's handler."""
        self.asked_to_stop.set()
        self.executor.stop()

    def _plan(self) -> tuple[Plan, dict[Trial, str]]:
        """The plan as of the results so far, and what of it is not tried again."""
        while True:
            outcomes = self.ledger.outcomes
            runs = outcomes.values()
            rate = cost.rate(cost.HERE, runs)
            if reason := cost.over_budget(cost.spent(runs), self.study.config["budget"], rate):
                words = "which is spent; results are kept, raise the budget to go on"
                raise Refused(f"{reason}, {words}")
            state, failed = self.accidents.stand(outcomes)
            if not (found := self.accidents.write_off(self.ledger, failed)):
                return state, failed
            for trial in found:
                self.log(f"{trial.cell}: recorded as infeasible: {outcomes[trial].reason}")

    def _start(self, todo: Sequence[Trial]) -> None:
        """Starts as many packs as there is room for and trials to claim."""
        if self.executor.capacity() and self.node.bad():
            raise Avoided(f"node {node_name()} is set aside: packs died here and others work")
        tries = 0
        while self.executor.capacity() > 0 and tries < 32:
            tries += 1
            if self.again:
                self._begin(self.again.pop(0))
                continue
            claims, self.workers = self.store.list("claims"), sorted(self.store.list("workers"))
            here = {t for pack, *_ in self.running.values() for t in pack.trials}
            mine = [trial for trial in todo if trial not in here]
            free = [trial for trial in mine if self.study.hash(trial) not in claims]
            if not free:  # is one of the others gone?
                free = self._claim(random.sample(mine, min(len(mine), self.tried)))
                if not free:
                    return
            found = packs(
                free,
                self.study.program,
                self.study.flops,
                width=self.widths,
                workers=max(self.slots, len(self.workers)),
                alone=self.accidents.alone,
            )
            # The workers begin at different packs, so that few want the same.
            turn = bisect.bisect_left(self.workers, self.right.token)
            pack = found[turn % len(found)]
            ours = self._claim(pack.trials)
            done = self.ledger.take(ours, self.log)
            self.right.release(map(self.study.hash, done), over=True)
            left = tuple(trial for trial in ours if trial not in done)
            used = {self.study.hash(trial) for trial in (*left, *here)}
            self.right.release([name for name in self.right.claims if name not in used])
            if left:
                self._begin(pack._replace(trials=left))
            elif done:
                return  # the plan is another by now

    def _others(self) -> bool:
        """Whether anybody else works on the study."""
        tokens = sorted(self.store.list("workers"), key=lambda token: token < self.right.token)
        return not all(self.right.gone(t) for t in tokens if t != self.right.token)

    def _claim(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those of the trials that are ours now; a lost worker's count as lost once more."""
        names = {self.study.hash(trial): trial for trial in trials}
        held = [name for name in names if name in self.right.claims]
        ours, left = self.right.claim([name for name in names if name not in held])
        if left:
            self.log(f"{len(left)} trials of a lost worker are taken over")
            report = Report("preempted", "its worker is gone", node_name())
            self.accidents.lost([names[name] for name in left], report)
        return [names[name] for name in [*held, *ours]]

    def _begin(self, pack: Pack) -> None:
        configs = [self.study.run(trial) for trial in pack.trials]
        folders = [self.store.path(f"trials/{self.study.hash(t)}") for t in pack.trials]
        began = time.monotonic()
        handle = self.executor.start(configs, folders, timeout=self.timeout)
        self.running[id(handle)] = (pack, handle, began)
        self._tell()

    def _tell(self) -> None:
        """What others may read of this worker in its life, from the next heartbeat on."""
        elapsed = time.monotonic() - self.began
        self.right.about["flops_per_second"] = self.done_flops / elapsed if elapsed else 0.0

    def _wait(self) -> None:
        """Returns when a pack has ended here, or when it is time to look at the others."""
        busy = self.executor.capacity() == 0
        seconds = max(self.patience, 5 * self.often * busy, len(self.workers) / self.looks)
        seconds *= 1 + random.random()
        if not self.running:
            self.asked_to_stop.wait(seconds)
            return
        look = time.monotonic() + seconds
        while time.monotonic() < look and not self._collect():
            if self.asked_to_stop.is_set() and not self.running:
                return
            time.sleep(0.05)

    def _collect(self) -> bool:
        """Takes in the packs that have ended; True if there were any."""
        ended = False
        for name, (pack, handle, began) in list(self.running.items()):
            report = self.executor.poll(handle)
            if report is not None:
                del self.running[name]
                self._take_in(pack, report, time.monotonic() - began)
                ended = True
        if ended:
            self.ledger.put()
            self.patience = self.often
        return ended

    def _take_in(self, pack: Pack, report: Report, seconds: float) -> None:
        """Takes in the end of a pack."""
        done = self.ledger.take(pack.trials, self.log, self.right.put)
        self.done_flops += sum(map(self.study.flops, done))
        rest = [trial for trial in pack.trials if trial not in done]
        self.right.release(map(self.study.hash, done), over=True)
        self._say(pack, seconds)
        if report.cause == "disk":
            kept = "finished results are kept, free some space and run again"
            raise OSError(errno.ENOSPC, f"{report.reason}; {kept}")
        kept: set[Trial] = set()
        if not rest:
            self.widths.ran(pack.key, [self.ledger.outcomes[trial] for trial in pack.trials])
        elif report.cause == "stopped":
            self.asked_to_stop.set()
            self.log(f"{len(rest)} trials are not finished and go on from what was saved")
        else:
            self.log(
                f"a pack of {len(pack.trials)} lost {len(rest)} trials "
                f"({report.cause or 'failed'}): {report.reason or 'training wrote no result'}"
            )
            kept = self._lost(pack, rest, report)
        self.right.release(self.study.hash(trial) for trial in rest if trial not in kept)
        self._blame(pack, report, bool(rest))
        self._tell()

    def _lost(self, pack: Pack, rest: Sequence[Trial], report: Report) -> set[Trial]:
        """Decides on trials that a pack left without results; gives those that run again here."""
        if len(rest) > 1 and report.cause in ("memory", "room"):
            self.widths.too_wide(pack.key, len(pack.trials))
        if report.cause == "room":
            if len(rest) == 1 and self._others():  # theirs, and no attempt
                self.too_large[pack.key] = report.reason
                return set()
            report = report._replace(cause="memory")
        groups = self.accidents.lost(rest, report._replace(where=node_name()))
        self.again += [pack._replace(trials=tuple(group)) for group in groups]
        return {trial for group in groups for trial in group}

    def _blame(self, pack: Pack, report: Report, lost: bool) -> None:
        """Notes how this node does. Where nothing has worked yet, it gives the others time."""
        if not lost:
            self.deaths = 0
            return self.node.ended(well=True, fault=False)
        if report.cause not in LOSSES:
            return None
        elsewhere = {attempt.where for t in pack.trials for attempt in self.accidents.of(t)}
        began = {t.cell.optimizer for t in self.ledger.outcomes} & {pack.trials[0].cell.optimizer}
        self.node.ended(well=False, fault=bool(began) and elsewhere <= {node_name()})
        if not self.ledger.outcomes and len(self.workers) > 1:
            self.deaths += 1
            pause = min(60.0, self.right.every * 2.0 ** (self.deaths - 4))
            self.asked_to_stop.wait(pause if self.deaths > 2 else 0.0)
        return None

    def _say(self, pack: Pack, seconds: float) -> None:
        """How a pack ended; `sweeps.watch` says how the study goes."""
        outcomes = self.ledger.outcomes
        cells = Counter(str(trial.cell) for trial in pack.trials)
        best = min((outcomes[t].loss for t in pack.trials if t in outcomes), default=math.inf)
        names = ", ".join(f"{name} x{n}" for name, n in cells.items())
        shown = f"best {best:.4f}" if finite(best) else "no finite loss"
        self.log(f"{names}: {seconds:.1f} s, {shown}")
