"""One host's part in running packs on a Ray cluster: an actor that owns a worker process.

A seat is a detached actor: it outlives its driver, finishes the pack it has, and leaves when no
driver has asked for anything in `PATIENCE` seconds. It holds no truth: the next driver takes it
over, or plans from the result files.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sweeps.dispatch.local import Workers

SHARDED = "sweeps.dispatch.seat:train_sharded"
PATIENCE = 120.0  # seconds an idle seat waits for a driver


class Seat:
    """The actor. Its calls return at once, except `wait`, which takes the time it is given."""

    def __init__(self, trainer: str, log_folder: str, environment: Mapping[str, str]):
        os.environ.update(environment)
        self.patience = float(environment.get("BESTIARY_PATIENCE", PATIENCE))
        self.workers = Workers(
            1, trainer=trainer, log_folder=Path(log_folder), threads=len(os.sched_getaffinity(0))
        )
        self.orders: queue.SimpleQueue = queue.SimpleQueue()
        self.pack: dict | None = None  # what is under way
        self.reports: dict[str, tuple] = {}  # by pack
        self.news, self.heard = threading.Condition(), time.monotonic()
        threading.Thread(target=self._serve, daemon=True).start()

    def where(self) -> tuple[str, str]:
        """(node id, host:port that a gang may meet at)."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        context = ray.get_runtime_context()
        return context.get_node_id(), f"{ray.util.get_node_ip_address()}:{port}"

    def train(
        self, pack: Mapping, first: tuple[str, str] | None = None, rank: int = 0, count: int = 1
    ) -> None:
        """Starts a pack {name, configs, folders, timeout}.

        In a gang of `count`, `first` is what the first seat says to `where`.
        """
        if count > 1:
            os.environ["JAX_COORDINATOR_ADDRESS"] = first[1]
            os.environ.update(JAX_PROCESS_ID=str(rank), JAX_NUM_PROCESSES=str(count))
        self.heard, self.pack = time.monotonic(), dict(pack)
        self.orders.put(self.pack)

    def wait(self, name: str, seconds: float) -> tuple | None:
        """The report of the pack of that name, None if it is not over within so many seconds."""
        self.heard = time.monotonic() + seconds
        with self.news:
            self.news.wait_for(lambda: name in self.reports, seconds)
        return self.reports.get(name)

    def under_way(self) -> dict | None:
        """The pack that is running, for a driver that takes over."""
        self.heard = time.monotonic()
        return self.pack

    def _serve(self) -> None:
        while True:
            try:
                pack = self.orders.get(timeout=1.0)
            except queue.Empty:
                if self.pack is None and time.monotonic() - self.heard > self.patience:
                    self._leave()
                continue
            name, configs, folders = pack["name"], pack["configs"], pack["folders"]
            handle = self.workers.start(configs, folders, timeout=pack["timeout"])
            while (report := self.workers.poll(handle)) is None:
                time.sleep(0.05)
            with self.news:
                self.reports, self.pack, self.heard = {name: tuple(report)}, None, time.monotonic()
                self.news.notify_all()

    def _leave(self) -> None:
        """Gives the resources back; a gang's reservation goes with its first idle seat."""
        import ray

        self.workers.close()
        if group := ray.util.get_current_placement_group():
            ray.util.remove_placement_group(group)
        os._exit(0)


def train_sharded(configs: Sequence[Mapping], folders: Sequence[Path], *, log=print) -> list[dict]:
    """A trainer of runs that take all devices of a gang of hosts (or of one), one after the other.

    Every process of the gang calls it with the same runs; the first process writes.
    """
    import jax

    from lm.run import mesh
    from lm.train import prepare_cpu, train_one

    if not jax.distributed.is_initialized():
        mesh.start(log)
    prepare_cpu()
    return [
        train_one(config, Path(folder), log=log)
        for config, folder in zip(configs, folders, strict=True)
    ]
