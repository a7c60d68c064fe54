"""Trials per hour: one packed program, a warm process training one by one, a fresh process each.

    python -m benchmarks.packing                      # the CPU ladder, 3 rounds
    python -m benchmarks.packing --sizes nano-xs --trials 4 --rounds 1

Every round measures the ways one after the other on the same trials (other learning rates, one
seed), so that a noisy machine disturbs all alike; ratios are taken within a round. Fresh processes,
minutes of start-up, are measured at the first size alone. `packed` and `warm` are timed from the
start of their process, imports and compilation included; persistent compilation caches are off for
all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = {  # of a trial: 160 are what ratio 1 gives the smallest size
    **{"nano-xs": 160, "nano-s": 160, "nano-m": 160, "nano-l": 80},
    **{"micro-xs": 40, "micro-s": 20, "micro-m": 10, "micro-l": 5},
}

CHILD = """
import json, sys, tempfile
from pathlib import Path
import jax
jax.config.update("jax_enable_compilation_cache", False)
from lm.config import config_hash, finalise
from lm.train import train_pack
configs = [finalise(c) for c in json.loads(sys.argv[1])]
packs = [configs] if sys.argv[2] == "packed" else [[c] for c in configs]
with tempfile.TemporaryDirectory() as folder:
    for pack in packs:
        folders = [Path(folder) / config_hash(c) for c in pack]
        results = train_pack(pack, folders, log=lambda line: None)
        assert all(r["status"] == "finished" for r in results), results
"""


def trials(size: str, optimizer: str, count: int) -> list[dict]:
    """Run configs of `count` learning rates at one size."""
    from configs import ladder

    return [
        {
            "model": ladder.size(size),
            "data": {"corpus": "stdlib"},
            "train": {"chinchilla_ratio": 1.0, "batch_size": 8, "steps": STEPS[size]},
            "optimizer": {"name": optimizer, "learning_rate": 1e-3 * 1.2**i, "warmup": 10},
            "eval": {"sequences": 64, "points": 1},
            "program": {"unroll": True},
        }
        for i in range(count)
    ]


def seconds(way: str, configs: list[dict]) -> float:
    """Wall seconds of training all configs one way."""
    start = time.perf_counter()
    packs = [[c] for c in configs] if way == "fresh" else [configs]
    for pack in packs:
        child = [sys.executable, "-c", CHILD, json.dumps(pack), way]
        subprocess.run(child, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{arguments.optimizer}, {arguments.trials} trials, {arguments.rounds} rounds; min..max")
    print(f"{'size':9}{'steps':>6}{'packed/h':>22}{'fresh/packed':>18}{'warm/packed':>18}")
    for size in arguments.sizes:
        configs = trials(size, arguments.optimizer, arguments.trials)
        ways = ["packed", "warm", *(["fresh"] if size == arguments.sizes[0] else [])]
        rounds = [{way: seconds(way, configs) for way in ways} for _ in range(arguments.rounds)]
        hourly = [3600 * len(configs) / r["packed"] for r in rounds]
        cells = [f"{statistics.median(hourly):,.0f} {min(hourly):,.0f}..{max(hourly):,.0f}"]
        for way in ("fresh", "warm"):
            ratios = [r[way] / r["packed"] for r in rounds if way in r]
            spread = ratios and f"{min(ratios):.2f}..{max(ratios):.2f}"
            cells.append(f"{statistics.median(ratios):.2f} {spread}" if ratios else "-")
        print(f"{size:9}{STEPS[size]:>6}{cells[0]:>22}{cells[1]:>18}{cells[2]:>18}", flush=True)


if __name__ == "__main__":
    main()
