"""Packs on a Ray cluster (the extra `cluster`): one GPU, one host, several hosts or one TPU slice
each.

Ray places seats (`sweeps.dispatch.seat`) and tells when they die; that is all it is used for.
Results, leases and logs are files of the workdir, which all nodes must share.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeps.dispatch import gang as gangs
from sweeps.dispatch import resources
from sweeps.dispatch.executor import Executor, Report
from sweeps.dispatch.gang import Gang, ray
from sweeps.dispatch.local import TRAINER
from sweeps.dispatch.quarantine import Quarantine
from sweeps.dispatch.resources import SLICE, Need
from sweeps.dispatch.seat import SHARDED

SPARE = 30.0  # seconds after which an idle gang gives its resources back
RETURN = 900.0  # seconds to wait for nodes when all that could run a pack are gone
ELSEWHERE = (
    "failed",
    "killed",
    "memory",
)  # causes for which a single trial is tried on another node


@dataclass(eq=False)
class Job:
    """A pack under way: the handle."""

    pack: dict
    gang: Gang | None = None  # None while it waits for a place
    avoid: set[str] = field(default_factory=set)
    first: Report | None = None  # what it ended with on the nodes to avoid

    def trials(self) -> list[str]:
        return [Path(folder).name for folder in self.pack["folders"]]


class Ray(Executor):
    """The executor. The seats of a driver before this one are taken over by `adopt`."""

    def __init__(
        self,
        address: str,
        need: Need,
        *,
        workdir: Path,
        trainer: str = TRAINER,
        log: Callable[[str], Any] = print,
        patience: float = RETURN,
    ):
        """Connects.

        Args:
          address: of a running cluster; "auto" finds the one this machine belongs to.
          need: what each pack gets.
          workdir: names the study in the cluster; the same path on every node.
          patience: seconds to wait for nodes to return when none is left.
        Raises:
          ConnectionError: no cluster answers.
        """
        self.need, self.workdir, self.log = need, Path(workdir).resolve(), log
        self.trainer = SHARDED if need.sharded and trainer == TRAINER else trainer
        self.widest = 1 if need.sharded else Executor.widest
        self.patience, self.quarantine = patience, Quarantine()
        self.kind = _digest(f"{need!r} {self.trainer}")
        self.jobs: list[Job] = []
        self.idle: list[Gang] = []
        self.known, self.looked, self.ran = [], 0.0, False
        gangs.connect(address, f"bestiary-{_digest(str(self.workdir))}")

    def capacity(self) -> int:
        self._release()
        for job in self.jobs:
            self._place(job)
        free = resources.places(self.nodes(), self.need) - len(self.jobs)
        return max(free, 0 if self.jobs else 1)  # with nothing under way, `start` says why not

    def start(self, configs: Sequence[dict], folders: Sequence[Path], *, timeout: float) -> Job:
        self._await_nodes()
        absolute = [str(Path(folder).resolve()) for folder in folders]
        pack = {"configs": list(configs), "folders": absolute, "timeout": timeout}
        job = Job({"name": uuid.uuid4().hex, **pack})
        self.jobs.append(job)
        self._place(job)
        return job

    def poll(self, handle: Job) -> Report | None:
        job = handle
        self._release()
        self._place(job)
        if job.gang is None:
            report = job.first if job.first and not self._elsewhere(job.avoid) else None
        else:
            report = self._ended(job)
        if report is not None:
            self.jobs.remove(job)
        return report

    def cancel(self, handle: Job) -> None:
        if handle.gang is not None:
            handle.gang.kill()
        self.jobs.remove(handle)

    def close(self) -> None:
        for gang in [*self.idle, *(job.gang for job in self.jobs if job.gang)]:
            gang.kill()
        self.idle, self.jobs = [], []
        ray.shutdown()

    def adopt(self) -> Iterator[tuple[list[dict], Job]]:
        """(configs, handle) of the packs that a driver before this one left running."""
        for gang in gangs.left_behind():
            pack, mine = gang.under_way(), gang.name.startswith(self.kind)
            if pack is not None:
                gang.follow(pack["name"])
                gang.whole &= mine
                self.jobs.append(Job(pack, gang))
                yield pack["configs"], self.jobs[-1]
            elif mine:
                self.idle.append(gang)
            else:
                gang.kill()

    def nodes(self) -> list[dict]:
        """Ray's nodes without those in quarantine, at most a second old."""
        if time.monotonic() - self.looked > 1.0:
            self.known, self.looked = ray.nodes(), time.monotonic()
        good = [n for n in self.known if n["NodeID"] not in self.quarantine.bad]
        return good if resources.places(good, self.need) else self.known  # the last ones may stay

    def _alive(self) -> set[str]:
        return {node["NodeID"] for node in self.nodes() if node["Alive"]}

    def _elsewhere(self, nodes: set[str]) -> bool:
        others = [node for node in self.nodes() if node["NodeID"] not in nodes]
        return resources.places(others, self.need) > 0

    def _await_nodes(self) -> None:
        """Returns when some node can run a pack.

        Raises:
          ValueError: none ever could, or none has come back.
        """
        end, told = time.monotonic() + self.patience, False
        while not resources.places(self.nodes(), self.need):
            if not self.ran or time.monotonic() > end:
                raise ValueError(resources.explain(self.nodes(), self.need))
            if not told:
                self.log(f"no node is left for this; waiting for one, at most {self.patience:g} s")
            told = True
            time.sleep(1.0)
        self.ran = True

    def _release(self) -> None:
        """Ends gangs that have been idle for long or have lost a node."""
        for gang in list(self.idle):
            if time.monotonic() - gang.idle_since > SPARE or not gang.nodes() <= self._alive():
                self.idle.remove(gang)
                gang.kill()

    def _place(self, job: Job) -> None:
        """Gives the job an idle gang or a new one; without a place for it, it goes on waiting.

        A gang that Ray has not placed may wait for ever where a node was lost, for there are more
        gangs than places then: its job takes an idle one instead.
        """
        if job.gang and job.gang.nodes():
            return
        held = [other.gang for other in self.jobs if other.gang] + self.idle
        if job.gang and len(held) <= resources.places(self.nodes(), self.need):
            return
        avoid, alive = job.avoid | self.quarantine.bad, self._alive()
        for gang in self.idle:
            if gang.nodes() <= alive - avoid:
                self.idle.remove(gang)
                if job.gang:
                    job.gang.kill()
                job.gang = gang
                break
        else:
            if job.gang:
                return
            usable = [node for node in self.nodes() if node["NodeID"] not in avoid]
            if resources.places(usable, self.need) <= sum(not g.nodes() & avoid for g in held):
                return
            name, folder = f"{self.kind}-{uuid.uuid4().hex[:12]}", self.workdir / "logs"
            labels = self._labels(usable, avoid)
            job.gang = Gang.gather(name, self.need, labels, self.trainer, folder)
        job.gang.send(job.pack)

    def _labels(self, nodes: Sequence[dict], avoid: set[str]) -> dict[str, str]:
        """What Ray must look for in the hosts of a new gang."""
        labels = dict(self.need.labels)
        if avoid:
            labels["ray.io/node-id"] = f"!in({','.join(sorted(avoid))})"
        if self.need.topology and self.need.hosts > 1:
            taken = {node for job in self.jobs if job.gang for node in job.gang.nodes()}
            whole = resources.slices(nodes, self.need)
            free = [k for k, hosts in whole.items() if not taken & {n["NodeID"] for n in hosts}]
            labels[SLICE] = (free or list(whole))[0]
        return labels

    def _ended(self, job: Job) -> Report | None:
        """The report of a placed job that is over, unless another node is to try it."""
        report = job.gang.poll(self._alive())
        lost = not resources.places(self.nodes(), self.need) and not job.gang.placed()
        if report is None and lost:
            report = Report("preempted", "the nodes it was to run on are gone")
            job.gang.whole = False
        if report is None:
            return None
        gang, nodes = job.gang, job.gang.nodes()
        job.gang, report = None, report._replace(where=" ".join(sorted(nodes)))
        if gang.whole:
            self.idle.append(gang)
        else:
            gang.kill()
        if report.cause is None:
            for node in self.quarantine.finished(nodes, job.trials()):
                self.log(f"node {node[:12]} gets no more packs: what died there ran elsewhere")
        elif report.cause in ELSEWHERE:
            self.quarantine.failed(nodes, job.trials())
            if job.first is None and len(job.trials()) == 1 and self._elsewhere(nodes):
                job.first, job.avoid = report, nodes
                self._place(job)
                return None
        return report


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
