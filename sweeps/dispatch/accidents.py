"""What becomes of trials whose pack ended without their results.

A failed trial is no result, and the planner never hears of it. It stays pending; its attempts are
noted in `trials/<hash>/attempts.json`, so that no restart gives it new lives, and when they are
spent it waits for `--retry_failed`. A pack that died is halved until the bad trial is alone: only
then is a trial charged, and from then on it runs alone. One that never fits in memory, where
others do, is recorded as infeasible.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import what
from lm.storage import write_json
from sweeps.dispatch import ledger
from sweeps.dispatch.executor import Report
from sweeps.plan.study import Study
from sweeps.plan.trial import Outcome, Trial

# How often a trial may end so before it is left alone.
ATTEMPTS = {"failed": 2, "memory": 2, "timeout": 2, "killed": 4, "preempted": 20}
GIVE_UP = 8  # so many trials failed and nothing finished: the set-up is broken, not they


class Refused(Exception):
    """The study cannot start or go on; one line says why."""


def begun(outcomes: Mapping[Trial, Outcome]) -> bool:
    """Whether training is known to work here: some trial has come to its own end."""
    return any(run.status != "infeasible" for run in outcomes.values())


class Attempt(NamedTuple):
    """An attempt that ended without a result."""

    cause: str  # of `executor.CAUSES`
    reason: str
    where: str  # the machine


class Accidents:
    """The failed attempts at trials of a workdir."""

    def __init__(self, workdir: Path, name: Callable[[Any], str]):
        """`name` is a trial's hash; trials are whatever it takes."""
        self.workdir, self.name = Path(workdir), name
        self.known: dict[Any, list[Attempt]] = {}

    def of(self, trial: Any) -> list[Attempt]:
        if trial not in self.known:
            try:
                found = json.loads(self._path(trial).read_text())
                self.known[trial] = [Attempt(**attempt) for attempt in found]
            except (OSError, ValueError, TypeError):
                self.known[trial] = []
        return self.known[trial]

    def lost(self, trials: Sequence[Any], report: Report) -> list[list[Any]]:
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
            self._path(trial).parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path(trial), [attempt._asdict() for attempt in attempts])
            self.known[trial] = attempts
        left = [trial for trial in trials if not self.spent(trial)]
        # Together, for they go on from checkpoints of the same step.
        return [left] if left and report.cause == "preempted" else []

    def alone(self, trial: Any) -> bool:
        """Whether a trial has brought a pack down, and must not share one again."""
        return any(attempt.cause != "preempted" for attempt in self.of(trial))

    def spent(self, trial: Any) -> str | None:
        """Why a trial is not tried again, or None."""
        for cause, most in ATTEMPTS.items():
            ends = [attempt for attempt in self.of(trial) if attempt.cause == cause]
            if len(ends) >= most:
                return f"{cause}: {ends[-1].reason}"
        return None

    def failed(self, trials: Iterable[Any]) -> dict[Any, str]:
        """Those of the trials that are not tried again, and why."""
        causes = {trial: self.spent(trial) for trial in trials}
        return {trial: cause for trial, cause in causes.items() if cause}

    def check_start(self, trials: Sequence[Any]) -> None:
        """For a study of which nothing has finished: is it the set-up that fails?

        Args:
          trials: what the plan asks for.
        Raises:
          Refused: the first trials all failed. The attempts are forgotten.
        """
        failed = [
            t for t in trials if self.spent(t) or any(a.cause == "failed" for a in self.of(t))
        ]
        if failed and (len(failed) >= GIVE_UP or len(self.failed(trials)) == len(trials)):
            cause, reason, _ = self.of(failed[-1])[-1]
            self.forget(trials)
            raise Refused(f"the first {len(failed)} trials all failed; the last: {cause}: {reason}")

    def forget(self, trials: Iterable[Any]) -> None:
        """Gives trials all their attempts back."""
        for trial in trials:
            self._path(trial).unlink(missing_ok=True)
            self.known[trial] = []

    def _path(self, trial: Any) -> Path:
        return ledger.folder(self.workdir, self.name(trial)) / "attempts.json"


def write_off(study: Study, trials: Iterable[Trial], accidents: Accidents) -> dict[Trial, Outcome]:
    """Records as infeasible those that, alone, never fitted in memory; gives their outcomes."""
    found = {}
    for trial, cause in accidents.failed(trials).items():
        if cause.startswith("memory"):
            path = ledger.folder(accidents.workdir, study.hash(trial))
            config = what(study.run(trial))
            found[trial] = ledger.record(path, config, "infeasible", reason=cause)
    return found
