"""What makes a pack fast on this machine: the choices in `lm/run/packed.py`, one changed at a time.

    python -m benchmarks.pack_shape                  # sizes nano-xs nano-l micro-s
    python -m benchmarks.pack_shape --sizes nano-s --rounds 3

Tokens per second of eight AdamW runs, batch 8 x 128, all cores. The first row is what Bestiary does
on CPU: members one after the other (`lax.map`), layers unrolled, fp32, one single-threaded device a
core. Each other row changes one thing; ratios are medians over rounds, all rows measured in each.
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
MEMBERS, STEPS, BATCH, T = 8, 16, 8, 128
CHOSEN = {"walk": "map", "unroll": True, "dtype": "float32", "devices": 0, "threads": 1}
VARIANTS = {
    "chosen": {},
    "vmap over all members": {"walk": "vmap"},
    "map over pairs of members": {"walk": "pairs"},
    "scanned layers": {"unroll": False},
    "bf16 matmuls": {"dtype": "bfloat16"},
    "one device, all threads": {"devices": 1, "threads": 0},
    "one device, one thread": {"devices": 1},
}


def side(size: str, seconds: float, shape: dict) -> float:
    """Tokens per second of one variant, in this process."""
    if shape["threads"] == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    import jax
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from configs import ladder
    from lm.config import finalise
    from lm.run import step

    devices = shape["devices"] or len(os.sched_getaffinity(0))
    jax.config.update("jax_num_cpu_devices", devices)
    config = finalise(
        {
            "model": ladder.size(size),
            "train": {
                **{"chinchilla_ratio": 1.0, "batch_size": BATCH, "steps": 10**6},
                "compute_dtype": shape["dtype"],
            },
            "optimizer": {"name": "adamw", "learning_rate": 1e-3},
            "program": {"unroll": shape["unroll"]},
        }
    )
    run, mesh = step.build(config), jax.make_mesh((devices,), ("trial",))
    place = NamedSharding(mesh, P("trial"))
    rows = {k: np.full(MEMBERS, v, np.float32) for k, v in step.hyperparameters(config).items()}

    def member(args):
        return run.advance(*args, STEPS, True)

    def walk(f, args):
        if shape["walk"] == "vmap":
            return jax.vmap(f)(args)
        return jax.lax.map(f, args, batch_size=2 if shape["walk"] == "pairs" else None)

    def spread(f):
        spec = P("trial")
        return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))

    hparams = jax.device_put(rows, place)
    tokens = np.random.default_rng(0).integers(0, 256, (MEMBERS, STEPS, BATCH, T))
    block = jax.device_put(tokens.astype(np.uint16), place)
    seeds = jax.device_put(np.arange(MEMBERS, dtype=np.int32), place)
    params = spread(lambda s: walk(run.params, s))(seeds)
    state = spread(lambda *a: walk(lambda one: run.init(*one), a))(params, hparams, seeds)
    advance = spread(lambda s, h, b: walk(member, (s, h, b)))
    jax.block_until_ready(advance(state, hparams, block))
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        jax.block_until_ready(advance(state, hparams, block))
        calls += 1
    return calls * MEMBERS * STEPS * BATCH * T / (time.perf_counter() - start)


def measure(size: str, seconds: float, changes: dict) -> float:
    order = json.dumps([size, seconds, {**CHOSEN, **changes}])
    command = [sys.executable, "-m", "benchmarks.pack_shape", "--side", order]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(out.stderr[-2000:])
    return float(out.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["nano-xs", "nano-l", "micro-s"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(side(*json.loads(arguments.side)))
        return
    for size in arguments.sizes:
        rounds = [
            {name: measure(size, arguments.seconds, v) for name, v in VARIANTS.items()}
            for _ in range(arguments.rounds)
        ]
        print(f"{size}: tokens/s (median), ratio to the first row (median, min..max)")
        for name in VARIANTS:
            rate = statistics.median(r[name] for r in rounds)
            ratios = sorted(r[name] / r["chosen"] for r in rounds)
            middle = statistics.median(ratios)
            print(
                f"  {name:28}{rate:>12,.0f}{middle:>8.2f} {ratios[0]:.2f}..{ratios[-1]:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
