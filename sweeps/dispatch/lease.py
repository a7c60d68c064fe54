"""The right to train a trial: a file in its folder, kept fresh by the process that trains.

No clock is shared: a lease is stale when its time has not moved during three heartbeats of the one
who waits, or at once when its owner was a process of this machine that is gone. So a trial is taken
over from a lost node, and never from one that still writes; an owner that finds its lease taken
ends at once. Whoever waits for a trial finds its result when the owner has finished it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

HEARTBEAT = 10.0  # seconds; a stale lease is taken over after three
LOST = 75  # exit code of a process whose lease was taken


@contextlib.contextmanager
def held(folders: Sequence[Path], *, heartbeat: float | None = None) -> Iterator[list[bool]]:
    """Holds the leases of trial folders; gives, for each, whether it still has to be trained.

    Waits for owners that live. This process ends with exit code 75 when it loses a lease.
    """
    heartbeat = heartbeat or float(os.environ.get("BESTIARY_HEARTBEAT", HEARTBEAT))
    leases: list[Lease] = []
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(leases, heartbeat, over), daemon=True)
    beat.start()
    try:
        for folder in sorted(folders):  # everybody in one order: nobody waits in a circle
            leases.append(take(Path(folder), heartbeat))
        yield [not (Path(folder) / "result.json").exists() for folder in folders]
    finally:
        over.set()
        beat.join()
        for lease in leases:
            lease.release()


class Lease:
    """A lease this process holds."""

    def __init__(self, path: Path, text: str):
        self.path, self.text = path, text

    def renew(self) -> bool:
        """Shows life; False when the lease is somebody else's by now."""
        try:
            mine = self.path.read_text() == self.text
            if mine:
                os.utime(self.path)
            return mine
        except FileNotFoundError:
            return False

    def release(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.path.read_text() == self.text:
                self.path.unlink()


def take(folder: Path, heartbeat: float) -> Lease:
    """Waits until nobody holds the folder's lease, then holds it."""
    path, seen, since = folder / "lease", None, 0.0
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**_here(), "token": uuid.uuid4().hex})
    while True:
        if _create(path, text):
            return Lease(path, text)
        try:
            found = (path.read_text(), path.stat().st_mtime_ns)
        except FileNotFoundError:
            continue
        if found != seen:
            seen, since = found, time.monotonic()
        if time.monotonic() - since > 3 * heartbeat or _gone(found[0]):
            _remove(path, found[0])
        else:
            time.sleep(min(1.0, heartbeat / 4))


def _create(path: Path, text: str) -> bool:
    """Makes the file if there is none: of many who try, one succeeds."""
    try:
        with open(path, "x") as file:
            file.write(text)
        return True
    except FileExistsError:
        return False


def _remove(path: Path, text: str) -> None:
    """Takes a stale lease away; one that has changed hands meanwhile is put back."""
    aside = path.with_name(f".stale.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if (found := aside.read_text()) != text:
            _create(path, found)
        aside.unlink()


def _here() -> dict:
    """This process, in words that no other process of any machine or container shares."""
    read = lambda name: Path(name).read_text().strip()  # noqa: E731
    try:
        machine = read("/proc/sys/kernel/random/boot_id") + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux: leases of lost processes just take three heartbeats
        machine = uuid.uuid4().hex
    return {"machine": machine, "process": os.getpid()}


def _gone(text: str) -> bool:
    """Whether the owner was a process of this machine and is no more."""
    try:
        owner = json.loads(text)
        if owner["machine"] != _here()["machine"]:
            return False
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, OSError):
        return False
    return False


def _beat(leases: list[Lease], heartbeat: float, over: threading.Event) -> None:
    while not over.wait(heartbeat):
        try:
            lost = not all(lease.renew() for lease in list(leases))
        except OSError:  # the store does not answer; so it does for whoever would take over
            continue
        if lost:
            os._exit(LOST)
