"""What a run leaves on disk: config.json, curve.jsonl, and last of all result.json."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lm.config import canonical, config_hash, what
from lm.storage import Lines, exists, in_bucket, read, write, write_json


def begin(folder: Path, config: Mapping) -> None:
    """The folder of a run, with its config.json and, if the checkout was changed, checkout.diff.

    Raises OSError where it cannot be written.
    """
    if not in_bucket(folder):  # which has no folders
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", json.loads(canonical(what(config))))
    provenance()  # of the code as it is now, not when the first run is over
    if diff := changes():
        write(folder / "checkout.diff", diff)


class Right(Protocol):
    """The right to train runs that others may train too (`sweeps.dispatch.right`)."""

    def hear(self) -> None:
        """The training loop goes on."""

    def finish(self, name: str, result: Mapping) -> object:
        """Puts a run's result.json, if the right to it is still held; raises an error if not."""


class Recorder:
    """One run's curve and result, in a folder that has begun. A disk has each line at once."""

    def __init__(
        self,
        folder: Path,
        config: Mapping,
        *,
        resume_at: int = 0,
        silent: bool = False,
        right: Right | None = None,
    ):
        """Starts the curve anew, or after step `resume_at` of an interrupted one.

        `silent` writes nothing: all hosts but the first. A result is put under `right`, if given.
        """
        self.folder, self.config, self.right, self._curve = folder, config, right, None
        self.seconds = 0.0  # trained so far, over all starts
        if silent:
            return
        path = self.folder / "curve.jsonl"
        kept = [line for line in read_curve(path) if line["step"] <= resume_at]
        self._curve = Lines(path)
        for line in kept:
            self.line(line)
            self.seconds = line.get("seconds", self.seconds)

    def line(self, values: Mapping) -> None:
        """Appends one line to the curve; non-finite numbers become null, which JSON can hold."""
        if self._curve is None:
            return
        clean = {k: _finite(v) for k, v in values.items()}
        self._curve.write(json.dumps(clean))

    def flush(self) -> None:
        """The curve up to now is safe, in a bucket too."""
        if self._curve is not None:
            self._curve.flush()

    def close(self) -> None:
        """Ends the curve, for now or for good."""
        if self._curve is not None:
            self._curve.close()

    def finish(self, result: Mapping) -> dict:
        """Writes the result: the run is over."""
        self.close()
        if self._curve is None:
            return dict(result)
        full = {
            "hash": config_hash(self.config),
            **{k: _finite(v) for k, v in result.items()},
            **provenance(),
        }
        full["finished_at"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if self.right is None:
            write_json(self.folder / "result.json", full)
        else:
            self.right.finish(self.folder.name, full)
        return full


def read_curve(path: Path) -> list[dict]:
    """Whole lines of a curve; a line cut short by a kill ends it."""
    lines = []
    if exists(path):
        for text in read(path).splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines


def _finite(value):
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


@functools.lru_cache(maxsize=1)
def provenance() -> dict:
    """Versions and, where the code is a git checkout, its commit and whether it was changed."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    diff = changes()
    return {
        "versions": {"python": platform.python_version(), **versions},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if diff is None else bool(diff),
    }


@functools.lru_cache(maxsize=1)
def changes() -> str | None:
    """What the checkout's tracked files differ by from its commit; None if it is no checkout."""
    return _git("diff", "--no-ext-diff", "HEAD")


def _git(*words: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parents[2]), *words]
    try:
        out = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() if out.returncode == 0 else None
