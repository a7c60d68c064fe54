"""One worker over all hosts of a slice: the first process plans and claims, the others follow it.

Every host runs the same `python -m sweeps.work --sharded`; `jax.distributed` joins the processes as
it does for one run (docs/launch.md). What the first is about to train stands in the store, in
`orders/<job>`, numbered; the others look there. When one process is gone, JAX ends the others.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from lm.run import mesh
from lm.run.records import Right
from lm.run.stopping import Stopped, Termination
from lm.storage import Store
from lm.train import prepare_cpu, train_one

LOOK = 1.0  # seconds between looks at the store
TRAINER = "sweeps.dispatch.hosts:train"
_job: Job | None = None


class Job:
    """The processes of one worker, joined."""

    def __init__(self, store: Store, log: Callable):
        prepare_cpu()
        mesh.start(log)
        mine = np.frombuffer(uuid.uuid4().bytes, np.uint8)
        name = multihost_utils.broadcast_one_to_all(mine) if jax.process_count() > 1 else mine
        self.store, self.log, self.number = store, log, 0
        self.first = jax.process_index() == 0
        self.orders = f"orders/{np.asarray(name, np.uint8).tobytes().hex()}.json"

    def tell(self, **order: object) -> None:
        self.number += 1
        if jax.process_count() > 1:
            self.store.write_json(self.orders, {"number": self.number, **order})

    def leave(self) -> None:
        """The worker is over: the others may go."""
        self.tell(leave=True)

    def follow(self) -> bool:
        """A process other than the first: trains what it is told until it may go.

        Returns:
          False where the worker was stopped before the end.
        """
        while True:
            order = self.store.read_json(self.orders) or {"number": 0}
            if order["number"] <= self.number:
                time.sleep(LOOK)
                continue
            self.number = order["number"]
            if "leave" in order:
                return True
            try:
                train_one(order["config"], order["folder"], log=self.log)
            except Stopped as stopped:
                self.log(str(stopped))
                return False


def join(store: Store, log: Callable) -> Job:
    """This process becomes part of the job that the environment describes."""
    global _job
    _job = Job(store, log)
    return _job


def train(
    configs: Sequence[Mapping],
    folders: Sequence[str],
    *,
    log: Callable,
    right: Right,
    termination: Termination,
) -> None:
    """A trainer, in the first process: the runs one after the other over all devices of all hosts.

    Which they are, the others read in the store; they must see each order before the next.
    """
    for config, folder in zip(configs, folders, strict=True):
        _job.tell(config=dict(config), folder=str(folder))
        train_one(config, folder, log=log, termination=termination, right=right)
