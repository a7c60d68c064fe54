"""SIGTERM from a scheduler: save and leave within the grace period, whatever the process is doing.

Python runs signal handlers between bytecodes of the main thread, so a handler alone would wait for
a compilation of minutes. A thread of its own receives the signal. While there is a training state,
the loop sees the request at its next call and saves; before that (data, start, compilation) there
is nothing to save, and the thread ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


class Stopped(Exception):
    """The run was asked to stop and has saved; the next start goes on from there."""


class Termination:
    """Watches for SIGTERM from its creation on; create it before anything slow."""

    def __init__(self, log: Callable[[str], None] = print):
        self.requested = threading.Event()
        self.log, self.busy, self.grace = log, False, 25.0
        self._pipe, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, lambda *_: None)  # not the default, which is to die
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while os.read(self._pipe, 1)[0] != signal.SIGTERM:
            pass
        self.requested.set()
        if not self.busy:
            self.log("SIGTERM: nothing to save yet; run the same command to start again")
            os._exit(0)
        self.log(f"SIGTERM: saving, at most {self.grace:g} s")
        timer = threading.Timer(self.grace, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        self.log("SIGTERM: the grace period is over; the next start takes the last checkpoint")
        os._exit(0)
