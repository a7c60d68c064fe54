"""Optional mirrors of a run's curve (TensorBoard, Weights & Biases) and the profiler's window.

Never the only copy: the curve on disk is the record, and a tracker that is not installed is an
error before anything trains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lm.config import ConfigError
from lm.storage import in_bucket


class Trackers:
    """What the `log` section of a config switched on, behind three calls."""

    def __init__(self, writers: list, window: tuple[int, int] | None, folder: Path):
        self.writers, self.window, self.folder, self.tracing = writers, window, folder, False

    def line(self, values: Mapping) -> None:
        """A line of the curve."""
        numbers = {k: v for k, v in values.items() if isinstance(v, float)}
        for write, _ in self.writers:
            write(numbers, values["step"])

    def profile(self, step: int) -> None:
        """Starts and stops the profiler at the steps of its window."""
        if self.window is None:
            return
        import jax

        first, last = self.window
        if not self.tracing and first <= step < last:
            jax.profiler.start_trace(str(self.folder / "profile"))
            self.tracing = True
        elif self.tracing and step >= last:
            jax.profiler.stop_trace()
            self.tracing, self.window = False, None

    def close(self) -> None:
        if self.tracing:
            import jax

            jax.profiler.stop_trace()
        for _, close in self.writers:
            close()


def trackers(config: Mapping, folder: Path, host: tuple[int, int]) -> Trackers:
    """The trackers of a finalised config; none on hosts other than the first.

    Raises:
      ConfigError: for a package that is not installed, a window that is not first:last, or files
      that cannot be written to a bucket.
    """
    log, writers = config["log"], []
    for field in ("profile", "tensorboard"):
        if log[field] and in_bucket(folder):
            raise ConfigError(f"log.{field}={log[field]!r} writes to folders, not to {folder}")
    window = None
    if log["profile"]:
        match = re.fullmatch(r"(\d+):(\d+)", log["profile"])
        if not match or int(match[1]) >= int(match[2]):
            raise ConfigError(f"log.profile={log['profile']!r} is not first:last, as in 20:30")
        window = (int(match[1]), int(match[2]))
    if host[0] == 0 and log["tensorboard"]:
        writer = _module("tensorboardX", "log.tensorboard").SummaryWriter(str(folder / "events"))

        def write(numbers, step):
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)

        writers.append((write, writer.close))
    if host[0] == 0 and log["wandb"]:
        wandb = _module("wandb", "log.wandb")
        run = wandb.init(
            project=log["wandb"], name=folder.name, config=dict(config), resume="allow"
        )
        writers.append((lambda numbers, step: run.log(numbers, step=step), run.finish))
    return Trackers(writers, window, folder)


def _module(name: str, field: str):
    try:
        return __import__(name)
    except ImportError:
        raise ConfigError(f"{field} needs the package {name}: install the extra 'log'") from None
