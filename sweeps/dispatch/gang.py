"""The seats that run one pack at a time on a Ray cluster, one per host; all of them or none."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sweeps.dispatch.executor import Report
from sweeps.dispatch.resources import RANK, Need
from sweeps.dispatch.seat import Seat

ANSWER = 60.0  # seconds a living seat may take to answer a new driver
SILENCE = 300.0  # seconds after which a placed seat that says nothing counts as dead
SETTLE = 3.0  # seconds in which the cause of a gang's end becomes known
WORST = ("preempted", "disk", "memory", "killed", "timeout", "failed", None)  # the cause first


def connect(address: str, namespace: str) -> None:
    """Joins a cluster, quietly: what Ray still prints is what its daemons say about lost nodes.

    Raises:
      ConnectionError: there is none at the address.
    """
    if ray.is_initialized():
        ray.shutdown()
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        quiet["include_dashboard"] = False
    try:
        ray.init(address=address, namespace=namespace, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(f"no Ray cluster answers at {address}: {reason}") from None


def namespace() -> str:
    return ray.get_runtime_context().namespace


class Gang:
    """Handles of the seats. `whole` while all of them can take another pack."""

    def __init__(self, name: str, seats: list, group=None):
        self.name, self.seats, self.group, self.whole = name, seats, group, True
        self.answers = [seat.where.remote() for seat in seats]
        self.starts: list = []
        self.places: dict[int, tuple[str, str]] = {}
        self.idle_since = time.monotonic()

    @classmethod
    def gather(
        cls, name: str, need: Need, labels: Mapping[str, str], trainer: str, log_folder: Path
    ) -> Gang:
        """A new gang; Ray places its seats, all at once, when their resources are free."""
        group = None
        if need.hosts > 1:
            group = placement_group(
                [dict(need.each)] * need.hosts,
                strategy="STRICT_SPREAD",
                lifetime="detached",
                name=f"{namespace()}/{name}",
                bundle_label_selector=[
                    {**labels, **({RANK: str(i)} if need.topology else {})}
                    for i in range(need.hosts)
                ],
            )
        return cls(
            name,
            [_seat(name, i, need, labels, trainer, log_folder, group) for i in range(need.hosts)],
            group,
        )

    def send(self, pack: Mapping) -> None:
        """Starts a pack {name, configs, folders, timeout}."""
        first = self.answers[0] if len(self.seats) > 1 else None
        self.starts = [
            seat.train.remote(pack, first, rank, len(self.seats))
            for rank, seat in enumerate(self.seats)
        ]
        self.follow(pack["name"])

    def follow(self, pack_name: str) -> None:
        """Watches a pack that was started, by this driver or one before it."""
        self.pack_name, self.reports, self.ended = pack_name, {}, 0.0
        self.waits = [seat.wait.remote(pack_name, 30.0) for seat in self.seats]
        self.heard = time.monotonic()

    def nodes(self) -> set[str]:
        """The nodes of the seats that are placed by now."""
        for rank, answer in enumerate(self.answers):
            if rank not in self.places and _came_back(answer):
                self.places[rank] = ray.get(answer)
        return {node for node, _ in self.places.values()}

    def placed(self) -> bool:
        return bool(self.nodes()) and len(self.places) == len(self.seats)

    def poll(self, alive: set[str]) -> Report | None:
        """The end of the pack, None while it runs; `alive` are the nodes that are."""
        for rank, seat in enumerate(self.seats):
            if rank not in self.reports and ray.wait([self.waits[rank]], timeout=0)[0]:
                self.heard = time.monotonic()
                report = self._answer(rank, alive)
                if report is None:
                    self.waits[rank] = seat.wait.remote(self.pack_name, 30.0)
                else:
                    self.reports[rank] = report
        if not self.reports:
            if not self.placed() or time.monotonic() - self.heard < SILENCE:
                return None
            self.reports[0] = Report("killed", f"its host has been silent for {SILENCE:g} s")
            self.whole = False
        self.ended = self.ended or time.monotonic()
        if len(self.reports) < len(self.seats):
            # One death takes the others down; the first to be heard of need not be the cause.
            # When all is well the first seat, which writes, may take its time.
            good = all(report.cause is None for report in self.reports.values())
            patience = SETTLE if not good else ANSWER if 0 in self.reports else float("inf")
            if time.monotonic() - self.ended < patience:
                return None
            self.whole = False
        worst = min(self.reports.values(), key=lambda report: WORST.index(report.cause))
        self.whole &= worst.cause is None or len(self.seats) == 1
        self.idle_since = time.monotonic()
        return worst

    def _answer(self, rank: int, alive: set[str]) -> Report | None:
        try:
            answer = ray.get(self.waits[rank])
            return None if answer is None else Report(*answer)
        except ray.exceptions.ActorUnavailableError:
            return None  # dead perhaps, but not known to be
        except ray.exceptions.RayActorError as error:
            self.whole, message = False, str(error)
        self.nodes()
        node = self.places.get(rank, ("", ""))[0]
        if (node and node not in alive) or "node has died" in message or "node was" in message:
            return Report("preempted", f"node {node[:12] or '?'} is gone")
        if self.starts and not _came_back(self.starts[rank]):
            return Report("preempted", "its worker was gone before it began")
        if "running low on memory" in message:  # Ray's memory monitor
            return Report("memory", "Ray ended it because its node ran out of memory")
        return Report("killed", "the actor of its worker was killed")

    def kill(self) -> None:
        for seat in self.seats:
            with contextlib.suppress(Exception):  # it may be dead, or Ray gone
                ray.kill(seat)
        if self.group is not None:
            with contextlib.suppress(Exception):
                remove_placement_group(self.group)

    def under_way(self) -> dict | None:
        """The pack that is running."""
        answers = ray.get([seat.under_way.remote() for seat in self.seats], timeout=ANSWER)
        return next((pack for pack in answers if pack is not None), None)


def _came_back(call) -> bool:
    """Whether a call of a seat has returned; not so while it waits, nor after the seat died."""
    if not ray.wait([call], timeout=0)[0]:
        return False
    try:
        ray.get(call)
        return True
    except ray.exceptions.RayError:
        return False


def _seat(name, rank, need, labels, trainer, log_folder, group):
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
    full = f"{name}.{rank}.{need.hosts}"
    options |= {"name": full, "lifetime": "detached", "max_concurrency": 8, "resources": each}
    environment = {k: v for k, v in os.environ.items() if k.startswith("BESTIARY_")}
    return ray.remote(Seat).options(**options).remote(trainer, str(log_folder / full), environment)


def left_behind() -> list[Gang]:
    """The gangs of an earlier driver that are still whole; what is left of others is removed."""
    found: dict[str, dict[int, str]] = {}
    for full in ray.util.list_named_actors():
        name, rank, _ = full.rsplit(".", 2)
        found.setdefault(name, {})[int(rank)] = full
    gangs = []
    for name, seats in found.items():
        count = int(next(iter(seats.values())).rsplit(".", 1)[1])
        try:
            actors = [ray.get_actor(seats[rank]) for rank in range(count)]
            group = get_placement_group(f"{namespace()}/{name}") if count > 1 else None
            gang = Gang(name, actors, group)
            ray.get(gang.answers, timeout=ANSWER)
            gangs.append(gang)
        except (KeyError, ValueError, ray.exceptions.RayError):
            _remove(name, seats)
    for entry in placement_group_table().values():
        owner, _, name = entry["name"].partition("/")
        if owner == namespace() and name not in found and entry["state"] != "REMOVED":
            _remove(name, {})
    return gangs


def _remove(name: str, seats: Mapping[int, str]) -> None:
    for full in seats.values():
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(full))
    with contextlib.suppress(ValueError):
        remove_placement_group(get_placement_group(f"{namespace()}/{name}"))
