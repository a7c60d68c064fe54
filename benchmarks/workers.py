"""Ten thousand trials by 10 to 1,000 workers, in simulated time: what planning together costs.

    python -m benchmarks.workers --trials=10000 --workers=10,100,1000

The planner, the ledger with its index, claims and the worker's own loop are the real ones; the
store is in memory and counts its requests, each of which takes 50 ms of simulated time, and
trainers sleep in simulated time. One process, no clock.
"""

from __future__ import annotations

import argparse
import collections
import heapq
import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from lm.config import what
from lm.storage.store import Kept, Store, encode
from sweeps.dispatch import accidents, right, worker
from sweeps.dispatch.executor import Executor, Report
from sweeps.plan import config, phases
from sweeps.plan.study import Study

REQUEST = 0.05  # seconds of an answer of an object store
TRAINING = 600.0  # seconds of a pack; half to one and a half times as much


class Clock:
    """The simulation's time, in the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class Memory(Store):
    """A bucket in memory: versions are numbers; every request is counted and takes its time."""

    def __init__(self, clock: Clock):
        self.address, self.clock = "s3://simulated", clock
        self.objects: dict[str, Kept] = {}
        self.folders: dict[str, dict[str, str]] = collections.defaultdict(dict)
        self.counts: collections.Counter = collections.Counter()
        self.lost: collections.Counter = collections.Counter()  # conditional puts, by folder
        self.numbers = itertools.count(1)

    def _ask(self, kind: str) -> None:
        self.counts[kind] += 1
        self.clock.sleep(REQUEST)

    def _put(self, name: str, content: bytes) -> str:
        version = str(next(self.numbers))
        folder, _, last = name.rpartition("/")
        self.objects[name] = Kept(content, version)
        self.folders[folder][last] = version
        return version

    def read(self, name: str) -> bytes | None:
        kept = self.get(name)
        return kept and kept.content

    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        before = self.clock.now
        found = [self.read(name) for name in names]
        self.clock.now = before + REQUEST * -(-len(names) // 32)
        return found

    def read_part(self, name: str, start: int, length: int) -> bytes | None:
        raise NotImplementedError

    def write(self, name: str, content: bytes) -> None:
        self._ask("put")
        self._put(name, content)

    def create(self, name: str, content: bytes) -> str | None:
        return self.swap(name, content, None)

    def delete(self, name: str) -> None:
        self._ask("delete")
        folder, _, last = name.rpartition("/")
        self.objects.pop(name, None)
        self.folders[folder].pop(last, None)

    def list(self, folder: str, since: str = "") -> dict[str, str]:
        found = {k: v for k, v in sorted(self.folders[folder].items()) if k > since}
        for _ in range(1 + len(found) // 1000):
            self._ask("list")
        return found

    def find(self, folder: str, last: str) -> dict[str, str]:
        found = {}
        for name, kept in self.objects.items():
            words = name.split("/")
            if words[0] == folder and words[-1] == last:
                found[words[1]] = kept.version
        self._ask("list")
        return found

    def get(self, name: str) -> Kept | None:
        self._ask("get")
        return self.objects.get(name)

    def swap(self, name: str, content: bytes, version: str | None) -> str | None:
        self._ask("put")
        kept = self.objects.get(name)
        if (kept and kept.version) != version:
            self.lost[name.partition("/")[0]] += 1
            return None
        return self._put(name, content)


class Sleeping(Executor):
    """Packs that end after a while with losses from a formula."""

    def __init__(self, clock: Clock, rng: random.Random, losses: Any):
        self.clock, self.rng, self.loss = clock, rng, losses
        self.end: float | None = None

    def capacity(self) -> int:
        return 1 if self.end is None else 0

    def start(self, configs: Sequence[dict], folders: Sequence[str], *, timeout: float) -> tuple:
        self.end = self.clock.now + TRAINING * (0.5 + self.rng.random())
        return configs, folders

    def poll(self, handle: tuple) -> Report | None:
        if self.clock.now < self.end:
            return None
        for run, folder in zip(*handle, strict=True):
            name = folder.rpartition("/")[2]
            result = {"hash": name, "status": "finished", "loss": self.loss(run), "reason": None}
            result |= {"flops": 1e6, "seconds": 1.0, "tokens": 1.0}
            self.right.store.write(f"trials/{name}/config.json", encode(what(run)))
            self.right.finish(name, result)
        self.end = None
        return Report()

    def stop(self) -> None: ...

    def close(self) -> None: ...


def race(trials: int) -> Study:
    """A study of about so many trials."""
    size = {"hidden": 16, "layers": 2, "heads": 1, "mlp": 64}
    size |= {"vocab_size": 257, "sequence_length": 128}
    rates = [0.002 * 2**i for i in range(6)]
    entry = {
        "start": {"learning_rate": 0.016, "warmup": 20, "beta2": 0.95, "batch_size": 8},
        "grids": {"learning_rate": rates, "beta2": [0.8, 0.9, 0.95, 0.98], "warmup": [5, 10, 20]},
    }
    names = ("adamw", "nadamw", "cautious", "mars", "adam_mini", "soap", "sophia", "muon", "lion")
    ratios = [1 + i / 8 for i in range(max(1, round(trials / 20 / len(names))))]
    given = {
        **{"name": "many", "sizes": {"nano-xs": size}, "ratios": ratios, "seeds": [0, 1, 2]},
        **{"phases": {"I": [["nano-xs", ratio] for ratio in ratios]}},
        **{"optimizers": dict.fromkeys(names, entry), "rule": {"mode": "published"}},
        **{"data": {"corpus": "stdlib", "fingerprint": "none"}, "pack": {"width": 16}},
        "eval": {"sequences": 8, "points": 1},
    }
    return Study(config.complete(json.loads(json.dumps(given))))


def loss(run: dict) -> float:
    optimizer = run["optimizer"]
    octaves = (optimizer["learning_rate"] / 0.008) ** 0.5 - 1
    return 3.0 + 0.02 * octaves**2 + 0.1 * (1 - optimizer["beta2"]) + run["train"]["seed"] * 1e-4


def simulate(study: Study, count: int, seed: int = 0) -> dict[str, float]:
    """Numbers of one race by `count` workers."""
    clock, rng, spent = Clock(), random.Random(seed), []
    store, plans = Memory(clock), {}

    def plan(study: Study, outcomes: dict, _: object) -> phases.Plan:  # every worker's, once
        key = hash(frozenset(outcomes))
        if key not in plans:
            began = time.perf_counter()
            plans.clear()
            plans[key] = phases.plan(study, outcomes)
            spent.append(time.perf_counter() - began)
        return plans[key]

    worker.time, right.time, accidents.plan, worker.random = clock, clock, plan, rng
    # Nobody dies here: heartbeats are counted below, not played.
    right.Right.gone = lambda self, token: f"workers/{token}" not in store.objects
    queue, waits = [], []
    for i in range(count):
        executor = Sleeping(clock, rng, loss)
        one = worker.Worker(store, study, executor, log=lambda line: None, die=print)
        one.right.renew()
        one.open()
        heapq.heappush(queue, (rng.random() * 10, i, one))
    while queue:
        now, i, one = heapq.heappop(queue)
        clock.now = now
        state = one.step()
        waits.append(clock.now - now)
        if state is None:
            again = one.executor.end or clock.now + one.patience * (1 + rng.random())
            heapq.heappush(queue, (max(again, clock.now), i, one))
    done = len(store.find("trials", "result.json"))
    asked = sum(store.counts.values())
    return {
        "workers": count,
        "trials": done,
        "hours": clock.now / 3600,
        "requests a trial": asked / done,
        "requests a second": asked / clock.now,
        "heartbeats a second": count / right.HEARTBEAT,
        "claims lost": store.lost["claims"] / done,
        "index puts lost": store.lost["index"] / done,
        "overhead ms a trial": 1e3 * sum(waits) / done,
        "planner ms": 1e3 * statistics.median(spent[-20:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", default="10,100,1000")
    arguments = parser.parse_args()
    study = race(arguments.trials)
    for count in map(int, arguments.workers.split(",")):
        found = simulate(study, count)
        print("  ".join(f"{name} {value:.3g}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
