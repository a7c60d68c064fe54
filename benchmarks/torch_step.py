"""Tokens per second of one training step: this model in JAX against the same one in PyTorch, on
CPU.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy
    python -m benchmarks.torch_step --torch /tmp/torch/bin/python

AdamW, fp32, batch 8 x 128 bytes. Every round runs JAX, PyTorch eager and torch.compile one after
the other, each in its own process on one core and the same tokens, so that ratios are taken within
a round. This file is both the driver and, as `torch_step.py SIDE ...`, each side.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BATCH, T, V = 8, 128, 257
SIDES = ("jax", "eager", "compile")


def timed(step, warm_up: float, seconds: float, wait=lambda: None) -> float:
    """Tokens per second of `step()`, called for `seconds` after `warm_up` seconds of calls."""
    start = time.perf_counter()
    while time.perf_counter() - start < warm_up:
        step()
    wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    wait()
    return count * BATCH * T / (time.perf_counter() - start)


def jax_side(D: int, L: int, H: int, seconds: float) -> float:
    sys.path.insert(0, str(ROOT))
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    import jax
    import numpy as np

    from lm.config import finalise
    from lm.run.packed import Packed

    model = {"name": "x", "hidden": D, "layers": L, "heads": H, "mlp": 4 * D}
    config = finalise(
        {
            "model": {**model, "vocab_size": V, "sequence_length": T},
            "data": {"corpus": "stdlib"},
            "train": {"chinchilla_ratio": 1.0, "batch_size": BATCH, "steps": 10**6},
            "optimizer": {"name": "adamw", "learning_rate": 1e-3},
            "program": {"unroll": True},
        }
    )
    program = Packed([config], jax.devices()[:1])
    box = {"state": program.init()}
    rng = np.random.default_rng(0)
    block = rng.integers(0, 256, (program.steps_per_call, BATCH, T)).astype(np.uint16)

    def call():
        alive = np.ones(1, bool)
        box["state"], box["report"] = program.advance(box["state"], [block], alive, fresh=True)
        jax.block_until_ready(box["report"])

    return timed(call, 1.0, seconds) * program.steps_per_call


def torch_side(D: int, L: int, H: int, seconds: float, compiled: bool) -> float:
    import torch
    from torch_llama import Llama  # beside this file; this Python need not have Bestiary

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Llama(D, L, H, V, T, separator=256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    forward = torch.compile(model) if compiled else model
    tokens = torch.randint(0, 256, (BATCH, T))

    def step():
        optimizer.zero_grad(set_to_none=True)
        forward(tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step()  # compiles
    return timed(step, 1.0, seconds)


def measure(side: str, python: str, size: tuple[int, int, int], seconds: float) -> float:
    command = [python, __file__, side, json.dumps([*size, seconds])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, capture_output=True, text=True, env=environment)
    if out.returncode:
        raise SystemExit(f"{side} failed:\n{out.stderr[-2000:]}")
    return float(out.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", required=True, help="a Python that has PyTorch")
    parser.add_argument("--sizes", nargs="+", default=["nano-xs", "nano-l", "micro-s", "micro-l"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    from configs import ladder

    print(f"tokens/s on one core, median of {arguments.rounds} rounds; ratios min..max")
    print(f"{'size':9}{'JAX':>10}{'eager':>10}{'compile':>10}{'JAX/eager':>18}{'JAX/compile':>18}")
    for name in arguments.sizes:
        size = tuple(ladder.SIZES[name][k] for k in ("hidden", "layers", "heads"))
        rounds = []
        for _ in range(arguments.rounds):
            pythons = {side: sys.executable if side == "jax" else arguments.torch for side in SIDES}
            rounds.append({s: measure(s, p, size, arguments.seconds) for s, p in pythons.items()})
        row = "".join(f"{statistics.median(r[s] for r in rounds):>10,.0f}" for s in SIDES)
        for side in ("eager", "compile"):
            ratios = [r["jax"] / r[side] for r in rounds]
            cell = f"{statistics.median(ratios):.2f} {min(ratios):.2f}..{max(ratios):.2f}"
            row += f"{cell:>18}"
        print(f"{name:9}{row}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in SIDES:
        *shape, duration = json.loads(sys.argv[2])
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        if sys.argv[1] == "jax":
            print(jax_side(*shape, duration))
        else:
            print(torch_side(*shape, duration, compiled=sys.argv[1] == "compile"))
    else:
        main()
