"""Files of single runs and corpora by path: `at` gives a path of a disk or an address in a bucket.

In a bucket nothing can be appended to a file, and there are no folders.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import time
from pathlib import Path

from lm.storage.disk import Disk, write_file
from lm.storage.store import Store, encode

SCHEMES = ("s3", "gs", "az")
UPLOAD_SECONDS = 30.0


@functools.lru_cache(maxsize=64)
def open_store(address: str) -> Store:
    """The store at an address: a folder's path, or `s3://`, `gs://`, `az://`. Asks nothing yet."""
    if "://" in address:
        from lm.storage.bucket import Bucket

        return Bucket(address)
    return Disk(address)


class Address:
    """A name in a bucket, with as much of `pathlib.Path` as our files need."""

    def __init__(self, text: str):
        self.text = text.rstrip("/")

    def __truediv__(self, name: str | Path) -> Address:
        return Address(f"{self.text}/{name}")

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> Address:
        return Address(self.text.rpartition("/")[0])

    def located(self) -> tuple[Store, str]:
        """The store of its bucket, and the name in there."""
        scheme, _, rest = self.text.partition("://")
        parts = rest.split("/")
        root = parts[: 2 if scheme == "az" else 1]
        return open_store(f"{scheme}://{'/'.join(root)}"), "/".join(parts[len(root) :])


def folder(text: str) -> Path:
    """A command line's folder on a disk. Raises argparse.ArgumentTypeError for an address."""
    if in_bucket(text):
        raise argparse.ArgumentTypeError(
            f"{text} is no folder: this is kept on a disk (a study, sweeps.run, in a bucket too)"
        )
    return Path(text)


def place(text: str) -> Path | Address:
    """A command line's folder on a disk or in a bucket. Raises argparse.ArgumentTypeError."""
    scheme, found, _ = text.partition("://")
    known = ", ".join(f"{name}://" for name in SCHEMES)
    if found and scheme not in SCHEMES:
        raise argparse.ArgumentTypeError(f"{text} is neither a folder nor an address of {known}")
    return at(text)


def at(path: str | Path | Address) -> Path | Address:
    """The folder of that name; one with a scheme is in a bucket."""
    if isinstance(path, Address):
        return path
    return Address(path) if in_bucket(path) else Path(path)


def in_bucket(path: str | Path | Address) -> bool:
    return "://" in str(path)


def exists(path: Path | Address) -> bool:
    """Whether there is such a file. Raises OSError where a bucket does not say."""
    if isinstance(path, Address):
        store, name = path.located()
        return store.read(name) is not None
    return path.exists()


def read(path: Path | Address) -> str:
    """The text of a file. Raises OSError, whatever the reason."""
    if not isinstance(path, Address):
        return path.read_text()
    store, name = path.located()
    content = store.read(name)
    if content is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path))
    return content.decode()


def write(path: Path | Address, content: str | bytes) -> None:
    """Writes a whole file or nothing.

    Raises:
      OSError: with the file's own path when the disk is full or read-only; nothing half-written
        stays.
    """
    content = content.encode() if isinstance(content, str) else content
    if isinstance(path, Address):
        store, name = path.located()
        store.write(name, content)
    else:
        write_file(path, content)


def write_json(path: Path | Address, value) -> None:
    """Writes a value as JSON, as `write` does."""
    write(path, encode(value))


class Lines:
    """A text file that grows by lines.

    On a disk each line is there once written. In a bucket the file is written anew, whole, at most
    every 30 seconds, and by `flush`, which alone raises OSError where that fails.
    """

    def __init__(self, path: Path | Address):
        """An empty file; what the path held is lost."""
        self.path, self.text, self.uploaded = path, "", time.monotonic()
        self.file = None if in_bucket(path) else open(path, "w", buffering=1)  # noqa: SIM115

    def write(self, line: str) -> None:
        if self.file is not None:
            self.file.write(line + "\n")
            return
        self.text += line + "\n"
        if time.monotonic() - self.uploaded >= UPLOAD_SECONDS:
            self.uploaded = time.monotonic()
            with contextlib.suppress(OSError):  # no reason to stop training; the next may do better
                self.flush()

    def flush(self) -> None:
        """All lines so far are where a reader finds them."""
        if self.file is None:
            write(self.path, self.text)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        elif self.text:
            self.flush()
