"""What a program offers the loop, which knows neither how many runs there are nor where they live.

`solo.py` is one run sharded over a mesh, `packed.py` many runs at once; `step.py` is what both do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import jax
import numpy as np
from jax import Array

from lm.run.step import Report, State

# Steps of one call on CPU, where a call costs as much as a small step. How many of them are
# trained is traced.
CPU_STEPS_PER_CALL = 16
GIB = 2**30


class Program(Protocol):
    """Trains the runs of `configs` together; member i is `configs[i]`. Its state is opaque."""

    configs: Sequence[Mapping]
    capacity: int  # runs that its state has room for, idle places among them
    steps_per_call: int
    host: tuple[int, int]  # (index, number) of the processes that share a batch
    rows: dict[str, int]  # of an evaluation's batch: at `most`, and a `multiple` of
    device_kind: str
    device_count: int

    def init(self) -> State:
        """A fresh state on the devices."""

    def advance(
        self, state: State, batches: Sequence[np.ndarray], active: np.ndarray, *, fresh: bool
    ) -> tuple[State, Report]:
        """Trains the active members; the others stand still. `state` may not be used again.

        Args:
          batches: of each member (k, B / hosts, T), this host's share; k <= steps_per_call.
          active: (members,) bool.
          fresh: whether a line of the curve was written just before.
        """

    def evaluate(
        self, state: State, tokens_EBT: np.ndarray, weight_EB: np.ndarray, active: np.ndarray
    ) -> Array:
        """Sums over the batches, (..., 2): nats and predicted tokens; every host passes all."""

    def fetch(self, tree):
        """Device numbers as numpy, with a leading axis of members."""

    def optimizer_bytes(self, state: State) -> int:
        """Bytes of one member's optimizer state over all devices, copies not counted."""

    def members(self, state: State) -> list[State]:
        """The state of each run, as a checkpoint stores it."""

    def abstract_members(self) -> list[State]:
        """Shapes, dtypes and placements that a checkpoint of each run is restored to."""

    def join(self, members: list[State]) -> State:
        """The program's state from restored members."""


def check_memory(program: Program) -> None:
    """Raises MemoryError, one line, for a state that is larger than the memory of its devices."""
    state, devices = program.abstract_members()[0], jax.devices()[: program.device_count]
    needed, own = (program.capacity * _bytes(tree) for tree in (state, state.optimizer))
    held = _held(devices)
    if held and needed > held:
        raise MemoryError(
            f"the training state takes {needed / GIB:,.1f} GiB, {own / GIB:,.1f} of them the "
            f"optimizer's; its devices hold {held / GIB:,.1f}"
        )


def _bytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _held(devices) -> int:
    """Bytes that the devices hold together, 0 where they do not say; CPU devices share theirs."""
    if devices[0].platform == "cpu":
        hosts = len({device.process_index for device in devices})
        return hosts * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    each = jax.local_devices()[0].memory_stats() or {}
    return len(devices) * each.get("bytes_limit", 0)
