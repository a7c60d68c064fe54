"""The solo program: one run sharded over a mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint.multihost import sync_global_processes

import optim
from lm.run import mesh as mesh_lib
from lm.run import step as step_lib
from lm.run.evaluation import ROWS, Evaluation
from lm.run.program import CPU_STEPS_PER_CALL, Program


class Solo(Program):
    """One run; its state is spread over all devices of the mesh, its batch over the `data` axis."""

    def __init__(self, configs: Sequence[Mapping], devices: Sequence | None = None):
        self.configs, (self.config,), self.capacity = configs, configs, 1
        self.mesh = mesh_lib.make(self.config, devices)
        flat = self.mesh.devices.flat
        on_cpu = flat[0].platform == "cpu"  # there a call costs as much as a small step
        self.steps_per_call = self.config["program"]["steps_per_call"] or (
            CPU_STEPS_PER_CALL if on_cpu else 1
        )
        self.device_kind, self.device_count = flat[0].device_kind, self.mesh.size
        # What fits a training step fits an evaluation, which makes no gradients.
        microbatch = self.config["train"]["batch_size"] // self.config["program"]["accumulate"]
        self.rows = {"most": max(microbatch, ROWS), "multiple": self.mesh.shape["data"]}
        self.host = (jax.process_index(), jax.process_count())
        self.run = step_lib.build(self.config)
        self.numbers = step_lib.hyperparameters(self.config)
        self.seed = np.int32(self.config["train"]["seed"])
        self.whole = whole = NamedSharding(self.mesh, P())
        self.batch_sharding = NamedSharding(self.mesh, P(None, "data"))
        with jax.set_mesh(self.mesh):
            self.shapes = jax.eval_shape(self._start, self.seed, self.numbers)
            self.shardings = mesh_lib.placements(
                self.mesh,
                self.shapes,
                lambda p: self.run.init(p, self.numbers, self.seed).optimizer,
                optim.catalogue.get(self.config["optimizer"]["name"]).place,
            )
            self._init = jax.jit(self._start, out_shardings=self.shardings)
            self._advance = jax.jit(
                self._call, donate_argnums=0, out_shardings=(self.shardings, whole)
            )
            self._evaluate = jax.jit(self._sums, out_shardings=whole)
        self._step = None  # `_advance` as it is called, from the first call on

    def _start(self, seed, hparams):
        return self.run.init(self.run.params(seed), hparams, seed)

    def _call(self, state, hparams, block_KBT, steps, fresh):
        # A loop of one known step is no loop to the compiler.
        steps = steps if self.steps_per_call > 1 else 1
        return self.run.advance(state, hparams, block_KBT, steps, fresh)

    def _sums(self, params, tokens_EBT, weight_EB):
        def body(total, batch):
            tokens_BT, weight_B = batch
            return total + self.run.evaluate(params, tokens_BT.astype(jnp.int32), weight_B), None

        return jax.lax.scan(body, jnp.zeros(2, jnp.float32), (tokens_EBT, weight_EB))[0]

    @cached_property
    def hparams(self) -> dict[str, Array]:
        """The run's numbers, whole on every device."""
        return {k: jax.device_put(v, self.whole) for k, v in self.numbers.items()}

    def init(self) -> step_lib.State:
        with jax.set_mesh(self.mesh):
            return self._init(jax.device_put(self.seed, self.whole), self.hparams)

    def lower(self, platform: str, part: str = "step"):
        """A part lowered for a platform from shapes alone: "init", "step" or "evaluation".

        Nothing is allocated. An evaluation is that of `eval.sequences` rows.
        """
        state = self.abstract_state()

        def whole(x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.whole)

        def rows(shape, dtype):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=self.batch_sharding)

        train, T = self.config["train"], self.config["model"]["sequence_length"]
        hparams, one = jax.tree.map(whole, self.numbers), whole(np.int32(1))
        count = self.config["eval"]["sequences"]
        found = Evaluation(np.zeros((count, 1), np.uint32), None, count, **self.rows).tokens_EBT
        parts = {
            "init": (self._init, one, hparams),
            "step": (
                self._advance,
                *(state, hparams),
                rows((self.steps_per_call, train["batch_size"], T), jnp.uint32),
                *(one, whole(np.bool(True))),
            ),
            "evaluation": (
                self._evaluate,
                state.params,
                rows((*found.shape[:2], T), jnp.uint32),
                rows(found.shape[:2], jnp.float32),
            ),
        }
        function, *arguments = parts[part]
        with jax.set_mesh(self.mesh):
            return function.trace(*arguments).lower(lowering_platforms=(platform,))

    def advance(self, state, batches, active, *, fresh):
        del active
        (local,) = batches
        count, _, T = local.shape
        local = np.pad(local, [(0, self.steps_per_call - count), (0, 0), (0, 0)])
        shape = (self.steps_per_call, self.config["train"]["batch_size"], T)
        block = jax.make_array_from_process_local_data(self.batch_sharding, local, shape)
        arguments = state, self.hparams, block, np.int32(count), np.bool(fresh)
        with jax.set_mesh(self.mesh):
            if self._step is None:
                self._step = self._compiled(*arguments)
            return self._step(*arguments)

    def _compiled(self, *arguments):
        """The step; in a job of several processes all have compiled it when this returns, since a
        collective of CPUs waits half a minute and not for somebody's compiler.
        """
        if self.host[1] == 1:
            return self._advance
        step = self._advance.lower(*arguments).compile()
        sync_global_processes(
            "the step is compiled", timeout=3600, processes={*range(self.host[1])}
        )
        return step

    def evaluate(self, state, tokens_EBT, weight_EB, active) -> Array:
        """Sums over the batches, (2,): nats and predicted tokens; each device gets its rows."""
        del active
        batches = (
            jax.make_array_from_callback(x.shape, self.batch_sharding, x.__getitem__)
            for x in (tokens_EBT, weight_EB)
        )
        with jax.set_mesh(self.mesh):
            return self._evaluate(step_lib.judged(state), *batches)

    def optimizer_bytes(self, state) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(state.optimizer))

    def fetch(self, tree):
        return jax.tree.map(lambda x: np.asarray(x)[None], tree)

    def members(self, state) -> list:
        return [state]

    def abstract_members(self) -> list:
        return [self.abstract_state()]

    def abstract_state(self) -> step_lib.State:
        """Shapes, dtypes and placements of the state."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            self.shapes,
            self.shardings,
        )

    def join(self, members: list) -> step_lib.State:
        return members[0]
