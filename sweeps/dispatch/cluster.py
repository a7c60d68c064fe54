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
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lm.storage import open_store
from sweeps.dispatch import resources
from sweeps.dispatch.accidents import Refused
from sweeps.dispatch.resources import RANK, SLICE, Need

LEFT = (0, 2, 4, 130, 143)  # exit codes after which a worker is not started again


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
        node, tries = ray.get_runtime_context().get_node_id()[:12], 0
        path = Path(os.environ.get("BESTIARY_LOGS", "."))
        while True:
            environment = {**os.environ, "BESTIARY_NODE": node, "BESTIARY_TIED": "1"}
            environment |= self._meet(tries) if self.count > 1 else {}
            with contextlib.suppress(OSError):
                path.mkdir(parents=True, exist_ok=True)
            with open(path / f"{self.name}.{self.rank}.log", "ab") as log:
                command = [sys.executable, "-m", "sweeps.work", *self.words]
                self.process = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            code = self.process.wait()
            if self.stopped or code in LEFT:
                ray.kill(ray.get_actor(f"{self.name}.{self.rank}"), no_restart=True)
                return
            tries += 1
            time.sleep(min(60.0, 2.0**tries))

    def _meet(self, tries: int) -> dict[str, str]:
        """What joins the processes of a worker; the first says anew where, each time it starts."""
        name = f"orders/{self.name}-address.json"
        if self.rank == 0:
            with socket.socket() as probe:
                probe.bind(("", 0))
                port = probe.getsockname()[1]
            address = f"{ray.util.get_node_ip_address()}:{port}"
            self.store.write_json(name, address)
            self.address = address
        else:
            before = getattr(self, "address", None)
            while (address := self.store.read_json(name)) in (None, before):
                time.sleep(1.0)
            self.address = address
        numbers = {"JAX_PROCESS_ID": str(self.rank), "JAX_NUM_PROCESSES": str(self.count)}
        return {"JAX_COORDINATOR_ADDRESS": address, **numbers}


class Cluster:
    """The workers of one workdir."""

    def __init__(self, address: str, text: str, words: Sequence[str], logs: str):
        """Connects.

        Args:
          address: of a running cluster; "auto" finds the one this machine belongs to.
          text: `--resources`, what each worker gets.
          words: flags of `sweeps.work`; the first is --workdir=...
          logs: the folder for what workers print, on each node.
        Raises:
          Refused: no cluster answers, or no node ever has what is asked for.
        """
        try:
            self.need = resources.parse(text)
        except ValueError as error:
            raise Refused(str(error)) from None
        self.words = [*words, "--sharded" if self.need.sharded else "--slots=1"]
        self.name = "bestiary-" + hashlib.sha256(f"{self.words} {text}".encode()).hexdigest()[:12]
        self.logs, self.groups = logs, []
        _connect(address)
        nodes = ray.nodes()
        if not resources.places(nodes, self.need):
            reason = resources.explain(nodes, self.need)
            raise Refused(f"nothing here can work on this study: {reason}")

    def grow(self) -> int:
        """Starts workers on places that have none; returns how many are new."""
        nodes, new = ray.nodes(), 0
        slices = list(resources.slices(nodes, self.need)) if self.need.topology else []
        for i in range(resources.places(nodes, self.need)):
            try:
                ray.get_actor(f"{self.name}-{i}.0")
            except ValueError:
                self._start(f"{self.name}-{i}", {SLICE: slices[i]} if slices else {})
                new += 1
        return new

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

    def alive(self) -> bool:
        """Whether any worker is still there, or waits for its place."""
        return bool(self._there())

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

    def stop(self, *, at_once: bool = False) -> None:
        """Lets all workers save and leave, or ends them."""
        for name in self._there():
            with contextlib.suppress(ValueError, ray.exceptions.RayError):
                actor = ray.get_actor(name)
                ray.kill(actor) if at_once else actor.stop.remote()

    def close(self) -> None:
        """Leaves; the workers go on."""
        if not self.alive():
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
