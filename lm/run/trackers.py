"""Optional mirrors of a run's curve (TensorBoard, Weights & Biases, MLflow), and the profiler.

Never the only copy: the curve on disk is the record, and a tracker that is not installed is an
error before anything trains.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path

import jax

from lm.config import ConfigError
from lm.storage import in_bucket


class Trackers:
    """What the `log` section of a config switched on; nothing but the profiler on other hosts."""

    def __init__(self, config: Mapping, folder: Path, *, first_host: bool):
        """Opens the trackers of a finalised config.

        Raises:
          ConfigError: for a package that is not installed, a window that is not first:last, or
            files that cannot be written to a bucket.
        """
        log, self.folder, self.tracing = config["log"], folder, False
        for field in ("profile", "tensorboard"):
            if log[field] and in_bucket(folder):
                raise ConfigError(f"log.{field}={log[field]!r} writes to folders, not to {folder}")
        self.window = None
        if log["profile"]:
            match = re.fullmatch(r"(\d+):(\d+)", log["profile"])
            if not match or int(match[1]) >= int(match[2]):
                raise ConfigError(f"log.profile={log['profile']!r} is not first:last, as in 20:30")
            self.window = int(match[1]), int(match[2])
        self.events = self.run = self.mlflow = None
        if first_host and log["tensorboard"]:
            writer = _module("tensorboardX", "log.tensorboard").SummaryWriter
            self.events = writer(str(folder / "events"))
        if first_host and log["wandb"]:
            options = {"name": folder.name, "config": dict(config), "resume": "allow"}
            self.run = _module("wandb", "log.wandb").init(project=log["wandb"], **options)
        if first_host and log["mlflow"]:
            self.mlflow = _module("mlflow", "log.mlflow")
            self.mlflow.set_experiment(log["mlflow"])
            self.mlflow.start_run(run_name=folder.name)
            self.mlflow.log_dict(dict(config), "config.json")

    def line(self, values: Mapping) -> None:
        """A line of the curve."""
        numbers, step = {k: v for k, v in values.items() if isinstance(v, float)}, values["step"]
        if self.events is not None:
            for name, value in numbers.items():
                self.events.add_scalar(name, value, step)
        if self.run is not None:
            self.run.log(numbers, step=step)
        if self.mlflow is not None:
            self.mlflow.log_metrics(numbers, step=step)

    def profile(self, step: int) -> None:
        """Starts and stops the profiler at the steps of its window."""
        if self.window is None:
            return
        first, last = self.window
        if not self.tracing and first <= step < last:
            jax.profiler.start_trace(str(self.folder / "profile"))
            self.tracing = True
        elif self.tracing and step >= last:
            jax.profiler.stop_trace()
            self.tracing, self.window = False, None

    def close(self) -> None:
        if self.tracing:
            jax.profiler.stop_trace()
        if self.events is not None:
            self.events.close()
        if self.run is not None:
            self.run.finish()
        if self.mlflow is not None:
            self.mlflow.end_run()


def _module(name: str, field: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(f"{field} needs the package {name}: pip install {name}") from None
