"""Starts workers and follows what they do in the store. Killing it kills nothing."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lm.storage import Store, in_bucket
from sweeps.dispatch.accidents import standing
from sweeps.dispatch.begun import Refused
from sweeps.dispatch.ledger import Ledger
from sweeps.plan.phases import Plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Trial

LOOK = 0.5  # seconds between looks at this machine's worker; the store is looked at less often


class Workers(ABC):
    """Workers that somebody has started."""

    @abstractmethod
    def news(self) -> list[str]:
        """Lines that workers have said since the last time."""

    @abstractmethod
    def ended(self) -> str | None:
        """Why nobody works any more; None while somebody does."""

    @abstractmethod
    def stop(self) -> None:
        """Lets running packs save; called again, ends them at once."""


class Process(Workers):
    """One worker process on this machine, which goes on when its driver is gone."""

    def __init__(self, store: Store, words: Sequence[str]):
        """`words`: flags of `sweeps.work`."""
        bucket = in_bucket(store.address)
        folder = Path(tempfile.mkdtemp()) if bucket else Path(store.address) / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"worker-{time.time_ns():x}.log"
        command = [sys.executable, "-m", "sweeps.work", f"--workdir={store.address}", *words]
        with open(self.path, "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.read = 0

    def news(self) -> list[str]:
        with open(self.path, "rb") as file:
            file.seek(self.read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.read += len(whole)
        return whole.decode(errors="replace").splitlines()

    def ended(self) -> str | None:
        code = self.process.poll()
        return None if code is None else f"the worker ended with exit code {code}: {self._last()}"

    def _last(self) -> str:
        lines = self.path.read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()


def follow(
    store: Store, study: Study, workers: Workers, log: Callable
) -> tuple[Plan, dict[Trial, str], Ledger]:
    """Says what workers do until nothing is left to train.

    Raises:
      Refused: they have ended before; KeyboardInterrupt: they were asked to.
    """
    with stopping(lambda _: workers.stop(), log) as asked:
        reason = None
        lines = workers.news()
        while reason is None:
            time.sleep(LOOK)
            reason = workers.ended()
            for line in [*lines, *workers.news()]:
                if not line.startswith("error: "):  # which is the reason
                    log(line)
            lines = []
    if asked:
        raise KeyboardInterrupt
    state, failed, ledger = standing(store, study)
    if any(trial not in failed for trial in state.pending):
        raise Refused(reason.rpartition("error: ")[2])
    return state, failed, ledger


@contextlib.contextmanager
def stopping(stop: Callable[[list[int]], Any], log: Callable) -> Iterator[list[int]]:
    """SIGINT and SIGTERM call `stop` with all of them so far, the list that this yields: the first
    is to let running packs save, the second to end them at once.
    """
    asked: list[int] = []

    def hear(number: int, _: object) -> None:
        asked.append(number)
        first = "running packs save and stop, finished trials stand; again: at once"
        log(f"{signal.Signals(number).name}: {first if len(asked) == 1 else 'stopped at once'}")
        stop(asked)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {n: signal.signal(n, hear) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
