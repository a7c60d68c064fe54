"""Packs on this machine: in this process, or in warm child processes that may crash without harm.

A child imports JAX once and takes packs one after the other through a pipe. A crash, an
out-of-memory kill or a hang takes down one child with one pack; it is replaced when the next pack
needs it. A trainer is `f(configs, folders, *, log, right, termination)`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lm.run.records import Right
from lm.run.stopping import Stopped, Termination
from lm.storage import Store, in_bucket
from sweeps.dispatch.executor import Executor, Report
from sweeps.dispatch.right import Lost, Pulse

TRAINER = "lm.train:train_pack"
SAVED = 60.0  # seconds a stopped child may take to save


def run_pack(
    trainer: str,
    configs: Sequence[dict],
    folders: Sequence[str],
    *,
    right: Right,
    termination: Termination,
    log: Callable = print,
) -> Report:
    """Trains one pack here and says how it ended."""
    module, _, function = trainer.partition(":")
    if configs:
        termination.grace = configs[0].get("checkpoint", {}).get("grace_seconds", 25.0)
    try:
        train = getattr(importlib.import_module(module), function)
        train(configs, folders, log=log, right=right, termination=termination)
    except (Stopped, Lost) as ended:
        return Report("stopped", str(ended))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" for {error.filename}" if error.filename else ""
            return Report("disk", f"no space left on the device{where}")
        return Report("failed", f"{type(error).__name__}: {error}")
    except MemoryError as error:
        return Report("room", str(error))
    except Exception as error:
        full = "RESOURCE_EXHAUSTED" in str(error)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Report("memory" if full else "failed", reason)
    finally:
        termination.busy = False
    return Report()


def keep_sources(store: Store, names: Sequence[str]) -> None:
    """Puts the modules of optimizers by import path into the store, for other machines."""
    from optim import plugins

    with tempfile.TemporaryDirectory() as folder:
        plugins.keep(names, folder)
        for path in sorted(Path(folder).iterdir()):
            store.write(f"optimizers/{path.name}", path.read_bytes())


def sources(store: Store) -> Path:
    """The folder with the study's own copies of optimizers by import path, copied from a bucket."""
    if not in_bucket(store.address):
        return Path(store.address) / "optimizers"
    names = store.list("optimizers")
    if not names:
        return Path(os.devnull)  # no folder
    folder = Path(tempfile.mkdtemp(prefix="bestiary-"))
    for name in names:
        (folder / name).write_bytes(store.read(f"optimizers/{name}") or b"")
    return folder


class Inline(Executor):
    """One pack at a time in this process: it runs inside `poll`, which returns when it is over."""

    def __init__(self, *, trainer: str = TRAINER, log: Callable = print, widest: int = 0):
        self.trainer, self.log, self.busy = trainer, log, False
        self.widest = widest or Executor.widest
        self.termination = Termination(
            log,
            signals=(signal.SIGTERM, signal.SIGINT),
            leave=self._leave,
        )

    def _leave(self) -> None:
        if hasattr(self, "right"):
            self.right.__exit__(None)

    def capacity(self) -> int:
        return 0 if self.busy else 1

    def start(self, configs: Sequence[dict], folders: Sequence[str], *, timeout: float) -> tuple:
        self.busy = True
        return configs, folders

    def poll(self, handle: tuple) -> Report:
        self.right.pulse = Pulse()
        try:
            words = {"right": self.right, "termination": self.termination, "log": self.log}
            return run_pack(self.trainer, *handle, **words)
        finally:
            self.right.pulse, self.busy = None, False

    def stop(self) -> None:
        self.termination.requested.set()

    def close(self) -> None:
        self.termination.close()


class Children(Executor):
    """Warm child processes, each training one pack at a time."""

    def __init__(self, count: int, *, trainer: str = TRAINER, sources: Path, threads: int = 0):
        """Args:
        count: child processes.
        sources: a folder with modules of optimizers by import path.
        threads: CPU threads of each, 0 to share out the machine's.
        """
        self.count, self.trainer, self.sources = count, trainer, sources
        self.threads = threads or max(1, (os.cpu_count() or 1) // count)
        self.slots = list(range(count))  # each child's own cores
        self.idle: list[_Child] = []
        self.busy: set[_Child] = set()

    def capacity(self) -> int:
        return self.count - len(self.busy)

    def start(self, configs: Sequence[dict], folders: Sequence[str], *, timeout: float) -> _Child:
        child = self.idle.pop() if self.idle else _Child(self)
        self.busy.add(child)
        child.send(configs, folders, timeout)
        return child

    def poll(self, handle: _Child) -> Report | None:
        report = handle.poll()
        if report is not None:
            self.busy.discard(handle)
            if handle.alive() and not handle.stopped:
                self.idle.append(handle)
            else:
                handle.kill()
                self.slots.append(handle.slot)
        return report

    def stop(self) -> None:
        for child in self.busy:
            child.stop()

    def close(self) -> None:
        for child in [*self.idle, *self.busy]:
            child.kill()
        self.idle, self.busy, self.slots = [], set(), list(range(self.count))


class _Child:
    """One child process; it dies with its worker because the pipe closes."""

    def __init__(self, owner: Children):
        self.owner, self.slot, self.stopped = owner, owner.slots.pop(0), 0.0
        self.pipe, its = multiprocessing.Pipe()
        words = map(str, (owner.trainer, owner.threads, self.slot, owner.sources, its.fileno()))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sweeps.dispatch.child", *words],
            stdin=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            start_new_session=True,  # a signal to the worker's group is the worker's to handle
        )
        its.close()

    def send(self, configs: Sequence[dict], folders: Sequence[str], timeout: float) -> None:
        self.pulse, self.timeout, self.deadline = Pulse(), timeout, float("inf")
        self._tell((list(configs), list(folders)))

    def _tell(self, words: object) -> None:
        with contextlib.suppress(OSError):  # it is dead; poll says so
            self.pipe.send(words)

    def _hears(self) -> dict | None:
        """What it says next, None where it says nothing."""
        with contextlib.suppress(EOFError, OSError):
            return self.pipe.recv() if self.pipe.poll() else None
        return None

    def poll(self) -> Report | None:
        while said := self._hears():
            self.pulse.hear()
            if "report" in said:
                return said["report"]
            if "started" in said:  # its imports lie behind it
                self.deadline = time.monotonic() + self.timeout
            if "result" in said:
                self._tell(self._put(said["name"], said["result"]))
        if (code := self.process.poll()) is not None:
            return self._ended(code)
        for late, reason in (
            (time.monotonic() > self.deadline, "no result within its time limit"),
            (self.pulse.silent(), "training shows no sign of life"),
        ):
            if late:
                self.kill()
                return Report("timeout", reason)
        if self.stopped and time.monotonic() - self.stopped > SAVED:
            self.process.kill()
        return None

    def _put(self, name: str, result: dict) -> Exception | None:
        """What to tell the child: nothing when the result is put."""
        try:
            return self.owner.right.finish(name, result)
        except (Lost, OSError) as error:
            return error

    def _ended(self, code: int) -> Report:
        if self.stopped:
            return Report("stopped", "it was asked to")
        if code >= 0:
            return Report("failed", f"its process exited with code {code}")
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return Report("killed", f"its process was killed by {name}{hint}")

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = time.monotonic()
            self.process.send_signal(signal.SIGTERM)

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Ends the process, if it has not ended by itself, and lets go of its pipes."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that the system does not let die
            self.process.wait(10)
        self.pipe.close()
