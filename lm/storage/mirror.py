"""Checkpoints in buckets that Orbax does not write to (S3, Azure): made here, then copied there."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path

from lm.storage.files import Address


class Mirror:
    """The checkpoints of one run: `local` for Orbax, and `checkpoint/<step>.tar` in the bucket."""

    def __init__(self, folder: Address):
        self.store, self.prefix = (folder / "checkpoint").located()
        self.local = Path(tempfile.mkdtemp(prefix="bestiary-"))

    def fetch(self) -> None:
        """Copies what the bucket has here."""
        for name in self.store.list(self.prefix):
            step = name.removesuffix(".tar")
            content = self.store.read(f"{self.prefix}/{name}")
            if content is not None and step.isdigit():
                with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                    archive.extractall(self.local / step, filter="data")

    def push(self) -> None:
        """Copies whole checkpoints there, and removes there what is no longer kept here."""
        there = {name.removesuffix(".tar") for name in self.store.list(self.prefix)}
        here = {path.name for path in self.local.iterdir() if path.name.isdigit()}
        for step in sorted(here - there, key=int):
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as archive:
                archive.add(self.local / step, arcname=".")
            self.store.write(f"{self.prefix}/{step}.tar", content.getvalue())
        for step in there - here:
            self.store.delete(f"{self.prefix}/{step}.tar")

    def close(self, *, delete: bool) -> None:
        shutil.rmtree(self.local, ignore_errors=True)
        if delete:
            for name in self.store.list(self.prefix):
                self.store.delete(f"{self.prefix}/{name}")
