"""Our training step beside a peer's: the same model on the same pod, each as its compiler wrote it.

    python -m benchmarks.compiled --peer=maxtext --out=docs/compiled.csv

needs the two environments that it names where they are missing: ours with the TPU's compiler (`make
preflight`) and the peer's, which has pins of its own. The model is the study's 130m, 128 sequences
of 4,096, bf16 compute on fp32 parameters and state, blocks made again, on v5e:16x16 as 128 x 2.
Nothing runs on a chip. One reader reads both texts: collectives, matrix products, the compiler's
cycles of every operation, and the bundles of attention's kernels, collectives and waiting apart.
Rows of the table are kept by their versions.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOPOLOGY, CHIPS, KIND = "v5e:16x16", 256, "TPU v5 lite"
PACKAGES = {"maxtext": "maxtext[tpu]==0.2.5"}
# Of one sequence of 4,096 and one head of 64, in the peer's tiles of 512, from bundles of JAX's
# kernel compiled alone (libtpu 0.0.42.1); `lm.pods.kernels` counts ours.
PEER_KERNELS = {"fwd": 65_250, "dq": 65_500, "dkv": 88_500}
MAXTEXT = [
    *("run_name=compiled", "base_output_directory=/nowhere", "enable_checkpointing=false"),
    *("dataset_type=synthetic", "decoder_block=llama2", "base_emb_dim=512", "head_dim=64"),
    *("base_num_decoder_layers=32", "base_num_query_heads=8", "base_num_kv_heads=8"),
    *("base_mlp_dim=2048", "vocab_size=128256", "max_target_length=4096"),
    *("logits_via_embedding=false", "dtype=bfloat16", "weight_dtype=float32"),
    *("per_device_batch_size=0.5", "remat_policy=full", "attention=flash", "scan_layers=true"),
    *("ici_fsdp_parallelism=128", "ici_tensor_parallelism=2", "allow_split_physical_axes=true"),
    *("gradient_clipping_threshold=1.0", "compile_topology=v5e-256"),
    "compile_topology_num_slices=1",
]


def ours(optimizer: str):
    """The compiled step and the versions that matter."""
    sys.path.insert(0, str(ROOT))
    from lm.config_file import load_run
    from lm.pods.devices import devices_of
    from lm.run.solo import Solo

    way = ["attention=splash", "steps_per_call=1", "remat=block"]
    overrides = [f"--config.program.{field}" for field in way]
    overrides += ["--config.mesh.data=128", "--config.mesh.model=2"]
    config = load_run(f"configs/run.py:130m,1x,{optimizer}", overrides)
    return Solo([config], devices_of(TOPOLOGY)).lower("tpu").compile(), ("jax", "libtpu")


def maxtext(optimizer: str):
    """As its own `train_compile` makes it."""
    from maxtext.trainers.pre_train import train_compile

    found, compiling = [], train_compile.jit_and_compile

    def keep(*arguments, **options):
        found.append(compiling(*arguments, **options))
        return found[0]

    train_compile.jit_and_compile = keep
    base = Path(train_compile.__file__).parents[2] / "configs" / "base.yml"
    train_compile.main(["train_compile", str(base), *MAXTEXT, f"opt_type={optimizer}"])
    return found[0], ("maxtext", "jax", "libtpu")


def compile_side(side: str, optimizer: str, folder: Path) -> None:
    """Writes the compiled step's text and what it holds, in the side's own environment."""
    from importlib.metadata import version

    compiled, packages = {"ours": ours, "maxtext": maxtext}[side](optimizer)
    memory = compiled.memory_analysis()
    facts = {
        "version": ", ".join(f"{name} {version(name)}" for name in packages),
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
    }
    (folder / "step.txt").write_text(compiled.as_text())
    (folder / "facts.json").write_text(json.dumps(facts))


def read(side: str, optimizer: str, folder: Path) -> dict:
    """A row of the table."""
    from configs import ladder
    from lm.model import flops
    from lm.pods import cycles, hlo

    text, facts = (folder / "step.txt").read_text(), json.loads((folder / "facts.json").read_text())
    moved = hlo.collectives(text, chips=CHIPS).least
    estimate = cycles.estimate(text, KIND)
    attention = estimate.parts.pop(cycles.KERNELS, 0.0)
    if side != "ours":
        attention = 1e3 * hlo.amounts(text, _peer_kernels)[0]["cycles"] / cycles.CLOCKS[KIND]
    operations = sum(estimate.parts.values())
    total = operations + attention
    per_token = 3 * flops.forward_flops_per_token(ladder.size("130m"))
    step_flops = per_token * 128 * 4096 / CHIPS
    return {
        "side": side,
        "optimizer": optimizer,
        "operations_ms": round(operations, 1),
        "kernels_ms": round(attention, 1),
        "total_ms": round(total, 1),
        "mfu": round(step_flops / flops.peak_flops(KIND) / total * 1e3, 3),
        "products_tflop": round(sum(hlo.products(text).least.values()) / 1e12, 3),
        **{f"{kind}_mb": round(size / 1e6) for kind, size in sorted(moved.items())},
        "received_mb": round(sum(moved.values()) / 1e6),
        "temporary_mib": round(facts["temporary_bytes"] / 2**20),
        "arguments_mib": round(facts["argument_bytes"] / 2**20, 1),
        "version": facts["version"],
    }


def _peer_kernels(_, lines):
    from lm.pods import kernels

    for line in lines:
        if call := kernels.KERNEL.search(line):
            *batch, _, _ = map(int, call["dims"].split(","))
            yield "cycles", math.prod(batch) * PEER_KERNELS[call["kind"]]


def write(path: Path, rows: list[dict]) -> None:
    """Adds rows to the table; one of the same side, optimizer and versions is replaced."""

    def key(row):
        return row["side"], row["optimizer"], row["version"]

    old = csv.DictReader(path.read_text().splitlines()) if path.exists() else []
    every = {key(row): row for row in [*old, *rows]}.values()
    names = list(dict.fromkeys(name for row in every for name in row if name != "version"))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*names, "version"], restval=0, lineterminator="\n")
        writer.writeheader()
        writer.writerows(every)


def python_of(side: str, folder: Path) -> Path:
    """The interpreter of a side's environment; exits with what makes it where it is missing."""
    python = folder / "bin" / "python"
    if not python.exists():
        made = f"uv venv --python 3.12 {folder} && uv pip install --python {python} "
        how = "make preflight" if side == "ours" else f"{made}'{PACKAGES[side]}'"
        sys.exit(f"error: {folder} is no environment; to make it: {how}")
    return python


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled", allow_abbrev=False)
    parser.add_argument("--peer", choices=PACKAGES, default="maxtext")
    parser.add_argument("--optimizers", default="adamw,muon")
    parser.add_argument("--ours", type=Path, default=ROOT / ".venv-tpu", help="our environment")
    parser.add_argument("--theirs", type=Path, help="the peer's; .venv-PEER by default")
    parser.add_argument("--sides", default="ours,peer", help="which of them to compile")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "compiled.csv")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side, optimizer, folder = arguments.side
        compile_side(side, optimizer, Path(folder))
        return 0
    from lm.pods import environment

    environment.set_up()
    places = {
        "ours": arguments.ours,
        arguments.peer: arguments.theirs or ROOT / f".venv-{arguments.peer}",
    }
    asked = [arguments.peer if side == "peer" else side for side in arguments.sides.split(",")]
    for optimizer in arguments.optimizers.split(","):
        for side in asked:
            python = python_of(side, places[side])
            with tempfile.TemporaryDirectory() as folder:
                command = [python, "-P", Path(__file__), "--side", side, optimizer, folder]
                done = subprocess.run(command, env=os.environ, cwd=ROOT)
                if done.returncode:
                    return done.returncode
                row = read(side, optimizer, Path(folder))
            print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
            write(arguments.out, [row])
    return 0


if __name__ == "__main__":
    sys.exit(main())
