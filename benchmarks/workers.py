"""Ten thousand trials by 10 to 1,000 workers, in simulated time: what planning together costs.

    python -m benchmarks.workers --trials=10000 --workers=10,100,1000

The planner, the ledger with its index, claims and the worker's own loop are the real ones; the
store is in memory and counts its requests, each of which takes 50 ms of simulated time, in which
others go on; trainers sleep in simulated time. One process, no clock.
"""

from __future__ import annotations

import argparse
import collections
import functools
import heapq
import itertools
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence

from lm.config import what
from lm.storage.store import Kept, Store, encode
from sweeps.dispatch import accidents, ledger, right, worker
from sweeps.dispatch.executor import Executor, Report
from sweeps.plan import config, phases
from sweeps.plan.study import Study

REQUEST = 0.05  # seconds of an answer of an object store
TRAINING = 600.0  # seconds of a pack; half to one and a half times as much


class Clock:
    """Simulated time, in the place of the module `time`. Of many threads one runs: the one whose
    time comes next; it runs until it sleeps.
    """

    def __init__(self) -> None:
        self.now, self.order, self.ended = 0.0, itertools.count(), threading.Event()
        self.sleeping: list[tuple[float, int, threading.Lock]] = []
        self.failed: BaseException | None = None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        if not self.sleeping or until <= self.sleeping[0][0]:
            self.now = until
            return
        turn = self._turn(until)
        self._next()
        turn.acquire()

    def play(self, parts: Sequence[Callable]) -> None:
        """Runs functions at once, each from a moment of the first ten seconds, until all end."""
        for i, part in enumerate(parts):
            words = (part, self._turn(10 * i / len(parts)))
            threading.Thread(target=self._play, args=words, daemon=True).start()
        self._next()
        self.ended.wait()
        if self.failed:
            raise self.failed

    def _play(self, part: Callable, turn: threading.Lock) -> None:
        turn.acquire()
        try:
            part()
        except BaseException as error:
            self.failed = error
        self._next()

    def _turn(self, until: float) -> threading.Lock:
        turn = threading.Lock()
        turn.acquire()
        heapq.heappush(self.sleeping, (until, next(self.order), turn))
        return turn

    def _next(self) -> None:
        if self.failed or not self.sleeping:
            self.ended.set()
            return
        self.now, _, turn = heapq.heappop(self.sleeping)
        turn.release()


class Never:
    """In the place of `threading.Event`: nobody is asked to stop."""

    def __init__(self, clock: Clock):
        self.wait = clock.sleep

    def is_set(self) -> bool:
        return False


class Memory(Store):
    """A bucket in memory: versions are numbers; every request is counted and takes its time."""

    def __init__(self, clock: Clock):
        self.address, self.clock = "s3://simulated", clock
        self.objects: dict[str, Kept] = {}
        self.folders: dict[str, dict[str, str]] = collections.defaultdict(dict)
        self.counts: collections.Counter = collections.Counter()
        self.lost: collections.Counter = collections.Counter()  # conditional puts, by folder
        self.numbers, self.seconds = itertools.count(1), 0.0  # of waiting for answers

    def _ask(self, kind: str) -> None:
        self.counts[kind] += 1
        self.seconds += REQUEST
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
        for _ in range(0, len(names), 32):  # so many at once
            self.clock.sleep(REQUEST)
            self.seconds += REQUEST
        self.counts["get"] += len(names)
        return [kept and kept.content for kept in map(self.objects.get, names)]

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
    """A pack at a time, which takes a while and has losses from a formula."""

    def __init__(self, clock: Clock, rng: random.Random):
        self.clock, self.rng, self.busy, self.seconds = clock, rng, False, 0.0

    def capacity(self) -> int:
        return 0 if self.busy else 1

    def start(self, configs: Sequence[dict], folders: Sequence[str], *, timeout: float) -> tuple:
        self.busy = True
        return configs, folders

    def poll(self, handle: tuple) -> Report | None:
        seconds = TRAINING * (0.5 + self.rng.random())
        self.seconds += seconds
        self.clock.sleep(seconds)
        for run, folder in zip(*handle, strict=True):
            name = folder.rpartition("/")[2]
            result = {"hash": name, "status": "finished", "loss": loss(run), "reason": None}
            result |= {"flops": 1e6, "seconds": 1.0, "tokens": 1.0}
            self.right.store.write(f"trials/{name}/config.json", encode(what(run)))
            self.right.finish(name, result)
        self.busy = False
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

    def plan(study: Study, outcomes: dict, before: phases.Plan | None) -> phases.Plan:
        """Many workers know the same and plan the same: once is enough here."""
        key = hash(frozenset(run.hash for run in outcomes.values()))
        if key not in plans:
            began = time.perf_counter()
            while len(plans) > 20:
                plans.pop(next(iter(plans)))
            plans[key] = phases.plan(study, outcomes, before)
            spent.append(time.perf_counter() - began)
        return plans[key]

    worker.time = right.time = clock
    worker.random, accidents.plan = rng, plan
    ledger._lines = functools.lru_cache(64)(ledger._lines)
    runs: dict[str, tuple] = {}
    read = ledger._run
    ledger._run = lambda line: runs.get(line[0]) or runs.setdefault(line[0], read(line))
    # Nobody dies here: heartbeats are counted below, not played.
    right.Right.__enter__ = lambda self: self.renew() or self
    right.Right.gone = lambda self, token: self.store.get(f"workers/{token}") is None
    executors = []

    def work() -> None:
        executors.append(Sleeping(clock, rng))
        one = worker.Worker(store, study, executors[-1], log=lambda line: None, die=print)
        one.asked_to_stop = Never(clock)
        one.run()

    clock.play([work] * count)
    done = sum(name.endswith("/result.json") for name in store.objects)
    asked, trained = sum(store.counts.values()), sum(one.seconds for one in executors)
    return {
        "workers": count,
        "trials": done,
        "hours": clock.now / 3600,
        "busy": trained / clock.now / count,
        "requests a trial": asked / done,
        "requests a second": asked / clock.now,
        "heartbeats a second": count / right.HEARTBEAT,
        "claims lost a trial": store.lost["claims"] / done,
        "index puts lost a trial": store.lost["index"] / done,
        "results put twice": store.lost["trials"],
        "seconds of store a trial": store.seconds / done,
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
