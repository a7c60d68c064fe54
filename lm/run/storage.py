"""Where runs are kept: a folder on a disk, or in a bucket (`gs://`), which differs in two ways.

An object is written whole or not at all, so that nothing needs a temporary file; and nothing can be
appended to one.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import logging
import time
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


def upload(path: Path, text: str) -> None:
    """Writes an object of a bucket. Raises OSError, whatever the reason."""
    _asked(path, "written", lambda: path.write_text(text))


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
            upload(self.path, self.text)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        elif self.text:
            self.flush()
