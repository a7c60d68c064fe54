"""The store of a study: whole files by name, and registers that one writer at a time may change.

Names are relative to the store's address, with "/" between folders. A file is there whole or not
at all. A *register* is a small value that is replaced only by who knows its present version: of
many who try at once, one succeeds. Rights to write are made of registers, results are files.

Every call raises OSError, one line with the full name, where the store does not answer or refuses.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple


class Kept(NamedTuple):
    """What a register holds."""

    content: bytes
    version: str


class Store(ABC):
    """One place, known by its `address`."""

    address: str

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content, None where there is none."""

    @abstractmethod
    def read_part(self, name: str, start: int, length: int) -> bytes | None:
        """Bytes [start, start + length) of a file, fewer at its end; None where there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Puts a file, whatever was there."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> str | None:
        """Puts a file where there is none; gives its version as `list` does.

        None, and nothing happens, where there is one with another content.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes a file or a register; nothing happens where there is none."""

    @abstractmethod
    def list(self, folder: str, since: str = "") -> dict[str, str]:
        """Versions of the files and registers in a folder by their last names, in order.

        Two different versions say that it has changed; they are not those of `get` and `swap`.

        Args:
          since: only names after this one.
        """

    @abstractmethod
    def find(self, folder: str, last: str) -> dict[str, str]:
        """Versions of the files `folder/*/last` by what the star stands for, in order."""

    @abstractmethod
    def get(self, name: str) -> Kept | None:
        """What a register holds now, None where there is none."""

    @abstractmethod
    def swap(self, name: str, content: bytes, version: str | None) -> str | None:
        """Puts a register's content if its version is still the one given.

        Contents of different writers must differ, as by a token: a bucket whose answer was lost
        is asked again whether the put was ours.

        Args:
          version: None for a register that is not there yet.
        Returns:
          the new version; None, and nothing happens, where the register is another by now.
        """

    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        """As `read`, for many."""
        return [self.read(name) for name in names]

    def read_json(self, name: str) -> Any:
        """The value of a JSON file, None where there is none.

        Raises:
          ValueError: it is no JSON.
        """
        content = self.read(name)
        return None if content is None else json.loads(content)

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, encode(value))

    def path(self, name: str) -> str:
        """The full name, for a person to read."""
        return f"{self.address.rstrip('/')}/{name}"


def encode(value: Any) -> bytes:
    """A value as every JSON file here is written; NaN is refused with ValueError."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    return text.encode() + b"\n"
