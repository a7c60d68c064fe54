"""The other end of `sweeps.dispatch.local.Workers`: packs come and reports go as lines of JSON.

    python -m sweeps.dispatch.worker TRAINER THREADS SLOT

It is started by whoever has the packs, and ends with it.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import sys
import threading

from sweeps.dispatch import lease
from sweeps.dispatch.executor import Report
from sweeps.dispatch.local import STARTED, run_pack


def main() -> None:
    name, threads, slot = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    _stay_on(threads, slot)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever training prints goes to the log
    orders: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        order = json.loads(orders.get())
        os.write(answers, STARTED + b"\n")
        report = _train(name, order["configs"], order["folders"])
        os.write(answers, json.dumps(report._asdict()).encode() + b"\n")


def _train(name: str, configs: list, folders: list) -> Report:
    """Trains what is not finished under the trials' leases; a gang's first process holds them."""
    if os.environ.get("JAX_PROCESS_ID", "0") != "0":
        return run_pack(name, configs, folders)
    try:
        with lease.held(folders) as needed:
            pairs = zip(configs, folders, needed, strict=True)
            left = [(config, folder) for config, folder, need in pairs if need]
            return run_pack(name, *zip(*left, strict=True)) if left else Report()
    except OSError as error:
        return Report("disk" if error.errno == errno.ENOSPC else "failed", str(error))


def _stay_on(threads: int, slot: int) -> None:
    """Keeps this worker to its own cores; XLA sizes its thread pool by them."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[(slot * threads + i) % len(cores)] for i in range(threads)})


def _listen(orders: queue.SimpleQueue) -> None:
    """Ends this process at once when its driver is gone, even by kill -9, so that nothing trains
    twice.
    """
    for line in sys.stdin:
        orders.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()
