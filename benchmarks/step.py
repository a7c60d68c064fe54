"""Tokens per second and MFU of the full training step at the published sizes, on one accelerator.

    python -m benchmarks.step                                  # 130m and 520m; adamw, muon, soap
    python -m benchmarks.step --torch /tmp/torch/bin/python    # PyTorch beside it, same call
    python -m benchmarks.step --sizes nano-xs --batch 8 --seconds 1 --rounds 1    # a toy, on CPU

The step is the one that `lm.train` runs: bf16, sequence 4096, 128 sequences a step, accumulated
over microbatches as large as fit (found by halving), remat and chunked loss as the published
configs have them. PyTorch runs the same shapes with torch.compile, its flash attention, fused AdamW
and fp32 parameters under autocast. Documents see each other on both sides, since that is what the
flash kernel of either computes; `--block_documents` hides them on the JAX side.

Model FLOPs are those of `lm/model/flops.py`: 6 per parameter and token, head included, causal half
of attention, no recomputation, no optimizer. Every round runs all sides one after the other, each
in a process of its own; ratios are taken within a round.
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
OUT_OF_MEMORY = 17  # exit status of a side that did not fit


def config_of(given: dict, optimizer: str, microbatch: int) -> dict:
    """The finalised config of a side."""
    from configs import run
    from lm.config import finalise

    config = run.get_config(f"{given['size']},1x,{optimizer}").to_dict()
    config["data"] = {"corpus": "stdlib"}
    config["train"] |= {"batch_size": given["batch"], "steps": 10**5}
    config["model"]["block_documents"] = given["block_documents"]
    config["program"] |= {
        "accumulate": given["batch"] // microbatch,
        "attention": given["attention"],
        "steps_per_call": 1,
    }
    if given["remat"]:
        config["program"]["remat"] = given["remat"]
    return finalise(config)


def jax_side(given: dict, optimizer: str, microbatch: int) -> dict:
    """Trains on random tokens for a while."""
    sys.path.insert(0, str(ROOT))
    import jax
    import numpy as np

    from lm.model import flops
    from lm.run.solo import Solo

    config = config_of(given, optimizer, microbatch)
    program = Solo([config], jax.devices()[:1])
    model = config["model"]
    shape = (1, given["batch"], model["sequence_length"])
    block = np.random.default_rng(0).integers(0, model["vocab_size"], shape).astype(np.uint32)
    box = {"state": program.init()}

    def step():
        box["state"], box["report"] = program.advance(box["state"], [block], None, fresh=True)

    def wait():
        jax.block_until_ready(box["report"])

    per_second = timed(step, wait, given["seconds"]) * given["batch"] * shape[-1]
    peak = flops.peak_flops(program.device_kind)
    used = per_second * 3 * flops.forward_flops_per_token(model)
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {
        "device": program.device_kind,
        "tokens": per_second,
        "mfu": used / peak if peak else None,
        "bytes": memory,
    }


def torch_side(given: dict, microbatch: int) -> dict:
    """The same shapes in PyTorch, AdamW."""
    import torch
    from torch_llama import Llama  # beside this file; this Python need not have Bestiary

    device = "cuda" if torch.cuda.is_available() else "cpu"
    D, L, H, V, T = given["shape"]
    torch.set_float32_matmul_precision("high")
    with torch.device(device):
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = Llama(D, L, H, V, T, dtype=dtype)
        tokens = torch.randint(0, V, (given["batch"], T))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    forward, count = torch.compile(model), given["batch"] // microbatch

    def step():
        optimizer.zero_grad(set_to_none=True)
        for part in tokens.split(microbatch):
            (forward(part) / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    per_second = timed(step, wait, given["seconds"]) * given["batch"] * T
    used = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"device": device, "tokens": per_second, "mfu": None, "bytes": used}


def timed(step, wait, seconds: float) -> float:
    """Steps per second after two steps that compile and warm up."""
    for _ in range(2):
        step()
        wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or count < 3:
        step()
        count += 1
        if count % 4 == 0:
            wait()  # so that no queue of steps outruns the clock
    wait()
    return count / (time.perf_counter() - start)


def child(side: str, given: dict, microbatch: int) -> None:
    """One side in this process; prints its answer as JSON."""
    try:
        found = (
            torch_side(given, microbatch) if side == "torch" else jax_side(given, side, microbatch)
        )
    except Exception as error:  # both frameworks have their own types for it
        words = f"{type(error).__name__} {error}".lower()
        if "out of memory" in words or "resource_exhausted" in words:
            sys.exit(OUT_OF_MEMORY)
        raise
    print(json.dumps(found))


def measure(side: str, python: str, given: dict, microbatch: int) -> dict | None:
    """One side in a fresh process; None when it does not fit."""
    command = [python, __file__, "--child", side, json.dumps(given), str(microbatch)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if out.returncode == OUT_OF_MEMORY:
        return None
    if out.returncode:
        raise SystemExit(f"{side} failed:\n{out.stderr[-3000:]}")
    return json.loads(out.stdout.splitlines()[-1])


def largest(side: str, python: str, given: dict, start: int) -> tuple[int, dict]:
    """The largest microbatch that fits, by halving, and what it measured."""
    microbatch = start
    while True:
        if (found := measure(side, python, given, microbatch)) is not None:
            return microbatch, found
        if microbatch == 1:
            raise SystemExit(f"{side} at {given['size']}: not even one sequence fits")
        microbatch //= 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["130m", "520m"])
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon", "soap"])
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--batch", type=int, default=128, help="sequences a step")
    parser.add_argument("--microbatch", type=int, default=32, help="the first to try")
    parser.add_argument("--remat", choices=("none", "dots", "block"), help="default: the config's")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--block_documents", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    from configs import ladder

    print(f"{'size':8} {'side':10} {'micro':>6} {'tokens/s':>12} {'MFU':>7} {'GiB':>6}   spread")
    for size in arguments.sizes:
        model = ladder.size(size)
        given = {
            "size": size,
            "shape": [
                model[k] for k in ("hidden", "layers", "heads", "vocab_size", "sequence_length")
            ],
            **{k: getattr(arguments, k) for k in ("batch", "remat", "attention", "seconds")},
            "block_documents": arguments.block_documents,
        }
        pythons = dict.fromkeys(arguments.optimizers, sys.executable)
        pythons |= {"torch": arguments.torch} if arguments.torch else {}
        fits, rounds = {}, {side: [] for side in pythons}
        for turn in range(arguments.rounds):
            for side, python in pythons.items():
                if turn == 0:
                    first = min(arguments.microbatch, arguments.batch)
                    fits[side], found = largest(side, python, given, first)
                else:
                    found = measure(side, python, given, fits[side])
                rounds[side].append(found)
        convert = max((r["mfu"] or 0) / r["tokens"] for found in rounds.values() for r in found)
        for side, found in rounds.items():
            rates = [r["tokens"] for r in found]
            middle = statistics.median(rates)
            mfu = f"{middle * convert:7.1%}" if convert else f"{'-':>7}"
            spread = f"{min(rates) / middle:.2f}..{max(rates) / middle:.2f}"
            memory = max(r["bytes"] for r in found) / 2**30
            row = f"{size:8} {side:10} {fits[side]:6d} {middle:12,.0f} {mfu} {memory:6.1f}"
            print(f"{row}   {spread}", flush=True)
    print(f"on {next(iter(rounds.values()))[0]['device']}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
