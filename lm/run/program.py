"""What a program offers the loop, which knows neither how many runs there are nor where they live.

`solo.py` is one run sharded over a mesh, `packed.py` many runs at once; `step.py` is what both do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from jax import Array

from lm.run.step import Report, State

# Steps of one call on CPU, where a call costs as much as a small step. How many of them are
# trained is traced.
CPU_STEPS_PER_CALL = 16


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
        self, state: State, batches: Sequence[np.ndarray], active: np.ndarray
    ) -> tuple[State, Report]:
        """Trains the active members; the others stand still. `state` may not be used again.

        Args:
          batches: of each member (k, B / hosts, T), this host's share; k <= steps_per_call.
          active: (members,) bool.
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
