"""Where a worker's packs run: a few calls, whatever is behind them.

An executor holds no truth. A pack is over when its trials have results in the store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from sweeps.dispatch.right import Right

# Why a pack ended without all its results. Divergence is not among them: it is a result. A pack
# that was "stopped" has saved and counts as not finished, not as a failed attempt. "room": the
# state is larger than this machine's memory, which is known before anything is compiled.
CAUSES = ("failed", "memory", "room", "killed", "timeout", "preempted", "disk", "stopped")


class Report(NamedTuple):
    """The end of a pack: no cause when every member wrote its result."""

    cause: str | None = None
    reason: str = ""
    where: str = ""  # the machine


class Executor(ABC):
    widest = 1_000_000  # most members of a pack
    right: Right  # of the worker whose packs these are; set before the first start

    @abstractmethod
    def capacity(self) -> int:
        """How many more packs can start now."""

    @abstractmethod
    def start(self, configs: Sequence[dict], folders: Sequence[str], *, timeout: float) -> Any:
        """Starts one pack; returns its handle."""

    @abstractmethod
    def poll(self, handle: Any) -> Report | None:
        """None while the pack runs, else how it ended. Never blocks for long."""

    @abstractmethod
    def stop(self) -> None:
        """Asks all packs to save and end; `poll` says when they have."""

    @abstractmethod
    def close(self) -> None:
        """Ends everything this executor started, at once."""
