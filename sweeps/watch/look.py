"""One look at a study: results, certificates, attempts, and the workers that are at it.

Nobody is asked and nothing is locked: any machine that sees the store can look, while the study
runs or after it died. A second look reads only what is new.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lm.storage import in_bucket, open_store
from sweeps.dispatch.accidents import Accidents
from sweeps.dispatch.begun import Refused, begun
from sweeps.dispatch.ledger import UNUSABLE, Ledger
from sweeps.plan.phases import plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial
from sweeps.watch.expected import Expected

COUNTS = ("finished", "running", "queued", "diverged", "infeasible")
CURVES = 8  # of workers, that a look reads to see how far they are
AGAIN = 30.0  # seconds before a curve in a bucket is read again


@dataclass
class Row:
    """One cell."""

    phase: str
    counts: Counter = field(default_factory=Counter)
    best: float = math.inf  # of the point that the search prefers, at the study's seed
    flops: float = 0.0
    seconds: float = 0.0
    state: str = "open"

    @property
    def certified(self) -> bool:
        return self.state.startswith("certified")

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        self.flops += outcome.flops
        self.seconds += outcome.seconds


class Life(NamedTuple):
    """A worker, as its life in the store says (`sweeps.dispatch.right`)."""

    about: Mapping[str, Any]
    version: str
    heard: float  # when it moved last, by our clock
    watched: bool  # whether it has moved since we look

    @property
    def trials(self) -> list[str]:
        return self.about.get("trials", [])

    @property
    def slots(self) -> int:
        return int(self.about.get("slots") or 1)


class Working(NamedTuple):
    """What a worker is at; of its trials, one that it has begun tells how far it is."""

    where: str
    cells: Counter
    step: int
    steps: int
    tokens_per_second: float
    seconds_left: float | None
    silent: float | None  # seconds since the last sign of life; None: not seen to move yet


class Failure(NamedTuple):
    cell: Cell
    hash: str
    reason: str
    attempts: int
    given_up: bool


@dataclass
class Look:
    """A study as it stands."""

    address: str
    study: Study
    cells: dict[Cell, Row]
    outcomes: dict[Trial, Outcome]
    coming: list[Trial]  # as the planner expects
    working: list[Working]
    idle: int  # workers that wait
    failures: list[Failure]
    device_seconds: float | None  # still to come
    seconds: float | None  # until the end

    @property
    def share(self) -> float:
        """Of the whole study's device time, or of its trials while no speed is known."""
        done = sum(run.seconds for run in self.outcomes.values())
        if self.device_seconds is None or not done:
            done, left = len(self.outcomes), len(self.coming)
            return done / max(1, done + left)
        return done / (done + self.device_seconds)


class Watcher:
    """Looks at a study again and again."""

    def __init__(self, address: str):
        """
        Raises:
          Refused: there is no study, or it is damaged; OSError: the store does not answer.
        """
        self.store = open_store(address)
        self.study = begun(self.store)
        self.ledger: Ledger | None = None
        self.accidents = Accidents(self.store, self.study)
        self.expected, self.plan = Expected(self.study), None
        self.lives: dict[str, Life] = {}
        self.curves: dict[str, tuple[float, int, float]] = {}  # time, step, device seconds
        self.certificates: dict[str, tuple[str, bool]] = {}  # version, complete

    def look(self) -> Look:
        if self.ledger is None:
            self.ledger = Ledger(self.store, self.study).open(put=False)
        self.ledger.look()
        self.accidents.look()
        self._look_at_lives()
        outcomes = self.ledger.outcomes
        try:
            self.plan, spent = self.accidents.stand(outcomes)
        except Refused as refused:  # the set-up is broken
            self.plan = plan(self.study, outcomes, self.plan)
            spent = dict.fromkeys(self.plan.pending, str(refused))
        names = {self.study.hash(trial): trial for trial in [*self.plan.pending, *spent]}
        failures = self._failures(names, spent)
        failed = {names[failure.hash] for failure in failures if failure.given_up}
        over = failed.issuperset(self.plan.pending)
        coming = [] if over else list(self.expected.look(outcomes, failed))
        busy = [life for life in self.lives.values() if names.keys() & set(life.trials)]
        left = self.expected.device_seconds(coming, outcomes)
        return Look(
            **{"address": self.store.address, "study": self.study, "outcomes": outcomes},
            **{"cells": self._cells(names, failures), "failures": failures, "coming": coming},
            working=[self._working(life, names, n < CURVES) for n, life in enumerate(busy)],
            idle=len(self.lives) - len(busy),
            device_seconds=left,
            seconds=self.expected.seconds(
                left, outcomes, [(i.about.get("flops_per_second"), i.slots) for i in busy]
            ),
        )

    def _look_at_lives(self) -> None:
        """A worker's life moves on with every heartbeat."""
        found, now = {}, time.monotonic()
        for token, version in self.store.list("workers").items():
            before = self.lives.get(token)
            if before is not None and before.version == version:
                found[token] = before
                continue
            kept = self.store.get(f"workers/{token}")
            with contextlib.suppress(*UNUSABLE):  # ended by another
                about = dict(json.loads(kept.content if kept else b""))
                found[token] = Life(about, version, now, before is not None)
        self.lives = found

    def _cells(self, names: Mapping[str, Trial], failures: list[Failure]) -> dict[Cell, Row]:
        rows = {cell: Row(phase) for cell, phase in self.study.cells.items()}
        for trial, outcome in self.ledger.outcomes.items():
            rows[trial.cell].add(outcome)
        running = {name for life in self.lives.values() for name in life.trials}
        given_up = {failure.hash for failure in failures if failure.given_up}
        for name, trial in names.items():
            if name in running:
                rows[trial.cell].counts["running"] += 1
            elif name not in given_up:
                rows[trial.cell].counts["queued"] += 1
        for cell, search in {**self.plan.searches, **self.plan.settled}.items():
            rows[cell].best = search.losses.get(search.best, math.inf)
        certified = self._certified()
        for cell, row in rows.items():
            row.state = self.plan.waiting.get(cell, row.state)
            if cell in self.plan.repeats:
                row.state = certified.get(f"{cell}.json", "to be certified")
            elif cell in self.plan.settled:
                row.state = "to be repeated"
        for failure in failures:
            if failure.given_up:
                rows[failure.cell].state = f"held up: {failure.reason}"
        return rows

    def _certified(self) -> dict[str, str]:
        """What the certificates say, by their files' names."""
        found = self.store.list("certificates")
        for name, version in found.items():
            if self.certificates.get(name, (None,))[0] != version:
                try:
                    complete = bool(self.store.read_json(f"certificates/{name}")["complete"])
                except UNUSABLE:
                    continue
                self.certificates[name] = (version, complete)
        words = {True: "certified", False: "certified, not complete"}
        return {n: words[done] for n, (_, done) in self.certificates.items() if n in found}

    def _failures(self, names: Mapping[str, Trial], spent: Mapping[Trial, str]) -> list[Failure]:
        found = []
        for name, trial in names.items():
            attempts, reason = self.accidents.of(trial), spent.get(trial)
            if attempts or reason:
                last = f"{attempts[-1].cause}: {attempts[-1].reason}" if attempts else ""
                found.append(
                    Failure(trial.cell, name, reason or last, len(attempts), reason is not None)
                )
        return found

    def _working(self, life: Life, names: Mapping[str, Trial], closely: bool) -> Working:
        trials = [names[name] for name in life.trials if name in names]
        step = steps = 0
        pace, left = 0.0, None  # device seconds a step, of one of the trials
        throughput = 0.0
        if trials and closely:
            lead = max(trials, key=lambda trial: self.curves.get(self.study.hash(trial), (0, 0))[1])
            step, seconds = self._curve(self.study.hash(lead))
            steps = self.study.steps(lead.cell, dict(lead.point)["batch_size"])
            pace = seconds / step if step else 0.0
        if pace:
            throughput = self.study.tokens(lead) / steps / pace * life.slots
            left = pace * (steps - step) * -(-len(trials) // life.slots)
        silent = time.monotonic() - life.heard if life.watched or self._long(life) else None
        where = f"{life.about.get('node', '?')}, process {life.about.get('process', '?')}"
        cells = Counter(str(trial.cell) for trial in trials)
        return Working(where, cells, step, steps, throughput, left, silent)

    def _long(self, life: Life) -> bool:
        """Whether a worker should have moved since we look, and has not."""
        return time.monotonic() - life.heard > 3 * float(life.about.get("heartbeat") or 10.0)

    def _curve(self, name: str) -> tuple[int, float]:
        """(step, device seconds) of the last training line of a trial's curve."""
        now = time.monotonic()
        read, step, seconds = self.curves.get(name, (-math.inf, 0, 0.0))
        if now - read > (AGAIN if in_bucket(self.store.address) else 0.0):
            curve = self.store.read(f"trials/{name}/curve.jsonl") or b""
            for line in reversed(curve.splitlines()):
                try:
                    found = json.loads(line)
                    step, seconds = int(found["step"]), float(found["seconds"])
                    break
                except UNUSABLE:
                    continue
            self.curves[name] = (now, step, seconds)
        return step, seconds
