"""Checkpoints of one run, by Orbax: asynchronous, atomic, restorable onto any mesh.

A checkpoint is the training state and nothing else: the data position is the step, and the curve on
disk is cut back to it. Each run keeps its own, also in a pack, so that packs may be made up anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from lm.config import ConfigError
from lm.storage import in_bucket
from lm.storage.mirror import Mirror


class Checkpoints:
    """The checkpoints of the runs of a program, saved and restored together."""

    def __init__(self, folders: Sequence[Path], settings: Mapping, log: Callable[[str], None]):
        """`settings` is the config's `checkpoint` section; nothing is created before a save."""
        self.mirrors = [Mirror(f) for f in folders if in_bucket(f) and not str(f).startswith("gs:")]
        if self.mirrors and jax.process_count() > 1:
            raise ConfigError(
                f"{folders[0]}: jobs of several hosts keep checkpoints in gs:// alone"
            )
        roots = [str(f) if in_bucket(f) else f.absolute() for f in folders]
        self.folders = (
            [epath.Path(root) / "checkpoint" for root in roots]
            if not self.mirrors
            else [epath.Path(mirror.local) for mirror in self.mirrors]
        )
        self.settings, self.log = settings, log
        self.managers: list[ocp.CheckpointManager] = []
        self.saved_at, self.saved_step = time.monotonic(), 0

    def due(self, step: int, *, look: bool) -> bool:
        """Whether the policy by steps asks for a checkpoint now, or, if it is to look, the clock.

        The processes of a job all look at the clock of the first, which takes a small collective.
        """
        steps, minutes = self.settings["every_steps"], self.settings["every_minutes"]
        if steps and step // steps > self.saved_step // steps:
            return True
        if not minutes or not look:
            return False
        elapsed = np.float32(time.monotonic() - self.saved_at)
        return bool(multihost_utils.broadcast_one_to_all(elapsed) >= 60 * minutes)

    def next_step(self, step: int) -> float:
        """The next step after `step` at which the policy by steps asks for one."""
        every = self.settings["every_steps"]
        return (step // every + 1) * every if every else float("inf")

    def save(self, step: int, members: Sequence, alive: Sequence[bool]) -> None:
        """Starts saving the live members; returns once their arrays may be donated."""
        for manager, member, keep in zip(self._open(), members, alive, strict=True):
            if keep and step not in manager.all_steps():  # a final one may be there already
                manager.save(step, args=ocp.args.StandardSave(member))
        if self.mirrors:
            self.wait()
        for mirror in self.mirrors:
            mirror.push()
        self.saved_at, self.saved_step = time.monotonic(), step

    def restore(
        self,
        abstract: Callable[[], Sequence],
        *,
        before: float = float("inf"),
        discard: bool = True,
    ) -> tuple[int, list] | None:
        """The newest step that all runs have whole, and their states; None to start anew.

        `abstract` are their shapes, dtypes and placements; what is `...` there stays unread.
        `before` leaves out the checkpoints of that step and later: nothing is left to train there.
        A checkpoint that cannot be read is reported and the one before it taken; `discard` removes
        it, so that the run can save that step anew.
        """
        for mirror in self.mirrors:
            mirror.fetch()
        if not all(folder.exists() for folder in self.folders):
            return None
        managers = self._open()
        steps = set.intersection(*({*manager.all_steps()} for manager in managers))
        for step in sorted((step for step in steps if step < before), reverse=True):
            try:
                members = [
                    manager.restore(step, args=_reading(target))
                    for manager, target in zip(managers, abstract(), strict=True)
                ]
            except Exception as error:  # whatever Orbax or TensorStore say of damaged files
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                self.log(f"checkpoint {step} cannot be read, trying the one before: {reason}")
                for manager in managers if discard else []:
                    manager.delete(step)
                continue
            self.saved_step = step
            return step, members
        return None

    def wait(self) -> None:
        """Returns when every started save is on disk; raises what went wrong in the background."""
        for manager in self.managers:
            manager.wait_until_finished()
            manager.check_for_errors()

    def close(self, *, delete: bool) -> None:
        """Ends saving; removes the checkpoints of finished runs when asked."""
        self.wait()
        for manager in self.managers:
            manager.close()
        self.managers = []
        for mirror in self.mirrors:
            mirror.close(delete=delete)
        if delete and not self.mirrors and jax.process_index() == 0:
            for folder in self.folders:
                try:
                    folder.rmtree(missing_ok=True)
                except Exception as error:  # the run is over, whatever a disk or gcsfs say
                    self.log(f"{folder} is not removed: {error}")

    def _open(self) -> list[ocp.CheckpointManager]:
        if not self.managers:
            options = ocp.CheckpointManagerOptions(max_to_keep=self.settings["keep"], create=True)
            self.managers = [ocp.CheckpointManager(f, options=options) for f in self.folders]
        return self.managers


def _reading(target):
    """How Orbax is to read a checkpoint into `target`; what is `...` there stays unread."""
    if not any(leaf is ... for leaf in jax.tree.leaves(target)):  # `in` would compare arrays
        return ocp.args.StandardRestore(target)
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    return ocp.args.PyTreeRestore(item=target, restore_args=arguments)
