"""The other end of `sweeps.dispatch.local.Children`: packs come through a pipe, results go back.

    python -m sweeps.dispatch.child TRAINER THREADS SLOT SOURCES PIPE

It is started by a worker, and ends with it. The worker holds the right to the trials and puts their
results; training here goes on when it says that one is put.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from lm.run.stopping import Termination
from sweeps.dispatch.local import run_pack

SIGNS = 0.5  # seconds between signs of life


class Remote:
    """The worker's right, from here."""

    def __init__(self, pipe: Connection, orders: queue.SimpleQueue):
        self.pipe, self.orders, self.told = pipe, orders, 0.0

    def say(self, **words: object) -> None:
        self.told = time.monotonic()
        self.pipe.send(words)

    def hear(self) -> None:
        if time.monotonic() - self.told > SIGNS:
            self.say(alive=True)

    def finish(self, name: str, result: Mapping) -> None:
        self.say(name=name, result=dict(result))
        if error := self.orders.get():
            raise error


def main() -> None:
    trainer, threads, slot, sources, number = sys.argv[1:]
    _stay_on(int(threads), int(slot))
    pipe, orders = Connection(int(number)), queue.SimpleQueue()
    termination = Termination()
    if Path(sources).is_dir():
        from optim import plugins

        plugins.look_in(sources)
    threading.Thread(target=_listen, args=(pipe, orders), daemon=True).start()
    right = Remote(pipe, orders)
    while True:
        configs, folders = orders.get()
        right.say(started=True)
        words = {"right": right, "termination": termination}
        right.say(report=run_pack(trainer, configs, folders, **words))


def _stay_on(threads: int, slot: int) -> None:
    """Keeps this child to its own cores; XLA sizes its thread pool by them."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[(slot * threads + i) % len(cores)] for i in range(threads)})


def _listen(pipe: Connection, orders: queue.SimpleQueue) -> None:
    """Ends this process at once when its worker is gone, even by kill -9, so that nothing trains
    twice.
    """
    try:
        while True:
            orders.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)


if __name__ == "__main__":
    main()
