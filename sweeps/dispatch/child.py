"""The other end of `sweeps.dispatch.local.Children`: packs come, results go, as lines of JSON.

    python -m sweeps.dispatch.child TRAINER THREADS SLOT SOURCES

It is started by a worker, and ends with it. The worker holds the right to the trials and puts their
results; training here goes on when it says that one is put.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from lm.run.stopping import Termination
from sweeps.dispatch.local import run_pack
from sweeps.dispatch.right import LOST, Lost

SIGNS = 0.5  # seconds between signs of life


class Remote:
    """The worker's right, from here."""

    def __init__(self, answers: int, orders: queue.SimpleQueue):
        self.answers, self.orders, self.told = answers, orders, 0.0

    def say(self, **words: object) -> None:
        self.told = time.monotonic()
        line = json.dumps(words).encode() + b"\n"
        while line:
            line = line[os.write(self.answers, line) :]

    def hear(self) -> None:
        if time.monotonic() - self.told > SIGNS:
            self.say(alive=True)

    def finish(self, name: str, result: Mapping) -> None:
        self.say(name=name, result=dict(result))
        error = json.loads(self.orders.get())["put"]
        if error and error[0] == LOST:
            raise Lost(error[1])
        if error:
            raise OSError(*error)


def main() -> None:
    trainer, threads, slot, sources = sys.argv[1:]
    _stay_on(int(threads), int(slot))
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever training prints goes to the log
    termination = Termination()
    if Path(sources).is_dir():
        from optim import plugins

        plugins.look_in(sources)
    orders: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    right = Remote(answers, orders)
    while True:
        order = json.loads(orders.get())
        right.say(started=True)
        words = {"right": right, "termination": termination}
        report = run_pack(trainer, order["configs"], order["folders"], **words)
        right.say(report=report)


def _stay_on(threads: int, slot: int) -> None:
    """Keeps this child to its own cores; XLA sizes its thread pool by them."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[(slot * threads + i) % len(cores)] for i in range(threads)})


def _listen(orders: queue.SimpleQueue) -> None:
    """Ends this process at once when its worker is gone, even by kill -9, so that nothing trains
    twice.
    """
    for line in sys.stdin:
        orders.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()
