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
from lm.run.evaluation import Evaluation
from lm.run.program import CPU_STEPS_PER_CALL, Program

CPU_CAPACITY = 16  # places of a pack on CPU


class Packed(Program):
    """Runs of one `program_key`, advanced together. Member i of the pack is `configs[i]`."""

    def __init__(
        self,
        configs: Sequence[Mapping],
        devices: Sequence | None = None,
        *,
        together: bool | None = None,
    ):
        """`together`: whether the members on a device step at once (by default on accelerators), or
        one after the other."""
        if len({program_key(c) for c in configs}) != 1:
            raise ValueError("the runs of a pack must share a program and a number of steps")
        self.configs, self.size = configs, len(configs)
        self.steps_per_call = configs[0]["program"]["steps_per_call"] or CPU_STEPS_PER_CALL
        devices = list(devices or pack_devices())
        # Where members take turns an idle place costs nothing, so all packs of a program share one
        # capacity and one compilation; vmapped members cost the same idle or not.
        together = not _on_cpu(devices) if together is None else together
        places = self.size if together else max(self.size, CPU_CAPACITY)
        width = -(-places // len(devices))
        self.capacity = width * len(devices)
        # Neighbouring members go to different devices, so that a half-full pack still uses all of
        # them.
        self.slots = np.array(
            [(i % len(devices)) * width + i // len(devices) for i in range(self.size)]
        )
        self.mesh = Mesh(np.array(devices), ("trial",), axis_types=(AxisType.Auto,))
        self.sharding = NamedSharding(self.mesh, P("trial"))
        self.functions = _compiled(configs[0], self.mesh, self.steps_per_call, together)
        self.device_kind, self.device_count = devices[0].device_kind, len(devices)
        self.rows = {}
        self.host = (0, 1)  # a pack lives in one process and reads whole batches

    @functools.cached_property
    def hparams(self) -> dict[str, Array]:
        rows = [step_lib.hyperparameters(config) for config in self.configs]
        return {name: self._place([row[name] for row in rows]) for name in rows[0]}

    @functools.cached_property
    def seeds(self) -> Array:
        return self._place([config["train"]["seed"] for config in self.configs])

    def init(self) -> step_lib.State:
        return self.functions.init(self.functions.params(self.seeds), self.hparams, self.seeds)

    def advance(self, state, batches, active, *, fresh):
        count = len(batches[0])
        block = np.zeros(
            (self.capacity, self.steps_per_call, *batches[0].shape[1:]), batches[0].dtype
        )
        block[self.slots, :count] = batches
        steps = np.zeros(self.capacity, np.int32)
        steps[self.slots] = np.where(active, count, 0)
        put = functools.partial(jax.device_put, device=self.sharding)
        numbers = put(block), put(steps), np.bool(fresh)
        return self.functions.advance(state, self.hparams, *numbers)

    def lower(self, platform: str, part: str = "step"):
        """A part lowered for a platform from shapes alone: "init", "step" or "evaluation".

        Nothing is allocated. An evaluation is that of `eval.sequences` rows.
        """
        first = self.configs[0]
        train, T = first["train"], first["model"]["sequence_length"]

        def rows(shape, dtype, sharding=self.sharding):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        whole = NamedSharding(self.mesh, P())
        ones, state = rows((self.capacity,), jnp.int32), self.abstract_state()
        hparams = self._abstract_numbers()
        count = first["eval"]["sequences"]
        found = Evaluation(np.zeros((count, 1), np.uint16), None, count).tokens_EBT.shape[:2]
        block = (self.capacity, self.steps_per_call, train["batch_size"], T)
        one = rows((), jnp.bool, whole)
        parts = {
            "init": (self.functions.init, state.params, hparams, ones),
            "step": (self.functions.advance, state, hparams, rows(block, jnp.uint16), ones, one),
            "evaluation": (
                self.functions.evaluate,
                state.params,
                rows((*found, T), jnp.uint16, whole),
                rows(found, jnp.float32, whole),
                ones,
            ),
        }
        function, *arguments = parts[part]
        return function.trace(*arguments).lower(lowering_platforms=(platform,))

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
        shapes = self.abstract_state()
        one = jax.tree.map(lambda x: np.empty(x.shape[1:], x.dtype), shapes)
        return [one] * self.size

    def abstract_state(self) -> step_lib.State:
        """Shapes, dtypes and placements of the whole pack's state."""
        seeds = jax.ShapeDtypeStruct((self.capacity,), jnp.int32)
        params = jax.eval_shape(self.functions.params, seeds)
        shapes = jax.eval_shape(self.functions.init, params, self._abstract_numbers(), seeds)
        return self._placed(shapes)

    def _abstract_numbers(self):
        numbers = step_lib.hyperparameters(self.configs[0])
        return self._placed(
            {k: jax.ShapeDtypeStruct((self.capacity,), v.dtype) for k, v in numbers.items()}
        )

    def _placed(self, shapes):
        place = functools.partial(jax.ShapeDtypeStruct, sharding=self.sharding)
        return jax.tree.map(lambda x: place(x.shape, x.dtype), shapes)

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


def _compiled(config: Mapping, mesh: Mesh, steps_per_call: int, together: bool) -> _Functions:
    """The jitted functions of a program.

    All optimizers of a model share the first two; all ratios of a size share the others too, since
    the number of steps is traced.
    """
    how, dtype = canonical(config["program"]), config["train"]["compute_dtype"]
    any_steps = {**config, "train": {**config["train"], "steps": 0}}
    run, walk = step_lib.build(config), jax.vmap if together else _one_by_one

    def once(key, build):
        if key not in _CACHE:
            _CACHE[key] = build(run, mesh, walk)
        return _CACHE[key]

    where = how, mesh, together
    return _Functions(
        *once((canonical(config["model"]), dtype, where), _of_model),
        *once((program_key(any_steps), where, steps_per_call), _of_optimizer),
    )


def _one_by_one(member: Callable) -> Callable:
    return lambda *pack: jax.lax.map(lambda one: member(*one), pack)


def _of_model(run: step_lib.Run, mesh: Mesh, walk: Callable) -> tuple[Callable, Callable]:
    def evaluate(params, tokens_EBT, weight_EB, batches):
        def one(params, count):
            def body(i, total):
                tokens_BT = tokens_EBT[i].astype(jnp.int32)
                return total + run.evaluate(params, tokens_BT, weight_EB[i])

            return jax.lax.fori_loop(0, count, body, jnp.zeros(2, jnp.float32))

        return walk(one)(params, batches)

    trial = P("trial")
    return _jit(walk(run.params), mesh, trial), _jit(evaluate, mesh, trial, P(), P(), trial)


def _of_optimizer(run: step_lib.Run, mesh: Mesh, walk: Callable) -> tuple[Callable, Callable]:
    def advance(state, hparams, block, steps, fresh):
        if walk is jax.vmap:
            return run.advance_together(state, hparams, block, steps, fresh)
        return walk(lambda *one: run.advance(*one, fresh))(state, hparams, block, steps)

    trial = P("trial")
    return (
        _jit(walk(run.init), mesh, *[trial] * 3),
        _jit(advance, mesh, *[trial] * 4, P(), donate_argnums=0),
    )


def _jit(f: Callable, mesh: Mesh, *specs: P, **options) -> Callable:
    """`f` on the share of each device of the `trial` axis."""
    spread = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=P("trial"), check_vma=False)
    return jax.jit(spread, **options)
