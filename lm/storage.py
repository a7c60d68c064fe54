"""Files of runs and corpora, whole or not at all: in a folder on a disk or in a bucket (`gs://`).

A bucket differs in two ways: an object is written whole or not at all, so that nothing needs a
temporary file; and nothing can be appended to one.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

BUCKET = "gs://"
UPLOAD_SECONDS = 30.0


def folder(text: str) -> Path:
    """A command line's folder on a disk. Raises argparse.ArgumentTypeError for an address."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is no folder of a file system that all machines see: a study's locks and "
            f"leases need one (a single run, lm.train, may be kept in a bucket, {BUCKET}...)"
        )
    return Path(text)


def place(text: str) -> Path:
    """A command line's folder on a disk or in a bucket. Raises argparse.ArgumentTypeError."""
    if "://" in text and not in_bucket(text):
        raise argparse.ArgumentTypeError(f"{text} is neither a folder nor {BUCKET}BUCKET/FOLDER")
    if in_bucket(text) and importlib.util.find_spec("gcsfs") is None:
        raise argparse.ArgumentTypeError(f"{text} needs gcsfs: pip install 'bestiary[gcs]'")
    return at(text)


def at(path: str | Path) -> Path:
    """The folder of that name; `gs://...` is one in a bucket."""
    if not in_bucket(path):
        return Path(path)
    from etils import epath

    return epath.Path(path)


def in_bucket(path: str | Path) -> bool:
    return str(path).startswith(BUCKET)


def exists(path: Path) -> bool:
    """Whether there is such a file. Raises OSError where a bucket does not say."""
    return _asked(path, "read", path.exists) if in_bucket(path) else path.exists()


def read(path: Path) -> str:
    """The text of a file. Raises OSError, whatever the reason."""
    return _asked(path, "read", path.read_text) if in_bucket(path) else path.read_text()


def write(path: Path, content: str | bytes) -> None:
    """Writes a whole file or nothing: on a disk a temporary file beside it, synced, then renamed.

    Raises:
      OSError: with the file's own path when the disk is full or read-only; nothing half-written
        stays.
    """
    content = content.encode() if isinstance(content, str) else content
    if in_bucket(path):
        _asked(path, "written", lambda: path.write_bytes(content))
        return
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except FileNotFoundError:
        if not path.parent.exists():
            raise
        write(path, content)  # another writer of the same file took the scratch for a leftover
    except OSError as error:
        scratch.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        words = f"no space left on the device for {path}" if full else error.strerror
        raise OSError(error.errno, words, str(path)) from None


def write_json(path: Path, value) -> None:
    """Writes a value as JSON, as `write` does; removes what killed writers of this file left."""
    if not in_bucket(path):
        for left in path.parent.glob(f".{path.name}.*"):
            left.unlink(missing_ok=True)
    write(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _asked(path: Path, done: str, ask: Callable):
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises, with its stack
    try:
        return ask()
    except Exception as error:  # gcsfs, aiohttp and google.auth have many kinds
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        words = f"cannot be {done}: {reason}"
        raise OSError(errno.EACCES, words, str(path)) from None


class Lines:
    """A text file that grows by lines.

    On a disk each line is there once written. In a bucket the file is written anew, whole, at most
    every 30 seconds, and by `flush`, which alone raises OSError where that fails.
    """

    def __init__(self, path: Path):
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
