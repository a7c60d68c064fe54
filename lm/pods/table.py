"""The table of docs/preflight.md: every published size and optimizer on pods, two on GPUs.

    .venv-tpu/bin/python -m lm.preflight --all=docs/preflight.csv
    .venv-gpu/bin/python -m lm.preflight --all=docs/preflight.csv

compiles one run after the other, each in a process of its own, and adds a row as soon as it is
known; each environment makes the rows of its compiler. Rows of this version of the step and the
compiler are not made again, older ones stay until theirs is known. About two minutes a row on one
core.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import optim
from lm.pods.devices import platform_of
from lm.pods.flight import Flight, version
from lm.run.progress import duration

SIZES = ("130m", "300m", "520m", "1.2b")
TOPOLOGIES = {  # with the sizes of their rows
    **dict.fromkeys(("v5e:16x16", "v5p:4x4x4"), SIZES),
    **dict.fromkeys(("h100:1", "h100:8"), ("130m", "520m")),
}
COMPILERS = {"tpu": "libtpu", "cuda": "jax_cuda12_plugin"}  # the package of each platform's
FIRST = ("adamw", "muon", "soap", "kron")


def make(path: Path) -> int:
    """Adds the missing rows to the CSV and writes the page beside it; 1 if a run failed."""
    here = {name for name, package in COMPILERS.items() if importlib.util.find_spec(package)}
    wanted = [pair for pair in all_rows() if platform_of(pair[1]) in here]
    rows = {(row["run"], row["topology"]): row for row in read(path)}
    known = {key for key, row in rows.items() if row["version"] == version()}
    missing = [pair for pair in wanted if pair not in known]
    begun, failed = time.monotonic(), 0
    for done, (run, topology) in enumerate(missing):
        pace = (time.monotonic() - begun) / done if done else 120.0
        left = duration(pace * (len(missing) - done))
        print(f"[{done}/{len(missing)}, about {left} to go] {run} on {topology}", flush=True)
        command = [sys.executable, "-m", "lm.preflight", "--json", f"--topology={topology}"]
        command += [f"--config=configs/run.py:{run}"]
        out = subprocess.run(command, capture_output=True, text=True)
        lines = out.stdout.splitlines() or [""]
        if not lines[-1].startswith("{"):
            failed = 1
            print(f"failed: {(out.stderr or out.stdout)[-600:]}", file=sys.stderr, flush=True)
            continue
        rows[run, topology] = json.loads(lines[-1])
        write(path, list(rows.values()))
        path.with_suffix(".md").write_text(page(list(rows.values())))
    return failed


def all_rows() -> list[tuple[str, str]]:
    """(run, topology) of every row, the first to be made first."""
    names = sorted(optim.catalogue.CATALOGUE, key=lambda name: (*FIRST, name).index(name))
    places = [(t, size) for t, sizes in TOPOLOGIES.items() for size in sizes]
    return [(f"{size},1x,{name}", t) for name in names for t, size in places]


def read(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [{k: json.loads(v) for k, v in row.items()} for row in csv.DictReader(file)]


def write(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, Flight._fields, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(row[k]) for k in Flight._fields})


def page(rows: list[dict]) -> str:
    """Markdown: one table per topology."""
    wanted = len(all_rows())
    out = [
        "# Pre-flight: every published run, compiled for pods without a pod",
        "",
        "One row per run: its exact training step (ratio 1, the study's settings) compiled by the",
        "TPU's or the GPU's compiler on a machine without either. Made by",
        "`python -m lm.preflight --all=docs/preflight.csv` in environments of `make preflight`;",
        "the CSV beside this page holds all numbers. Per chip and step:",
        "",
        "- *memory*: arguments, results and temporary buffers, against the chip's; *state* is the",
        "  optimizer's part, *copies* its bytes over all chips in units of one whole copy;",
        "- *update*: FLOPs of the optimizer, *share* of them in the step, *times* how often its",
        "  matrix products are made over all chips (1: shared out perfectly; decompositions are",
        "  not counted, and elementwise work lies where the state does);",
        "- *network*: bytes received in collectives, and after a slash those of a step that",
        "  refreshes preconditioners, which *step* leaves out;",
        "- *step*: the roofline, the longest of compute (peak bf16, with what `remat=block` and",
        "  the loss's chunks make again), memory (all that is held read and written once) and",
        "  network (all links, nothing hidden); *MFU* is what that leaves at most;",
        "- *estimate*: the compiler's cycles of every operation through its loops, with bundles of",
        "  attention's kernels, without collectives and waiting, and the MFU of that. It compares",
        "  programs; it is no measurement. On v5p the kernels are not in it; GPUs have none;",
        "- *version*: of the step (`lm/pods/flight.py`); rows below the newest are from before it.",
        "",
        f"{len(rows)} of {wanted} rows; the same command adds what is missing and makes old rows",
        "again.",
    ]
    for topology in dict.fromkeys(row["topology"] for row in rows):
        mine = [row for row in rows if row["topology"] == topology]
        mine.sort(key=lambda row: SIZES.index(row["run"].split(",")[0]))
        total = mine[0]["hbm_bytes"] / 2**30
        out += [
            "",
            f"## {topology} (chips: {mine[0]['chips']}, {total:.1f} GiB each)",
            "",
            "| run | mesh | memory GiB | state MiB | copies | update GFLOP | share | times "
            "| network MB | step ms | MFU ≤ | estimate ms | MFU | compiled in s | version |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
            *(_row(row) for row in mine),
        ]
    return "\n".join(out) + "\n"


def _row(row: dict) -> str:
    mesh = " × ".join(f"{size}" for size in row["mesh"].values())
    share = row["update_flops"] / (row["update_flops"] + row["model_flops"])
    step = max(row["compute_seconds"], row["memory_seconds"], row["network_seconds"])
    memory = f"{row['total_bytes'] / 2**30:.2f}" + ("" if row["fits"] else " **too large**")
    cells = [
        *(row["run"].replace(",1x,", " "), mesh, memory, f"{row['state_bytes'] / 2**20:.1f}"),
        *(f"{row['state_copies']:.2f}", f"{row['update_flops'] / 1e9:,.2f}", f"{share:.2%}"),
        *(f"{row['replication']:.2f}" if row["replication"] else "–", _network(row)),
        *(f"{1e3 * step:,.1f}", f"{row['mfu_bound']:.0%}"),
        *(f"{sum(row['estimate'].values()):,.1f}" if row["estimate"] else "–",),
        *(f"{row['mfu_estimate']:.0%}" if row["mfu_estimate"] else "–",),
        *(f"{row['compile_seconds']:.0f}", row["version"].partition(",")[0]),
    ]
    return f"| {' | '.join(cells)} |"


def _network(row: dict) -> str:
    usual, refresh = sum(row["collectives"].values()), row["refresh_bytes"]
    return f"{usual / 1e6:,.0f}" + (f" / {refresh / 1e6:,.0f}" if refresh > usual else "")
