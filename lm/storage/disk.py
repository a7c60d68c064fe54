"""A store in a folder of a file system, also one that many machines mount.

A register is a folder of numbered generations; the highest is its value. Whoever links the next
number first has replaced it: links are atomic on NFS too, and need no lock that a killed process
could leave behind. A few old generations stay, so that a machine with an old view of the folder
finds its number taken. Who is overtaken that often before it has looked takes its put for failed,
though it was not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lm.storage.store import Kept, Store

KEPT = 4  # generations of a register


class Disk(Store):
    def __init__(self, address: str | Path):
        self.address, self.root = str(address), Path(address)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def read_part(self, name: str, start: int, length: int) -> bytes | None:
        try:
            with open(self.root / name, "rb") as file:
                file.seek(start)
                return file.read(length)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        path = self._ready(name)
        write_file(path, content)

    def create(self, name: str, content: bytes) -> str | None:
        path = self._ready(name)
        return _stamp(path.stat()) if create_file(path, content) else None

    def delete(self, name: str) -> None:
        path = self.root / name
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def list(self, folder: str, since: str = "") -> dict[str, str]:
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / folder) as entries:
            for entry in entries:
                if entry.name > since and not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        version = _version(entry)
                        if version is not None:
                            found[entry.name] = version
        return dict(sorted(found.items()))

    def find(self, folder: str, last: str) -> dict[str, str]:
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.root / folder)):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    found[name] = _stamp(os.stat(self.root / folder / name / last))
        return found

    def get(self, name: str) -> Kept | None:
        while True:
            found = _generations(self.root / name)
            if not found:
                return None
            with contextlib.suppress(FileNotFoundError):  # replaced since
                content = (self.root / name / found[-1]).read_bytes()
                return Kept(content, found[-1])

    def swap(self, name: str, content: bytes, version: str | None) -> str | None:
        folder, before = self.root / name, _generations(self.root / name)
        if (before[-1] if before else None) != version:
            return None
        if version is None:
            folder.mkdir(parents=True, exist_ok=True)
        new = f"{int(version or 0) + 1:08d}"
        try:
            if not create_file(folder / new, content, synced=False):
                return None
        except FileNotFoundError:
            return None  # the register was removed
        after = _generations(folder)
        if new not in after or int(after[-1]) >= int(new) + KEPT:
            (folder / new).unlink(missing_ok=True)  # it had moved on by more than is kept
            return None
        for old in after[:-KEPT]:
            (folder / old).unlink(missing_ok=True)
        return new

    def _ready(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def write_file(path: Path, content: bytes) -> None:
    """Writes a whole file or nothing: on a scratch file, synced, that then takes its place.

    Raises:
      OSError: with the file's own path when the disk is full or read-only; nothing half-written
        stays.
    """
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _words(path, scratch):
        _fill(scratch, content)
        os.replace(scratch, path)


def create_file(path: Path, content: bytes, *, synced: bool = True) -> bool:
    """As `write_file`, where there is no such file; False where there is.

    Not `synced`, it may be gone or empty after a loss of power.
    """
    if path.exists():
        return False
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _words(path, scratch):
        try:
            _fill(path, content, scratch, synced)
        except FileExistsError:
            return False
    return True


def _fill(path: Path, content: bytes, scratch: Path | None = None, synced: bool = True) -> None:
    """Gives a written file its name at last, so that a killed writer leaves none.

    Where files must have names from the start (NFS), `scratch` is linked to `path`.
    """
    try:
        number = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) not in (None, errno.EOPNOTSUPP, errno.EISDIR):
            raise
        with open(scratch or path, "xb") as file:
            _put(file, content, synced)
        if scratch:
            try:
                os.link(scratch, path)
            finally:
                scratch.unlink()
        return
    with open(number, "wb") as file:
        _put(file, content, synced)
        # With a descriptor named (unused: the path is absolute) Python follows the symbolic link.
        os.link(f"/proc/self/fd/{number}", path, src_dir_fd=number, follow_symlinks=True)


def _put(file: BinaryIO, content: bytes, synced: bool) -> None:
    file.write(content)
    file.flush()
    if synced:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _words(path: Path, scratch: Path) -> Iterator[None]:
    """What a disk says, about the file itself; no scratch file is left."""
    try:
        yield
    except OSError as error:
        scratch.unlink(missing_ok=True)
        if error.errno == errno.ENOENT:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        words = f"no space left on the device for {path}" if full else error.strerror
        raise OSError(error.errno, words, str(path)) from None


def _generations(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.isdigit())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _version(entry: os.DirEntry) -> str | None:
    if entry.is_dir():
        return (_generations(Path(entry.path)) or [None])[-1]
    return _stamp(entry.stat())


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns}-{stat.st_size}"
