"""A study's results and certificates: what counts, what is set aside. Only the store is true.

    trials/<hash>/config.json     what is trained
    trials/<hash>/result.json     put last, once; a trial without one is not over
    certificates/<cell>.json
    index/<study>/<number>        a register of result lines: what `look` reads instead of results

The index holds nothing that the results do not: what is missing there is read from them, and a line
counts at first sight only while its result is still the file it was made from.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lm.config import HOW, canonical
from lm.storage import Store
from lm.storage.store import encode
from sweeps.plan.certificates import certificate
from sweeps.plan.phases import Plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial, freeze

STATUSES = ("finished", "diverged", "infeasible")
NUMBERS = ("flops", "seconds", "tokens")
UNUSABLE = (ValueError, KeyError, TypeError, AttributeError)  # what reading a damaged file raises
SEGMENT = 500  # result lines of one register


def outcome(name: str, content: bytes) -> Outcome:
    """The outcome that a trial's result file says.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: it is truncated or not a result.
    """
    result = json.loads(content)
    if result["status"] not in STATUSES:
        raise ValueError(f"status {result['status']!r} is not one of {', '.join(STATUSES)}")
    if result["hash"] != name:
        raise ValueError(f"is the result of {result['hash']}")
    loss = float(result["loss"]) if result["status"] == "finished" else math.inf
    if result["status"] == "finished" and not math.isfinite(loss):
        raise ValueError(f"loss={loss} of a finished run")
    numbers = {key: float(result[key] or 0) for key in NUMBERS}
    return Outcome(result["status"], loss, name, result.get("reason") or "", **numbers)


class Ledger:
    """The finished trials of a study, and the results that could not be used."""

    def __init__(self, store: Store, study: Study):
        self.store, self.study = store, study
        self.outcomes: dict[Trial, Outcome] = {}
        self.corrupt: dict[str, str] = {}  # hash -> why; to be trained again
        self.strays: list[str] = []  # of another plan; left alone
        free = ("pack", "budget", "baseline", *HOW)
        fixed = {key: value for key, value in study.config.items() if key not in free}
        self.index = f"index/{hashlib.sha256(canonical(fixed).encode()).hexdigest()[:12]}"
        self._number, self._version, self._lines = 0, None, []  # the last segment
        self._later: list[list] = []  # lines that could not be put yet

    def open(self, *, put: bool = True) -> Ledger:
        """Finds every result by listing once; reads those that the index does not know.

        Args:
          put: them into the index; who only looks has perhaps no right to.
        """
        found = self.store.find("trials", "result.json")
        lines = {line[0]: line for line in self._news()}
        known = {name for name, line in lines.items() if found.get(name) == line[1]}
        self._enter(lines[name] for name in known)
        rest = [name for name in found if name not in known]
        results = self.store.read_all([f"trials/{name}/result.json" for name in rest])
        configs = self.store.read_all([f"trials/{name}/config.json" for name in rest])
        for name, result, config in zip(rest, results, configs, strict=True):
            try:
                if config is None:
                    raise ValueError("config.json is missing")
                trial = self.study.trial(json.loads(config))
                run = outcome(name, result or b"")
            except UNUSABLE as error:
                self.corrupt[name] = f"{type(error).__name__}: {error}"
                continue
            if (
                trial is None
                or trial.cell not in self.study.cells
                or self.study.hash(trial) != name
            ):
                self.strays.append(name)
            else:
                self.outcomes[trial] = run
                self._later.append(_line(trial, run, found[name]))
        if put:
            self.put()
        return self

    def look(self) -> bool:
        """Takes in what others have finished since; True if there was anything."""
        before = len(self.outcomes)
        self._enter(self._news())
        return len(self.outcomes) > before

    def take(
        self,
        trials: Iterable[Trial],
        log: Callable[[str], Any] = print,
        versions: Mapping[str, str] = {},
    ) -> list[Trial]:
        """Reads the results of trials, if they have any; gives the trials that have.

        A result that cannot be used is reported and set aside.

        Args:
          versions: of the results that this process has put, by hash.
        """
        names = {self.study.hash(trial): trial for trial in trials}
        results = self.store.read_all([f"trials/{name}/result.json" for name in names])
        done = []
        for (name, trial), result in zip(names.items(), results, strict=True):
            if result is None:
                continue
            try:
                self.outcomes[trial] = outcome(name, result)
            except UNUSABLE as error:
                self.discard(name, str(error), log)
                continue
            done.append(trial)
            self._later.append(_line(trial, self.outcomes[trial], versions.get(name)))
        return done

    def discard(self, name: str, reason: str, log: Callable[[str], Any] = print) -> None:
        """Sets an unusable result aside so that its trial runs again; what it held stays."""
        path = f"trials/{name}/result.json"
        log(f"{self.store.path(path)} is unusable and its trial runs again: {reason}")
        content = self.store.read(path)
        if content is not None:
            self.store.write(f"{path}.corrupt", content)
            self.store.delete(path)

    def record(self, trial: Trial, config: Mapping, status: str, **values: Any) -> None:
        """Puts the result of a trial that no trainer of ours wrote; what is not given is null."""
        name = self.study.hash(trial)
        keys = (
            "reason diverged_step loss bits_per_byte train_loss steps tokens non_embedding_params "
            "total_params optimizer_bytes flops seconds compile_seconds"
        )
        known = {"hash": name, "status": status, **values}
        self.store.write_json(f"trials/{name}/config.json", config)
        result = encode(dict.fromkeys(keys.split()) | known)
        self.store.create(f"trials/{name}/result.json", result)
        self.take([trial])

    def put(self, tries: int = 3) -> None:
        """Enters what this process has taken in into the index; what others were faster with
        waits for the next time.
        """
        while self._later and tries:
            self._enter(self._news())
            if len(self._lines) >= SEGMENT:
                self._number, self._version, self._lines = self._number + 1, None, []
            room = SEGMENT - len(self._lines)
            lines = [*self._lines, *self._later[:room]]
            name = f"{self.index}/{self._number:06d}"
            if version := self.store.swap(name, _text(lines), self._version):
                self._version, self._lines = version, lines
                self._later = self._later[room:]
            else:
                tries -= 1

    def _news(self) -> list[list]:
        """Lines of the index that have come since the last time."""
        found = []
        while kept := self.store.get(f"{self.index}/{self._number:06d}"):
            if kept.version != self._version:
                lines = _lines(kept.content)
                found += lines[len(self._lines) :]
                self._version, self._lines = kept.version, lines
            if len(self._lines) < SEGMENT:
                break
            self._number, self._version, self._lines = self._number + 1, None, []
        return found

    def _enter(self, lines: Iterable[list]) -> None:
        for trial, run in map(_run, lines):
            if trial.cell in self.study.cells:
                self.outcomes.setdefault(trial, run)


def _line(trial: Trial, run: Outcome, version: str | None) -> list:
    loss = run.loss if math.isfinite(run.loss) else None
    numbers = (run.flops, run.seconds, run.tokens)
    named = (run.hash, version, trial.cell, trial.point, trial.seed)
    return [*named, run.status, loss, run.reason, *numbers]


def _run(line: list) -> tuple[Trial, Outcome]:
    name, _, cell, point, seed, status, loss, reason, *numbers = line
    trial = Trial(Cell(*cell), freeze(dict(map(tuple, point))), seed)
    return trial, Outcome(status, math.inf if loss is None else loss, name, reason, *numbers)


def _text(lines: Iterable[list]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _lines(content: bytes) -> list[list]:
    """Whole lines; a register cut short by a loss of power, or of another version, ends there."""
    lines = []
    for text in content.decode(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, list) or len(line) != 8 + len(NUMBERS):
            break
        lines.append(line)
    return lines


def certify(
    study: Study, plan: Plan, store: Store, written: dict[Cell, Any], failed: Mapping[Trial, str]
) -> None:
    """Puts the certificates of cells that are over.

    Args:
      written: what was known when each cell's certificate was put; updated.
      failed: trials that are not tried again, and why. The cells that they hold up are certified
        as they stand: not complete.
    """
    held: dict[Cell, dict[str, str]] = defaultdict(dict)
    for trial in plan.pending if failed else ():
        if trial in failed:
            held[trial.cell][study.hash(trial)] = failed[trial]
    for cell in study.cells:
        causes = held.get(cell, {})
        over = cell in plan.repeats or (causes and cell in plan.searches)
        known = (plan.sensitive.get(cell.optimizer), causes) if over else None
        if over and written.get(cell) != known:
            name, content = (
                f"certificates/{cell}.json",
                encode(certificate(study, plan, cell, causes)),
            )
            if store.read(name) != content:
                store.write(name, content)
        written[cell] = known


def uncertify(study: Study, plan: Plan, store: Store) -> None:
    """Removes the certificates of cells that have more to train, as when a study was extended."""
    there = store.list("certificates")
    for cell in study.cells:
        if cell not in plan.repeats and f"{cell}.json" in there:
            store.delete(f"certificates/{cell}.json")
