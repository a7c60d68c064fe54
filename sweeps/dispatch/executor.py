"""Where packs run: a few calls, whatever is behind them.

An executor holds no truth. A pack is over when its trials have result files; if the driver dies,
the next one reads those files and plans again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Why a pack ended without all its results. Divergence is not among them: it is a result.
CAUSES = ("failed", "memory", "killed", "timeout", "preempted", "disk")


class Report(NamedTuple):
    """The end of a pack: no cause when every member wrote its result."""

    cause: str | None = None
    reason: str = ""
    where: str = ""  # the machine


class Executor(ABC):
    widest = 1_000_000  # most members of a pack

    @abstractmethod
    def capacity(self) -> int:
        """How many more packs can start now."""

    @abstractmethod
    def start(self, configs: Sequence[dict], folders: Sequence[Path], *, timeout: float) -> Any:
        """Starts one pack; returns its handle.

        Raises:
          ValueError: if no resource here can ever run it.
        """

    @abstractmethod
    def poll(self, handle: Any) -> Report | None:
        """None while the pack runs, else how it ended. Never blocks for long."""

    @abstractmethod
    def cancel(self, handle: Any) -> None:
        """Stops a pack; its trials without results are as if they had never started."""

    @abstractmethod
    def close(self) -> None:
        """Ends everything this executor started."""

    def adopt(self) -> Iterable[tuple[Sequence[dict], Any]]:
        """(configs, handle) of packs that a driver before this one left running."""
        return ()
