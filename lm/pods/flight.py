"""What the TPU's compiler says of a training step on a topology: memory, network, roofline."""

from __future__ import annotations

import importlib.metadata
import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

import optim
from lm.model import flops
from lm.model import llama as model_lib
from lm.model.attention import AUTO
from lm.model.loss import chunk_count
from lm.pods import cycles, hlo
from lm.pods.devices import devices_of, platform_of
from lm.run import step as step_lib
from lm.run.solo import Solo


class Chip(NamedTuple):
    """Public data-sheet figures of one chip."""

    hbm: float  # bytes
    hbm_rate: float  # bytes/s
    ici_rate: float  # bytes/s, all links


CHIPS = {
    "TPU v4": Chip(32e9, 1.23e12, 300e9),
    "TPU v5 lite": Chip(16e9, 0.82e12, 200e9),
    "TPU v5": Chip(95e9, 2.77e12, 600e9),
    "TPU v6 lite": Chip(32e9, 1.64e12, 448e9),
    "TPU7x": Chip(192e9, 7.38e12, 1200e9),
    "NVIDIA H100": Chip(80e9, 3.35e12, 450e9),  # NVLink, one way; between hosts it is less
}


# The stacks of hidden matrices, 96 and 128 at the published sizes, fill no more chips than that;
# what is left cuts the matrices. It moves less, too: 5.3 instead of 7.4 GB for AdamW 520m.
MOST_DATA = 128


OUT_OF_MEMORY = re.compile("Ran out of memory|RESOURCE_EXHAUSTED")


class TooLarge(Exception):
    """The compiler's own words: a part of the run does not fit a chip's memory."""


# Raised when the step changes for a given config: rows of the table then are made again.
STEP = 3


def version() -> str:
    """Of the step and of the compiler that made it."""
    found = {d.name: d.version for d in importlib.metadata.distributions()}
    names = ("jax", "libtpu", "jax-cuda12-plugin")
    return ", ".join([f"step {STEP}", *(f"{n} {found[n]}" for n in names if n in found)])


class Flight(NamedTuple):
    """What a compiled step says; bytes and FLOPs per chip and step, seconds by roofline, the
    compiler's estimate in milliseconds.
    """

    version: str
    run: str
    topology: str
    mesh: dict
    chips: int
    fits: bool
    total_bytes: int
    hbm_bytes: float
    params_bytes: int
    state_bytes: int
    state_copies: float  # bytes of the optimizer state on all chips over those of one whole copy
    temporary_bytes: int
    model_flops: float
    update_flops: float
    replication: float | None  # how often the update's matrix products are made, over all chips
    collectives: dict  # bytes received by kind, in a step that refreshes no preconditioner
    refresh_bytes: int  # received in all, in a step that refreshes every one
    compute_seconds: float
    memory_seconds: float
    network_seconds: float
    mfu_bound: float
    estimate: dict  # the compiler's milliseconds by part; collectives and waiting are not in it
    estimate_refresh: float  # all parts together, in a step that refreshes every preconditioner
    estimate_notes: list  # what is missing, and parts far from their roofline
    mfu_estimate: float | None
    compile_seconds: float


def check(config: Mapping, topology: str, run: str = "") -> Flight:
    """Compiles start, step and evaluation of a finalised run for a topology such as `v5e:16x16`.

    The mesh gives `data` as many chips as divide the batch and `MOST_DATA`, and `model` the rest,
    unless the config names sizes. Attention is the platform's: splash, or cuDNN for `h100:8`.
    Raises:
      ConfigError: an unknown topology, or a mesh that does not fit the run.
      TooLarge: one of them needs more memory than a chip has.
    """
    config, devices = {k: dict(v) for k, v in config.items()}, devices_of(topology)
    if config["mesh"] == {"data": -1, "model": 1}:
        data = math.gcd(config["train"]["batch_size"], len(devices), MOST_DATA)
        config["mesh"] = {"data": data, "model": len(devices) // data}
    platform = platform_of(topology)
    config["program"] |= {"attention": AUTO[platform], "steps_per_call": 1}
    program = Solo([config], devices)
    start = time.monotonic()
    others = [
        _compile(program, platform, part).memory_analysis() for part in ("init", "evaluation")
    ]
    compiled = _compile(program, platform, "step")
    seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    (state,) = program.abstract_members()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    # An evaluation holds the optimizer's state too, which it does not take as an argument.
    totals = [_total(memory), *(_total(other) for other in others)]
    totals[-1] += _local_bytes(state.optimizer)
    total = max(totals)
    model, train = config["model"], config["train"]
    tokens = train["batch_size"] * model["sequence_length"]
    model_flops = 3 * flops.forward_flops_per_token(model) * tokens / len(devices)
    config["program"]["loss_chunks"] = _chunks(config, program.mesh.shape)
    repeated = flops.repeated_flops_per_token(config) * tokens / len(devices)
    text = compiled.as_text()
    update_flops, replication = _update(config, program, text)
    moved = hlo.collectives(text, chips=len(devices))
    kind = devices[0].device_kind
    chip, peak = flops.by_kind(CHIPS, kind), flops.peak_flops(kind)
    compute = (model_flops + repeated + update_flops) / peak
    traffic = 2 * held / chip.hbm_rate
    network = sum(moved.least.values()) / chip.ici_rate
    state_bytes = _local_bytes(state.optimizer)
    estimate = cycles.estimate(text, kind)
    expected = sum(estimate.parts.values()) / 1e3
    return Flight(
        version=version(),
        run=run,
        topology=topology,
        mesh=dict(program.mesh.shape),
        chips=len(devices),
        fits=total <= chip.hbm,
        total_bytes=total,
        hbm_bytes=chip.hbm,
        params_bytes=_local_bytes(state.params),
        state_bytes=state_bytes,
        state_copies=state_bytes * len(devices) / _bytes(state.optimizer),
        temporary_bytes=memory.temp_size_in_bytes,
        model_flops=model_flops,
        update_flops=update_flops,
        replication=replication,
        collectives=moved.least,
        refresh_bytes=sum(moved.most.values()),
        compute_seconds=compute,
        memory_seconds=traffic,
        network_seconds=network,
        mfu_bound=model_flops / peak / max(compute, traffic, network),
        estimate=estimate.parts,
        estimate_refresh=estimate.refresh,
        estimate_notes=estimate.notes,
        mfu_estimate=model_flops / peak / expected if expected else None,
        compile_seconds=seconds,
    )


def _compile(program: Solo, platform: str, part: str):
    try:
        return program.lower(platform, part).compile()
    except jax.errors.JaxRuntimeError as error:
        words = [line for line in str(error).splitlines() if OUT_OF_MEMORY.search(line)]
        if not words:
            raise
        raise TooLarge(f"{part}: {words[0].strip()}") from None


def _total(memory) -> int:
    """Bytes that a chip needs for a compiled function."""
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    total += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return total + memory.generated_code_size_in_bytes


def _chunks(config: Mapping, mesh: Mapping) -> int:
    """In how many chunks the loss goes, its own choice on this mesh included."""
    model, train, program = (config[k] for k in ("model", "train", "program"))
    rows = train["batch_size"] // program["accumulate"] // mesh["data"]
    vocab = math.ceil(model["vocab_size"] / mesh["model"])
    itemsize = 2 if train["compute_dtype"] == "bfloat16" else 4
    least = chunk_count(rows, model["sequence_length"], vocab, itemsize)
    return program["loss_chunks"] or least


def _bytes(tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _local_bytes(tree) -> int:
    """Bytes of the abstract arrays that one chip holds."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _update(config: Mapping, program: Solo, text: str) -> tuple[float, float | None]:
    """(FLOPs of the update on one chip, how often its matrix products are made over all chips).

    The products of the compiled step against those of the update lowered for one device, both
    counted by `hlo.products`, with refreshes or without, whichever is worse; None where an update
    has none. The whole is `optim.describe`'s.
    """
    spec = optim.spec(**config["optimizer"])
    (state,) = program.abstract_members()
    params, optimizer = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state.params, state.optimizer)
    )
    tx = spec.build(roles=model_lib.role, **program.numbers)

    def update(grads, state, params):
        return tx.update(grads, state, params, value=np.float32(0), grad_fn=lambda p: p)

    alone = jax.jit(update).lower(params, optimizer, params).as_text(dialect="hlo")
    here = hlo.products(text, scope=step_lib.UPDATE)
    pairs = zip(here, hlo.products(alone), strict=True)
    sums = [(sum(chip.values()), sum(whole.values())) for chip, whole in pairs]
    times = [program.device_count * chip / whole for chip, whole in sums if whole]
    replication = max(times, default=None)
    total = optim.describe(spec, params, roles=model_lib.role).flops
    return total / program.device_count * (replication or 1.0), replication


def report(flight: Flight, remat: str) -> str:
    """The answer in lines: fits or not, where memory and time go, what to change."""
    gib, usual = 2**30, sum(flight.collectives.values())
    axes = flight.mesh.items()
    moved = ", ".join(f"{k} {v / 1e6:,.0f} MB" for k, v in flight.collectives.items()) or "nothing"
    if flight.refresh_bytes > usual:
        moved += f"; {flight.refresh_bytes / 1e6:,.0f} MB where preconditioners are refreshed"
    share = f"{flight.update_flops / (flight.update_flops + flight.model_flops):.2%} of the step"
    if flight.replication:
        share += f"; over all chips its products are made {flight.replication:.2f} times"
    lines = [
        f"{flight.run} on {flight.topology} ({flight.chips} chips, "
        f"{' x '.join(f'{k}={v}' for k, v in axes)}): {'fits' if flight.fits else 'DOES NOT FIT'}, "
        f"{flight.total_bytes / gib:.2f} of {flight.hbm_bytes / gib:.1f} GiB a chip",
        f"  memory a chip: parameters {flight.params_bytes / gib:.3f} GiB, optimizer "
        f"{flight.state_bytes / gib:.3f} ({flight.state_copies:.2f} copies over all chips), "
        f"temporary (activations, gradients) {flight.temporary_bytes / gib:.3f}",
        f"  FLOPs a chip and step: model {flight.model_flops:.3g}, update "
        f"{flight.update_flops:.3g} ({share})",
        f"  collectives a chip and step: {moved}",
        f"  roofline: compute {1e3 * flight.compute_seconds:.1f} ms (peak bf16, with what "
        f"remat={remat} makes again), memory {1e3 * flight.memory_seconds:.1f} ms (all that "
        f"is held read and written once), network {1e3 * flight.network_seconds:.1f} ms (all "
        f"links, nothing hidden): MFU at most {flight.mfu_bound:.0%}",
        *_estimate(flight),
        f"  compiled in {flight.compile_seconds:.0f} s; to train so: "
        + " ".join(f"--config.mesh.{axis}={size}" for axis, size in axes),
    ]
    if not flight.fits:
        lines.append(TO_FIT)
    elif remat != "none" and flight.total_bytes < 0.5 * flight.hbm_bytes:
        lines.append(FASTER)
    return "\n".join(lines)


def _estimate(flight: Flight) -> list[str]:
    """The compiler's own time, in lines."""
    total = sum(flight.estimate.values())
    notes = [f"  note: {note}" for note in flight.estimate_notes]
    if not total:
        return notes
    parts = ", ".join(f"{part} {ms:.1f}" for part, ms in flight.estimate.items())
    refresh = ""
    if flight.estimate_refresh > 1.01 * total:
        refresh = f"; {flight.estimate_refresh:.1f} ms where preconditioners are refreshed"
    return [
        f"  compiler's estimate: {total:.1f} ms ({parts}), MFU {flight.mfu_estimate:.0%}{refresh}; "
        "its cycles for every operation and the bundles of attention's kernels, without "
        "collectives and waiting",
        *notes,
    ]


FASTER = (
    "  there is room: --config.program.remat=dots or none makes less again; compare the estimates"
)
TO_FIT = (
    "  to fit: --config.program.accumulate=2 (or more), --config.program.remat=block, "
    "--config.program.loss_chunks=32, or a larger topology"
)
