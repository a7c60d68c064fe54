"""What becomes of trials whose pack ended without their results.

A failed trial is no result, and the planner never hears of it. It stays pending; its attempts are
noted in `attempts/<hash>.json`, so that no restart gives it new lives, and when they are spent it
waits for `--retry_failed`. A pack that died is halved until the bad trial is alone: only then is a
trial charged, and from then on it runs alone. One that never fits in memory, where others do, is
recorded as infeasible. An optimizer of which nothing ever finished is set aside when so many of its
trials have failed; the others go on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from lm.config import what
from lm.storage import Store
from sweeps.dispatch.begun import Refused
from sweeps.dispatch.executor import Report
from sweeps.dispatch.ledger import UNUSABLE, Ledger
from sweeps.plan.phases import Plan, plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Outcome, Trial

# How often a trial may end so before it is left alone.
ATTEMPTS = {"failed": 2, "memory": 2, "timeout": 2, "killed": 4, "preempted": 20}
GIVE_UP = 8  # so many trials of an optimizer failed and none finished: it cannot be trained here
STRIKES = 2  # so many packs in a row died on a node while other nodes worked: it is set aside


class Attempt(NamedTuple):
    """An attempt that ended without a result."""

    cause: str  # of `executor.CAUSES`
    reason: str
    where: str  # the machine


class Accidents:
    """The failed attempts at a study's trials, of all workers."""

    def __init__(self, store: Store, study: Study):
        self.store, self.study = store, study
        self.known: dict[str, list[Attempt]] = {}
        self._versions: dict[str, str] = {}
        # By optimizers set aside: the study of the others, and its plan for so many results.
        self._studies: dict[frozenset[str], Study] = {frozenset(): study}
        self._plans: dict[frozenset[str], tuple[int, Plan]] = {}

    def look(self) -> bool:
        """Takes in what has happened since; True if there was anything."""
        found = self.store.list("attempts")
        changed = [name for name, version in found.items() if self._versions.get(name) != version]
        gone = set(self._versions) - set(found)
        for name in gone:
            self.known.pop(name.removesuffix(".json"), None)
        contents = self.store.read_all([f"attempts/{name}" for name in changed])
        for name, content in zip(changed, contents, strict=True):
            try:
                attempts = [Attempt(**attempt) for attempt in json.loads(content or b"[]")]
            except (ValueError, TypeError):
                attempts = []
            self.known[name.removesuffix(".json")] = attempts
        self._versions = found
        return bool(changed or gone)

    def of(self, trial: Trial) -> list[Attempt]:
        return self.known.get(self.study.hash(trial), [])

    def lost(self, trials: Sequence[Trial], report: Report) -> list[list[Trial]]:
        """Takes in the end of a pack that left these trials without results.

        Returns:
          groups of them that are to run again at once.
        """
        if report.cause != "preempted" and len(trials) > 1:
            middle = len(trials) // 2
            return [list(trials[:middle]), list(trials[middle:])]
        reason = report.reason or "training wrote no result"
        for trial in trials:
            attempts = [*self.of(trial), Attempt(report.cause or "failed", reason, report.where)]
            name = self.study.hash(trial)
            self.store.write_json(f"attempts/{name}.json", [a._asdict() for a in attempts])
            self.known[name] = attempts
        left = [trial for trial in trials if not self.spent(trial)]
        # Together, for they go on from checkpoints of the same step.
        return [left] if left and report.cause == "preempted" else []

    def alone(self, trial: Trial) -> bool:
        """Whether a trial has brought a pack down, and must not share one again."""
        return any(attempt.cause != "preempted" for attempt in self.of(trial))

    def spent(self, trial: Trial) -> str | None:
        """Why a trial is not tried again, or None."""
        for cause, most in ATTEMPTS.items():
            ends = [attempt for attempt in self.of(trial) if attempt.cause == cause]
            if len(ends) >= most:
                return f"{cause}: {ends[-1].reason}"
        return None

    def stand(self, outcomes: Mapping[Trial, Outcome]) -> tuple[Plan, dict[Trial, str]]:
        """Where the study stands: its plan, and what of it is not tried again, and why.

        The plan is that of the optimizers that are not set aside.

        Raises:
          Refused: nothing of the study has finished, and its first trials all failed.
        """
        aside: dict[Trial, str] = {}
        names: frozenset[str] = frozenset()
        while True:
            count, before = self._plans.get(names, (-1, None))
            if count != len(outcomes):
                before = plan(self._without(names), outcomes, before)
                self._plans[names] = len(outcomes), before
            causes, bad = self._failed(before.pending, outcomes)
            if not bad:
                return before, aside | causes
            aside |= {trial: why for trial, why in causes.items() if trial.cell.optimizer in bad}
            names |= set(bad)

    def _without(self, names: frozenset[str]) -> Study:
        """The study without some of its optimizers."""
        if names not in self._studies:
            left = {n: e for n, e in self.study.config["optimizers"].items() if n not in names}
            self._studies[names] = Study({**self.study.config, "optimizers": left})
        return self._studies[names]

    def _failed(
        self, trials: Sequence[Trial], outcomes: Mapping[Trial, Outcome]
    ) -> tuple[dict[Trial, str], list[str]]:
        """Those of the trials that are not tried again, and why; the optimizers set aside."""
        begun = {t.cell.optimizer for t, run in outcomes.items() if run.status != "infeasible"}
        causes = {trial: cause for trial in trials if (cause := self.spent(trial))}
        aside: dict[str, tuple[int, str]] = {}
        for optimizer in {trial.cell.optimizer for trial in trials} - begun:
            own = [trial for trial in trials if trial.cell.optimizer == optimizer]
            bad = [t for t in own if t in causes or any(a.cause == "failed" for a in self.of(t))]
            if bad and (len(bad) >= GIVE_UP or all(trial in causes for trial in own)):
                cause, reason, _ = self.of(bad[-1])[-1]
                aside[optimizer] = len(bad), f"{cause}: {reason}"
        if aside and not begun and set(aside) == {trial.cell.optimizer for trial in trials}:
            count, last = sum(n for n, _ in aside.values()), list(aside.values())[-1][1]
            raise Refused(f"the first {count} trials all failed; the last: {last}")
        for trial in trials:
            if (name := trial.cell.optimizer) in aside:
                count, last = aside[name]
                causes[trial] = f"{name} is set aside: its first {count} trials all failed: {last}"
        return causes, list(aside)

    def forget(self, trials: Iterable[Trial]) -> None:
        """Gives trials all their attempts back."""
        for name in map(self.study.hash, trials):
            if self.known.pop(name, None) is not None:
                self.store.delete(f"attempts/{name}.json")

    def write_off(self, ledger: Ledger, failed: Mapping[Trial, str]) -> list[Trial]:
        """Records as infeasible what, alone, never fitted in memory where others did."""
        begun = any(run.status != "infeasible" for run in ledger.outcomes.values())
        found = [t for t, cause in failed.items() if begun and cause.startswith("memory")]
        for trial in found:
            run = what(self.study.run(trial))
            ledger.record(trial, run, "infeasible", reason=failed[trial])
        return found


class Node:
    """One machine's record in `nodes/<name>.json`: packs in a row that died there."""

    def __init__(self, store: Store, name: str):
        self.store, self.name, self.strikes, self.worked = store, name, 0, False
        with contextlib.suppress(*UNUSABLE):  # there is none yet, or it is damaged
            record = store.read_json(f"nodes/{name}.json")
            self.strikes, self.worked = int(record["strikes"]), bool(record["worked"])

    def ended(self, *, well: bool, fault: bool) -> None:
        """A pack has ended here: well, or perhaps by the node's fault."""
        before = {"strikes": self.strikes, "worked": self.worked}
        self.strikes = 0 if well else self.strikes + fault
        self.worked |= well
        now = {"strikes": self.strikes, "worked": self.worked}
        if now != before:
            self.store.write_json(f"nodes/{self.name}.json", now)

    def bad(self) -> bool:
        """Whether this node is to be left: all that its last packs did was to die, and others
        work.
        """
        others = (node for node in nodes(self.store) if node.name != self.name)
        return self.strikes >= STRIKES and any(node.worked for node in others)


def nodes(store: Store) -> Iterator[Node]:
    """The machines that packs have ended on."""
    for name in store.list("nodes"):
        yield Node(store, name.removesuffix(".json"))


def standing(store: Store, study: Study) -> tuple[Plan, dict[Trial, str], Ledger]:
    """Where a study stands by what its store holds: as `Accidents.stand`, and the results.

    Raises:
      Refused: nothing of the study has finished, and its first trials all failed.
    """
    ledger, accidents = Ledger(store, study).open(), Accidents(store, study)
    accidents.look()
    return *accidents.stand(ledger.outcomes), ledger


def forgive(store: Store) -> None:
    """Gives all nodes another chance."""
    for node in store.list("nodes"):
        store.delete(f"nodes/{node}")


def set_aside(store: Store) -> list[str]:
    """The nodes that workers have left, for schedulers."""
    return [node.name for node in nodes(store) if node.bad()]
