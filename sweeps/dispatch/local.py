"""Packs on this machine: in this process, or in warm worker processes that may crash without harm.

A worker imports JAX once and takes packs one after the other over its standard input. A crash, an
out-of-memory kill or a hang takes down one worker with one pack; the worker is replaced when the
next pack needs it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sweeps.dispatch.executor import Executor, Report
from sweeps.dispatch.lease import LOST

TRAINER = "lm.train:train_pack"
STARTED = b"started"  # what a worker says when it begins with a pack, its imports behind it


def trainer(name: str) -> Callable:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def run_pack(name: str, configs: Sequence[dict], folders: Sequence[Path], log=print) -> Report:
    """Trains one pack here and says how it ended; the study's own copies of optimizers by import
    path are the ones it trains with.
    """
    try:
        if any("source" in config["optimizer"] for config in configs):
            from optim import plugins

            plugins.look_in(Path(folders[0]).parents[1] / "optimizers")
        trainer(name)(configs, folders, log=log)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" for {error.filename}" if error.filename else ""
            return Report("disk", f"no space left on the device{where}")
        return Report("failed", f"{type(error).__name__}: {error}")
    except Exception as error:
        full = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Report("memory" if full else "failed", reason)
    return Report()


class Inline(Executor):
    """One pack at a time in this process: it runs inside `poll`, which returns when it is over."""

    def __init__(self, *, trainer: str = TRAINER, log: Callable = print):
        self.trainer, self.log, self.busy = trainer, log, False

    def capacity(self) -> int:
        return 0 if self.busy else 1

    def start(self, configs: Sequence[dict], folders: Sequence[Path], *, timeout: float) -> tuple:
        self.busy = True
        return configs, folders

    def poll(self, handle: tuple) -> Report:
        self.busy = False
        return run_pack(self.trainer, *handle, log=self.log)

    def cancel(self, handle: tuple) -> None:
        self.busy = False

    def close(self) -> None:
        pass


class Workers(Executor):
    """Warm worker processes, each running one pack at a time."""

    def __init__(self, count: int, *, trainer: str = TRAINER, log_folder: Path, threads: int = 0):
        """Args:
        count: worker processes.
        log_folder: what the workers print goes to files here.
        threads: CPU threads of each worker, 0 to share out the machine's.
        """
        self.count, self.trainer = count, trainer
        self.log_folder = Path(log_folder)
        self.threads = threads or max(1, (os.cpu_count() or 1) // count)
        self.slots = list(range(count))  # each worker's own cores
        self.idle: list[_Worker] = []
        self.busy: set[_Worker] = set()

    def capacity(self) -> int:
        return self.count - len(self.busy)

    def start(self, configs: Sequence[dict], folders: Sequence[Path], *, timeout: float) -> _Worker:
        worker = self.idle.pop() if self.idle else _Worker(self)
        self.busy.add(worker)
        worker.send(configs, folders, timeout)
        return worker

    def poll(self, handle: _Worker) -> Report | None:
        report = handle.poll()
        if report is not None:
            self.busy.discard(handle)
            if handle.alive():
                self.idle.append(handle)
            else:
                self.slots.append(handle.slot)
        return report

    def cancel(self, handle: _Worker) -> None:
        handle.kill()
        self.busy.discard(handle)
        self.slots.append(handle.slot)

    def close(self) -> None:
        for worker in [*self.idle, *self.busy]:
            worker.kill()
        self.idle, self.busy, self.slots = [], set(), list(range(self.count))


class _Worker:
    """One child process; it dies with its driver because its standard input closes."""

    def __init__(self, owner: Workers):
        owner.log_folder.mkdir(parents=True, exist_ok=True)
        self.output, self.slot = b"", owner.slots.pop(0)
        with open(owner.log_folder / f"worker-{self.slot}.log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "sweeps.dispatch.worker"),
                    *(owner.trainer, str(owner.threads), str(self.slot)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a signal to the driver's group is the driver's to handle
            )
        os.set_blocking(self.process.stdout.fileno(), False)

    def send(self, configs: Sequence[dict], folders: Sequence[Path], timeout: float) -> None:
        self.timeout, self.deadline = timeout, float("inf")
        order = {"configs": list(configs), "folders": [str(folder) for folder in folders]}
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died while idle; poll says so

    def poll(self) -> Report | None:
        chunk = self.process.stdout.read()
        self.output += chunk or b""
        while b"\n" in self.output:
            line, self.output = self.output.split(b"\n", 1)
            if line != STARTED:
                return Report(**json.loads(line))
            self.deadline = time.monotonic() + self.timeout
        if (code := self.process.poll()) is not None:
            self.kill()
            return Report(_exit_cause(code), _exit_reason(code))
        if time.monotonic() > self.deadline:
            self.kill()
            return Report("timeout", "no result within its time limit")
        return None

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Ends the process, if it has not ended by itself, and lets go of its pipes."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


def _exit_cause(code: int) -> str:
    return "killed" if code < 0 else "preempted" if code == LOST else "failed"


def _exit_reason(code: int) -> str:
    if code == LOST:
        return "another process has taken its trials over"
    if code >= 0:
        return f"its process exited with code {code}"
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"
