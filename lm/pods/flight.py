"""What a compiler says of a training step on a topology: memory, network, roofline, time."""

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
from lm.run import mesh
from lm.run import step as step_lib
from lm.run.packed import Packed
from lm.run.program import Program
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


def check(
    config: Mapping, topology: str, run: str = "", *, members: int = 0, alone: bool = False
) -> Flight:
    """Compiles start, step and evaluation of a finalised run for a topology such as `v5e:16x16`.

    Attention is the platform's: splash, or cuDNN for `h100:8`.

    Args:
      members: of a pack, runs that differ in numbers alone and share the chips; 0: the run itself.
      alone: the step alone.
    Raises:
      ConfigError: an unknown topology, or a mesh that does not fit the run.
      TooLarge: one of them needs more memory than a chip has.
    """
    config, devices = {k: dict(v) for k, v in config.items()}, devices_of(topology)
    platform = platform_of(topology)
    config["program"] |= {"attention": AUTO[platform], "steps_per_call": 1}
    program = Packed([config] * members, devices) if members else Solo([config], devices)
    start = time.monotonic()
    parts = () if alone else ("init", "evaluation")
    others = [_compile(program, platform, part).memory_analysis() for part in parts]
    compiled = _compile(program, platform, "step")
    seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    state = program.abstract_state()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    # An evaluation holds the optimizer's state too, which it does not take as an argument.
    totals = [_total(memory), *(_total(other) for other in others)]
    totals[-1] += 0 if alone else _local_bytes(state.optimizer)
    total = max(totals)
    share = program.capacity / len(devices)  # of a run, on each chip
    model, train = config["model"], config["train"]
    tokens = train["batch_size"] * model["sequence_length"]
    model_flops = 3 * flops.forward_flops_per_token(model) * tokens * share
    config["program"]["loss_chunks"] = chunks(config, program.mesh.shape)
    repeated = flops.repeated_flops_per_token(config) * tokens * share
    text = compiled.as_text()
    update_flops, replication = _update(config, program, text, share)
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


def shape(config: Mapping, topology: str) -> dict[str, int]:
    """The mesh of a finalised run on a topology. Raises ConfigError as `check` does."""
    return dict(mesh.make(config, devices_of(topology)).shape)


def _compile(program: Program, platform: str, part: str):
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


def chunks(config: Mapping, axes: Mapping) -> int:
    """In how many chunks the loss goes, its own choice on this mesh included."""
    model, train, program = (config[k] for k in ("model", "train", "program"))
    rows = train["batch_size"] // program["accumulate"] // axes.get("data", 1)
    vocab = math.ceil(model["vocab_size"] / axes.get("model", 1))
    itemsize = 2 if train["compute_dtype"] == "bfloat16" else 4
    least = chunk_count(rows, model["sequence_length"], vocab, itemsize)
    return program["loss_chunks"] or least


def _bytes(tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _local_bytes(tree) -> int:
    """Bytes of the abstract arrays that one chip holds."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _update(
    config: Mapping, program: Program, text: str, share: float
) -> tuple[float, float | None]:
    """(FLOPs of the update on one chip, how often its matrix products are made over all chips).

    The products of the compiled step against those of the update lowered for one device, both
    counted by `hlo.products`, with refreshes or without, whichever is worse; None where an update
    has none. The whole is `optim.describe`'s.
    """
    spec = optim.spec(**config["optimizer"])
    member = program.abstract_members()[0]
    params, optimizer = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (member.params, member.optimizer)
    )
    tx = spec.build(roles=model_lib.role, **step_lib.hyperparameters(config))

    def update(grads, state, params):
        return tx.update(grads, state, params, value=np.float32(0), grad_fn=lambda p: p)

    alone = jax.jit(update).lower(params, optimizer, params).as_text(dialect="hlo")
    here = hlo.products(text, scope=step_lib.UPDATE)
    pairs = zip(here, hlo.products(alone), strict=True)
    sums = [(sum(chip.values()), sum(whole.values())) for chip, whole in pairs]
    times = [chip / whole / share for chip, whole in sums if whole]
    replication = max(times, default=None)
    total = optim.describe(spec, params, roles=model_lib.role).flops
    return total * share * (replication or 1.0), replication
