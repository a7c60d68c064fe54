"""The door to the planner for people with their own trainer or scheduler.

    race = sweeps.Race(config, "runs/mine")
    while trials := race.ask(8):
        for trial in trials:                                   # train them with anything
            race.tell(trial.hash, status="finished", loss=train(trial.config))
    race.report("runs/mine/report")

Nothing of JAX is imported. Optimizers and hyper-parameters are whatever the config names; nobody
here knows what they mean. What is told is on the disk at once: a race made again from the same
folder goes on where it stopped.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import what
from lm.storage import open_store
from sweeps.dispatch.accidents import ATTEMPTS, Accidents
from sweeps.dispatch.begun import Refused, config_of
from sweeps.dispatch.executor import Report
from sweeps.dispatch.ledger import STATUSES, Ledger, certify, uncertify
from sweeps.plan import config as study_config
from sweeps.plan.phases import Plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Trial


class Asked(NamedTuple):
    """A trial to be trained."""

    hash: str
    config: dict  # model, data, train (with steps), optimizer, eval
    cell: Cell


class Race:
    """A study whose trials are trained elsewhere."""

    def __init__(self, config: Any, workdir: str | Path):
        """Begins a race, or goes on with the one that the folder holds.

        Args:
          config: of a study (configs/study.py), a mapping or a ConfigDict.
          workdir: where results and certificates are kept.
        Raises:
          ConfigError: one line naming a field, its value and what is allowed.
          Refused: the folder holds another study.
        """
        if hasattr(config, "to_dict"):
            config = config.to_dict()
        full = study_config.complete({**config, "told": True})
        full["data"]["fingerprint"] = full["data"]["fingerprint"] or "told"
        self.study, self.store = Study(full), open_store(str(workdir))
        self.study.check()
        before = config_of(self.store)
        if before and (change := study_config.other(before, full)):
            raise Refused(f"{workdir} holds a different study: {change}; choose another workdir")
        self.store.write_json("study.json", full)
        self.ledger = Ledger(self.store, self.study).open()
        self.accidents = Accidents(self.store, self.study)
        self.accidents.look()
        self.asked: dict[str, Trial] = {}  # and not yet told

    def ask(self, n: int = 1) -> list[Asked]:
        """Up to `n` trials that the planner needs and nobody has been asked for.

        None while the answers to others are awaited; and none once the race is over.

        Raises:
          Refused: the first trials all failed.
        """
        state, failed = self._advance()
        waiting = set(self.asked.values()) | set(failed)
        open_ = [trial for trial in state.pending if trial not in waiting]
        trials = sorted(open_, key=self.accidents.alone)[: max(0, n)]
        self.asked |= {self.study.hash(trial): trial for trial in trials}
        return [Asked(self.study.hash(t), what(self.study.run(t)), t.cell) for t in trials]

    def tell(
        self,
        hash: str,
        *,
        status: str = "finished",
        loss: float | None = None,
        reason: str | None = None,
        seconds: float | None = None,
    ) -> None:
        """Says how a trial ended, and writes its result file.

        Args:
          hash: of a trial that was asked for.
          status: "finished" (with its `loss`, nats per token), "diverged" or "infeasible"; or an
            accident, after which the trial is asked for again, a few times: "failed", "memory",
            "timeout", "killed", "preempted".
          reason: of any other end than "finished".
          seconds: that the device took.
        Raises:
          ValueError: one line.
        """
        if hash not in self.asked:
            raise ValueError(f"{hash} is no trial that was asked for and not yet told of")
        if status not in (*STATUSES, *ATTEMPTS):
            known = ", ".join([*STATUSES, *ATTEMPTS])
            raise ValueError(f"status={status!r} is not one of {known}")
        finite = isinstance(loss, (int, float)) and math.isfinite(loss)
        if finite != (status == "finished"):
            raise ValueError(f"loss={loss} does not go with status={status!r}")
        trial = self.asked.pop(hash)
        if status in ATTEMPTS:
            self.accidents.lost([trial], Report(status, reason or "no reason was given"))
            return
        study, run = self.study, what(self.study.run(trial))
        self.ledger.record(
            trial,
            run,
            status,
            loss=loss,
            reason=reason,
            seconds=seconds,
            steps=run["train"]["steps"],
            tokens=study.tokens(trial),
            flops=study.flops(trial),
            non_embedding_params=study.params(trial.cell.size),
        )

    def certificates(self) -> dict[str, dict]:
        """The certificates by cell: of what is over, and of what failed trials hold up."""
        state, failed = self._advance()
        left = {trial.cell for trial in state.pending if trial not in failed}
        failed = {trial: why for trial, why in failed.items() if trial.cell not in left}
        uncertify(self.study, state, self.store)
        certify(self.study, state, self.store, {}, failed)
        names = self.store.list("certificates")
        return {n.removesuffix(".json"): self.store.read_json(f"certificates/{n}") for n in names}

    def report(self, out: str | Path | None = None) -> Path:
        """Writes the report (`python -m analysis.report`); returns its page.

        Raises:
          RuntimeError: there is nothing to report yet; one line.
        """
        self.certificates()
        out = Path(out or Path(self.store.address) / "report")
        words = [sys.executable, "-m", "analysis.report", self.store.address, f"--out={out}"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return out / "index.html"

    def _advance(self) -> tuple[Plan, dict[Trial, str]]:
        """The plan as of what has been told, and what of it is not tried again."""
        while True:
            state, failed = self.accidents.stand(self.ledger.outcomes)
            if not self.accidents.write_off(self.ledger, failed):
                return state, failed
