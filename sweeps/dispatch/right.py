"""The right to train: a worker's life and its claims, both registers of the store.

    workers/<token>   the worker's life: who it is, and a counter that moves every heartbeat
    claims/<hash>     the token of the worker that trains a trial; empty where it was given back

No clocks are compared: a worker counts as gone when its life has not moved during three of its
heartbeats as the one who waits counts them, or at once when it was a process of this machine that
is no more. Then its life is ended first, by a conditional put that fails if it has moved after all;
so a worker that comes back finds its life ended and stops, and never disturbs the new owner. It
stops by itself, too, when it could not renew its life twice in a row.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lm.run import stopping
from lm.storage import Store
from lm.storage.store import encode

HEARTBEAT = 10.0  # seconds
LOST = 75  # exit code of a worker whose right was taken, or that hangs
ENDED = b"ended"
SILENCE = 1800.0  # seconds in which training may show no sign of life; more while it is slow


class Lost(stopping.Lost):
    """This worker's right is another's by now."""


def heartbeat() -> float:
    return float(os.environ.get("BESTIARY_HEARTBEAT", HEARTBEAT))


class Pulse:
    """Signs of life of one training loop: whether it hangs."""

    def __init__(self, patience: float | None = None):
        """`patience`: seconds; five times the longest pause so far if that is more."""
        self.patience = patience or float(os.environ.get("BESTIARY_SILENCE", SILENCE))
        self.heard, self.longest = time.monotonic(), 0.0

    def hear(self) -> None:
        now = time.monotonic()
        self.longest, self.heard = max(self.longest, now - self.heard), now

    def silent(self) -> bool:
        return time.monotonic() - self.heard > max(self.patience, 5 * self.longest)


class Right:
    """This worker's life and the claims it holds."""

    def __init__(self, store: Store, about: Mapping[str, Any], stop: Callable[[str], Any]):
        """Args:
        about: what others may want to know of this worker (`sweeps.status`).
        stop: called, in another thread, with the reason why this worker must end at once.
        """
        self.store, self.stop = store, stop
        self.token, self.every = uuid.uuid4().hex, heartbeat()
        self.about: dict[str, Any] = {**about, **_here()}
        self.version: str | None = None
        self.claims: dict[str, str] = {}  # versions by trial
        self.put: dict[str, str] = {}  # versions of the results that this worker has put
        self.pulse: Pulse | None = None  # of a training loop in this process
        self._counter, self._missed = 0, 0
        self._lives: dict[str, tuple[bytes, float]] = {}  # what others' lives held, since when
        self._lock, self._over = threading.Lock(), threading.Event()

    def __enter__(self) -> Right:
        self.renew()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind, *_) -> None:
        """Gives everything back. What could not be put away is found by others in time."""
        self._over.set()
        if kind is not Lost:
            with contextlib.suppress(OSError):
                self.release(list(self.claims))
                self.store.delete(self._life)

    @property
    def _life(self) -> str:
        return f"workers/{self.token}"

    def renew(self) -> None:
        """Moves the life on.

        Raises:
          Lost: somebody has ended it.
          OSError: the store does not answer.
        """
        with self._lock:
            self._counter += 1
            value = {**self.about, "counter": self._counter, "heartbeat": self.every}
            trials = sorted(self.claims)
            content = encode({**value, "token": self.token, "trials": trials})
            version = self.store.swap(self._life, content, self.version)
            if version is None:
                raise Lost(f"the right of worker {self.token[:8]} was taken")
            self.version = version

    def hear(self) -> None:
        """The training loop goes on."""
        if self.pulse is not None:
            self.pulse.hear()

    def finish(self, name: str, result: Mapping[str, Any]) -> None:
        """Puts a trial's result, if the right to it is still held.

        Raises:
          Lost, OSError.
        """
        self.hear()
        self.renew()
        content = encode({**result, "token": self.token})
        version = self.store.create(f"trials/{name}/result.json", content)
        if version is not None:  # else there is one, which stays
            self.put[name] = version

    def claim(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Takes what it can get, without waiting.

        Returns:
          (the trials that are ours now, those of them that a lost worker left behind).
        """
        ours, left = [], []
        for name in names:
            kept = self.store.get(f"claims/{name}")
            owner = kept.content.decode(errors="replace") if kept else ""
            if owner not in ("", self.token) and not self.gone(owner):
                continue
            content, version = self.token.encode(), kept.version if kept else None
            if new := self.store.swap(f"claims/{name}", content, version):
                self.claims[name] = new
                ours.append(name)
                left += [name] if owner not in ("", self.token) else []
        return ours, left

    def release(self, names: Iterable[str], *, over: bool = False) -> None:
        """Gives claims back; those of trials that are `over` vanish."""
        for name in names:
            version = self.claims.pop(name, None)
            if over:
                self.store.delete(f"claims/{name}")
            elif version is not None:
                self.store.swap(f"claims/{name}", b"", version)

    def gone(self, token: str) -> bool:
        """Whether a worker is gone; one that has been silent for long is ended first."""
        name = f"workers/{token}"
        life = self.store.get(name)
        if token == self.token or life is None or life.content == ENDED:
            return token != self.token
        now = time.monotonic()
        content, since = self._lives.setdefault(token, (life.content, now))
        if content != life.content:
            self._lives[token] = (life.content, now)
            return False
        try:
            about = json.loads(life.content)
            every = float(about["heartbeat"])
        except (ValueError, KeyError, TypeError):  # of a program that writes lives another way
            about, every = {}, HEARTBEAT
        if now - since <= 3 * every and not _dead(about):
            return False
        if self.store.swap(name, ENDED, life.version) is None:
            return False
        self.store.delete(name)
        return True

    def _beat(self) -> None:
        while not self._over.wait(self.every):
            if self.pulse is not None and self.pulse.silent():
                return self.stop("training shows no sign of life")
            try:
                self.renew()
                self._missed = 0
            except OSError as error:
                self._missed += 1
                if self._missed > 1:
                    return self.stop(f"its right could not be renewed twice: {error}")
            except Lost as lost:
                return self.stop(str(lost))
        return None


def _here() -> dict:
    """This process, in words that no other process of any machine or container shares."""
    read = lambda name: Path(name).read_text().strip()  # noqa: E731
    try:
        machine = read("/proc/sys/kernel/random/boot_id") + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux: the lives of lost processes just take three heartbeats
        machine = uuid.uuid4().hex
    return {"machine": machine, "process": os.getpid()}


def _dead(life: Mapping) -> bool:
    """Whether it was a process of this machine that is no more."""
    try:
        if life["machine"] != _here()["machine"]:
            return False
        os.kill(life["process"], 0)
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, OSError):
        return False
    return False
