"""Workers on a Ray cluster (the extra `cluster`): one for each place that `--resources` describes.

Ray places actors and starts them again where a node is lost; each actor owns one process of
`python -m sweeps.work`, or, where a place is several hosts, one of the processes of one worker. The
actors are detached: they outlive whoever started them and leave when nothing is left to train.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lm.storage import in_bucket, open_store
from sweeps.dispatch import resources
from sweeps.dispatch.begun import Refused
from sweeps.dispatch.driver import Workers
from sweeps.dispatch.resources import RANK, SLICE, Need

LEFT = (0, 2, 4, 130, 143)  # exit codes after which a worker is not started again
GROW = 10.0  # seconds between looks for new places


class Seat:
    """The actor: one process of a worker, started again until it leaves for good."""

    def __init__(
        self, name: str, rank: int, count: int, words: Sequence[str], environment: Mapping[str, str]
    ):
        """Args:
        name: of the worker's place; its processes are `rank` of `count`.
        words: flags of `sweeps.work`; the first is --workdir=...
        """
        os.environ.update(environment)
        self.name, self.rank, self.count, self.words = name, rank, count, list(words)
        self.store = open_store(self.words[0].partition("=")[2])
        self.process: subprocess.Popen | None = None
        self.stopped = False
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        """Lets the worker save and leave."""
        self.stopped = True
        if self.process is not None:
            self.process.terminate()

    def _serve(self) -> None:
        tries = 0
        while self._work() not in LEFT and not self.stopped:
            tries += 1
            time.sleep(min(60.0, 2.0**tries))
        ray.kill(ray.get_actor(f"{self.name}.{self.rank}"), no_restart=True)

    def _work(self) -> int:
        """The worker's life once; its exit code."""
        node = ray.get_runtime_context().get_node_id()[:12]
        environment = {**os.environ, "BESTIARY_NODE": node, "BESTIARY_TIED": "1"}
        environment |= self._meet() if self.count > 1 else {}
        path = Path(os.environ["BESTIARY_LOGS"])
        with contextlib.suppress(OSError):
            path.mkdir(parents=True, exist_ok=True)
        with open(path / f"{self.name}.{self.rank}.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sweeps.work", *self.words],
                **{"env": environment, "stdout": log, "stderr": subprocess.STDOUT},
            )
        return self.process.wait()

    def _meet(self) -> dict[str, str]:
        """What joins the processes of a worker: the first says where, each time it starts."""
        name = f"orders/{self.name}-address.json"
        if self.rank == 0:
            with socket.socket() as probe:
                probe.bind(("", 0))
                port = probe.getsockname()[1]
            address = f"{ray.util.get_node_ip_address()}:{port}"
            self.store.write_json(name, address)
        else:  # what an earlier first process has said answers no more
            while not _answers(address := self.store.read_json(name)) and not self.stopped:
                time.sleep(1.0)
        numbers = {"JAX_PROCESS_ID": str(self.rank), "JAX_NUM_PROCESSES": str(self.count)}
        return {"JAX_COORDINATOR_ADDRESS": address or "", **numbers}


def _answers(address: str | None) -> bool:
    host, _, port = (address or "").rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port or 0)), timeout=5):
        return True
    return False


class Cluster(Workers):
    """The workers of one workdir."""

    def __init__(self, address: str, text: str, workdir: str, words: Sequence[str]):
        """Connects.

        Args:
          address: of a running cluster; "auto" finds the one this machine belongs to.
          text: `--resources`, what each worker gets.
          words: flags of `sweeps.work`.
        Raises:
          Refused: no cluster answers, or no node ever has what is asked for.
        """
        try:
            self.need = resources.parse(text)
        except ValueError as error:
            raise Refused(str(error)) from None
        bucket = in_bucket(workdir)
        workdir = workdir if bucket else str(Path(workdir).resolve())
        self.logs = f"{tempfile.gettempdir()}/bestiary-logs" if bucket else f"{workdir}/logs"
        how = "--sharded" if self.need.sharded else "--slots=1"
        self.words = [f"--workdir={workdir}", *words, how]
        self.name = "bestiary-" + hashlib.sha256(f"{self.words} {text}".encode()).hexdigest()[:12]
        self.groups, self.asked, self.grown = [], False, -GROW
        _connect(address)
        nodes = ray.nodes()
        if not resources.places(nodes, self.need):
            reason = resources.explain(nodes, self.need)
            raise Refused(f"nothing here can work on this study: {reason}")

    def news(self) -> list[str]:
        """Starts workers on places that have none, now and then."""
        if time.monotonic() - self.grown < GROW or self.asked:
            return []
        self.grown = time.monotonic()
        nodes, new = ray.nodes(), 0
        slices = list(resources.slices(nodes, self.need)) if self.need.topology else []
        for i in range(resources.places(nodes, self.need)):
            try:
                ray.get_actor(f"{self.name}-{i}.0")
            except ValueError:
                self._start(f"{self.name}-{i}", {SLICE: slices[i]} if slices else {})
                new += 1
        return [f"{new} workers are started"] if new else []

    def _start(self, name: str, labels: Mapping[str, str]) -> None:
        need, group = self.need, None
        labels = {**need.labels, **labels}
        if need.hosts > 1:
            rank = lambda i: {RANK: str(i)} if need.topology else {}  # noqa: E731
            group = placement_group(
                [dict(need.each)] * need.hosts,
                strategy="STRICT_SPREAD",
                lifetime="detached",
                bundle_label_selector=[{**labels, **rank(i)} for i in range(need.hosts)],
            )
            self.groups.append(group)
        for rank in range(need.hosts):
            options = _options(need, labels, group, rank)
            options |= {"name": f"{name}.{rank}", "lifetime": "detached", "max_restarts": -1}
            environment = {k: v for k, v in os.environ.items() if k.startswith("BESTIARY_")}
            environment["BESTIARY_LOGS"] = self.logs
            actor = ray.remote(Seat).options(**options)
            actor.remote(name, rank, need.hosts, self.words, environment)

    def ended(self) -> str | None:
        left = f"all workers have left; what they said is in {self.logs} on their nodes"
        return None if self._there() else left

    def _there(self) -> list[str]:
        """Names of the actors that are placed; where none is, of those that wait."""
        placed = [n for n in ray.util.list_named_actors() if n.startswith(self.name)]
        if placed:
            return placed
        waiting = []
        for i in range(max(1, resources.places(ray.nodes(), self.need))):
            with contextlib.suppress(ValueError):
                ray.get_actor(f"{self.name}-{i}.0")
                waiting.append(f"{self.name}-{i}.0")
        return waiting

    def stop(self) -> None:
        for name in self._there():
            with contextlib.suppress(ValueError, ray.exceptions.RayError):
                actor = ray.get_actor(name)
                ray.kill(actor) if self.asked else actor.stop.remote()
        self.asked = True

    def close(self) -> None:
        """Leaves; the workers go on."""
        if not self._there():
            for group in self.groups:
                with contextlib.suppress(ValueError):
                    remove_placement_group(group)
        ray.shutdown()


def _options(need: Need, labels: Mapping[str, str], group, rank: int) -> dict:
    each = dict(need.each)
    options = {"num_cpus": each.pop("CPU", 0), "num_gpus": each.pop("GPU", 0)}
    if "memory" in each:
        options["memory"] = each.pop("memory")
    if group is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=rank
        )
    elif labels:
        options["label_selector"] = dict(labels)
    return {**options, "resources": each, "max_concurrency": 4}


def _connect(address: str) -> None:
    """Joins a cluster, quietly: what Ray still prints is what its daemons say about lost nodes."""
    if ray.is_initialized():
        ray.shutdown()
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "namespace": "bestiary"}
    if address == "local":
        quiet["include_dashboard"] = False
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Refused(f"no Ray cluster answers at {address}: {reason}") from None
