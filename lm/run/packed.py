"""The packed program: up to `capacity` runs that differ only in numbers, trained at once.

Members are spread over the devices of a `trial` axis; on one device they are vmapped (accelerators)
or walked one after the other by `lax.map` (CPU, where a small model's state stays in cache and
nothing is padded). Either way the pack is one compiled program, and a member's numbers never depend
on its neighbours.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.config import canonical, program_key
from lm.run import step as step_lib
from lm.run.program import CPU_STEPS_PER_CALL, Program

CPU_CAPACITY = 16  # places of a pack on CPU


class Packed(Program):
    """Runs of one `program_key`, advanced together. Member i of the pack is `configs[i]`."""

    def __init__(self, configs: Sequence[Mapping], devices: Sequence | None = None):
        if len({program_key(c) for c in configs}) != 1:
            raise ValueError("the runs of a pack must share a program and a number of steps")
        self.configs, self.size = configs, len(configs)
        self.steps_per_call = configs[0]["program"]["steps_per_call"] or CPU_STEPS_PER_CALL
        devices = list(devices or pack_devices())
        # On CPU an idle place costs nothing, so all packs of a program share one capacity and one
        # compilation; vmapped members cost the same idle or not.
        places = max(self.size, CPU_CAPACITY) if _on_cpu(devices) else self.size
        width = -(-places // len(devices))
        self.capacity = width * len(devices)
        # Neighbouring members go to different devices, so that a half-full pack still uses all of
        # them.
        self.slots = np.array(
            [(i % len(devices)) * width + i // len(devices) for i in range(self.size)]
        )
        self.mesh = Mesh(np.array(devices), ("trial",), axis_types=(AxisType.Auto,))
        self.sharding = NamedSharding(self.mesh, P("trial"))
        self.functions = _compiled(configs[0], self.mesh, self.steps_per_call)
        self.device_kind, self.device_count = devices[0].device_kind, len(devices)
        self.rows = {}
        self.host = (0, 1)  # a pack lives in one process and reads whole batches
        rows = [step_lib.hyperparameters(c) for c in configs]
        self.hparams = {k: self._place([row[k] for row in rows]) for k in rows[0]}
        self.seeds = self._place([c["train"]["seed"] for c in configs])

    def init(self) -> step_lib.State:
        return self.functions.init(self.functions.params(self.seeds), self.hparams)

    def advance(
        self, state, batches: Sequence[np.ndarray], active: np.ndarray
    ) -> tuple[step_lib.State, step_lib.Report]:
        """Trains the active members on `batches[i]` (k, B, T), k <= steps_per_call; the others
        stand still.
        """
        count = len(batches[0])
        block = np.zeros(
            (self.capacity, self.steps_per_call, *batches[0].shape[1:]), batches[0].dtype
        )
        block[self.slots, :count] = batches
        steps = np.zeros(self.capacity, np.int32)
        steps[self.slots] = np.where(active, count, 0)
        put = functools.partial(jax.device_put, device=self.sharding)
        return self.functions.advance(state, self.hparams, put(block), put(steps))

    def evaluate(self, state, tokens_EBT, weight_EB, active: np.ndarray) -> Array:
        """Sums over the batches, (capacity, 2): nats and predicted tokens; 0 where inactive."""
        batches = np.zeros(self.capacity, np.int32)
        batches[self.slots] = np.where(active, len(tokens_EBT), 0)
        batches = jax.device_put(batches, self.sharding)
        return self.functions.evaluate(step_lib.judged(state), tokens_EBT, weight_EB, batches)

    def optimizer_bytes(self, state) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(state.optimizer)) // self.capacity

    def fetch(self, tree):
        """A tree of (capacity, ...) device arrays as numpy, members in the order of the configs."""
        return jax.tree.map(lambda x: np.asarray(x)[self.slots], tree)

    def members(self, state) -> list:
        host = self.fetch(state)
        return [jax.tree.map(lambda x, i=i: x[i], host) for i in range(self.size)]

    def abstract_members(self) -> list:
        shapes = jax.eval_shape(self.init)
        one = jax.tree.map(lambda x: np.empty(x.shape[1:], x.dtype), shapes)
        return [one] * self.size

    def join(self, members: list) -> step_lib.State:
        return jax.tree.map(lambda *xs: self._place(np.stack(xs)), *members)

    def _place(self, values) -> Array:
        values = np.asarray(values)
        full = np.repeat(values[:1], self.capacity, axis=0)
        full[self.slots] = values
        return jax.device_put(full, self.sharding)


def _on_cpu(devices) -> bool:
    return devices[0].platform == "cpu"


def pack_devices() -> list:
    """Devices to spread a pack over: all accelerators, or as many CPU devices as this process has
    cores.
    """
    devices = jax.local_devices()
    if _on_cpu(devices):
        return devices[: len(os.sched_getaffinity(0))]
    return devices


# Compiled functions of this process: a cell's later packs compile nothing.
_CACHE: dict[tuple, tuple] = {}


class _Functions(NamedTuple):
    params: Callable
    evaluate: Callable
    init: Callable
    advance: Callable


def _compiled(config: Mapping, mesh: Mesh, steps_per_call: int) -> _Functions:
    """The jitted functions of a program.

    All optimizers of a model share the first two; all ratios of a size share the others too, since
    the number of steps is traced.
    """
    how, dtype = canonical(config["program"]), config["train"]["compute_dtype"]
    any_steps = {**config, "train": {**config["train"], "steps": 0}}
    run = step_lib.build(config)

    def once(key, build):
        if key not in _CACHE:
            _CACHE[key] = build(run, mesh)
        return _CACHE[key]

    return _Functions(
        *once((canonical(config["model"]), dtype, how, mesh), _of_model),
        *once((program_key(any_steps), how, mesh, steps_per_call), _of_optimizer),
    )


def _of_model(run: step_lib.Run, mesh: Mesh) -> tuple[Callable, Callable]:
    def evaluate(params, tokens_EBT, weight_EB, batches):
        def one(args):
            params, count = args

            def body(i, total):
                tokens_BT = tokens_EBT[i].astype(jnp.int32)
                return total + run.evaluate(params, tokens_BT, weight_EB[i])

            return jax.lax.fori_loop(0, count, body, jnp.zeros(2, jnp.float32))

        return _walk(one, (params, batches), mesh)

    trial = P("trial")
    return (
        _jit(lambda seeds: _walk(run.params, seeds, mesh), mesh, trial),
        _jit(evaluate, mesh, trial, P(), P(), trial),
    )


def _of_optimizer(run: step_lib.Run, mesh: Mesh) -> tuple[Callable, Callable]:
    def init(params, hparams):
        return _walk(lambda a: run.init(*a), (params, hparams), mesh)

    def advance(state, hparams, block, steps):
        return _walk(lambda a: run.advance(*a), (state, hparams, block, steps), mesh)

    trial = P("trial")
    return (
        _jit(init, mesh, trial, trial),
        _jit(advance, mesh, trial, trial, trial, trial, donate_argnums=0),
    )


def _walk(member: Callable, pack, mesh: Mesh):
    """`member` of every member that lies on a device."""
    on_cpu = _on_cpu(mesh.devices.flat)
    return jax.lax.map(member, pack) if on_cpu else jax.vmap(member)(pack)


def _jit(f: Callable, mesh: Mesh, *specs: P, **options) -> Callable:
    """`f` on the share of each device of the `trial` axis."""
    spread = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=P("trial"), check_vma=False)
    return jax.jit(spread, **options)
