"""Ends before the end: SIGTERM from a scheduler, or another process of the job that is gone.

Python runs signal handlers between bytecodes of the main thread, so a handler alone would wait for
a compilation of minutes. A thread of its own receives the signal. While there is a training state,
the loop sees the request at its next call and saves; before that (data, start, compilation) there
is nothing to save, and the thread ends the process at once.

The processes of one job have to stop after the same step. `jax.distributed` replaces the handler by
its own, which tells all of them, and `stop_agreed` asks it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

LOST = 75  # exit code of a process whose job lost another: the same command may go on


class Stopped(Exception):
    """The run was asked to stop and has saved; the next start goes on from there."""


class Lost(Exception):
    """Another process of the job is gone; the next start goes on from the last checkpoint."""


class Termination:
    """Watches for signals from its creation on; create it before anything slow."""

    def __init__(
        self,
        log: Callable[[str], None] = print,
        *,
        signals: Sequence[int] = (signal.SIGTERM,),
        leave: Callable[[], object] = lambda: None,
    ):
        """`signals` stop a run; a second one ends the process at once. `leave` is called before
        the process is ended from here.
        """
        self.requested = threading.Event()
        self.log, self.busy, self.grace, self.leave = log, False, 25.0, leave
        self.signals, self._number = signals, signal.SIGTERM
        self._pipe, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup)
        ignore = lambda *_: None  # noqa: E731  # not the default, which is to die
        self._before = {number: signal.signal(number, ignore) for number in signals}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            while (number := os.read(self._pipe, 1)[0]) not in self.signals:
                pass
            name, self._number = signal.Signals(number).name, number
            if self.requested.is_set():
                self._end(f"{name} again: stopped at once")
            self.requested.set()
            if not self.busy:
                self._end(f"{name}: nothing to save yet; run the same command to start again")
            self.log(f"{name}: saving, at most {self.grace:g} s; a second signal ends it at once")
            timer = threading.Timer(self.grace, self._give_up)
            timer.daemon = True
            timer.start()

    def close(self) -> None:
        """Signals do again what they did before."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, words: str) -> None:
        self.log(words)
        self.leave()
        os._exit(128 + self._number)

    def _give_up(self) -> None:
        self._end("the grace period is over; the next start takes the last checkpoint")


def stop_agreed(first: int, last: int) -> bool:
    """Whether all processes of a job stop after steps [first, last], which each has called.

    A signal to one of them is answered a few steps and about a second later.
    """
    from jax.experimental import multihost_utils

    # JAX chooses one step, the next that no process has asked about, so every one is asked about.
    return any([multihost_utils.reached_preemption_sync_point(s) for s in range(first, last + 1)])


class Watchdog:
    """Ends a process whose job makes no progress: a collective waits for the dead for ever."""

    def __init__(self, patience: float, log: Callable[[str], None]):
        """`patience`: seconds; five times the longest wait so far if that is more."""
        self.patience, self.log, self._over = patience, log, threading.Event()
        self._heard, self._longest = time.monotonic(), 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def hear(self) -> None:
        """Progress; the first call starts the watch."""
        if not self._thread.is_alive() and not self._over.is_set():
            self._heard = time.monotonic()
            self._thread.start()
        self._longest = max(self._longest, time.monotonic() - self._heard)
        self._heard = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.patience / 4)):
            limit = max(self.patience, 5 * self._longest)
            if time.monotonic() - self._heard > limit:
                self.log(
                    f"error: no progress for {limit:.3g} s: another process of this job is gone "
                    "or hangs; the same command goes on from the last checkpoint"
                )
                os._exit(LOST)

    def close(self) -> None:
        """Ends the watch."""
        self._over.set()
