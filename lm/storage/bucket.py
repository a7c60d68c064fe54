"""A store in a bucket of S3, Google Cloud Storage or Azure, by obstore.

Credentials and endpoints are found as the library finds them: AWS_*, GOOGLE_*, AZURE_* variables
and the machine's own identity. Every object is a file or a register alike: its ETag, or in Google's
case its generation, is what a conditional put compares.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from lm.storage.store import Kept, Store

AT_ONCE = 32  # reads under way at a time
TRIES = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}
# Plain HTTP only where an endpoint variable asks for it: the default ones are HTTPS.
CALL = {"timeout": "30s", "connect_timeout": "5s", "allow_http": True}


class Bucket(Store):
    def __init__(self, address: str):
        self.address = address.rstrip("/")
        with self._words("", "opened"):
            self.store = obstore.store.from_url(
                self.address, client_options=CALL, retry_config=TRIES
            )

    def read(self, name: str) -> bytes | None:
        kept = self.get(name)
        return kept and kept.content

    def read_part(self, name: str, start: int, length: int) -> bytes | None:
        with self._words(name, "read"):
            try:
                return bytes(obstore.get_range(self.store, name, start=start, length=length))
            except FileNotFoundError:
                return None

    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.read, names))

    def write(self, name: str, content: bytes) -> None:
        with self._words(name, "written"):
            try:
                obstore.put(self.store, name, content)
            except FileNotFoundError as error:
                raise ValueError("there is no such bucket") from error

    def create(self, name: str, content: bytes) -> str | None:
        version = self.swap(name, content, None)
        return version and _bare(json.loads(version))

    def delete(self, name: str) -> None:
        with self._words(name, "removed"), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.store, name)

    def list(self, folder: str, since: str = "") -> dict[str, str]:
        start = {"offset": f"{folder}/{since}"} if since else {}
        found = {}
        for path, version in self._all(folder, **start):
            inside = path.removeprefix(f"{folder}/")
            if "/" not in inside:
                found[inside] = version
        return found

    def find(self, folder: str, last: str) -> dict[str, str]:
        found = {}
        for path, version in self._all(folder):
            star, _, end = path.removeprefix(f"{folder}/").partition("/")
            if end == last:
                found[star] = version
        return found

    def get(self, name: str) -> Kept | None:
        with self._words(name, "read"):
            try:
                answer = obstore.get(self.store, name)
                return Kept(bytes(answer.bytes()), _version(answer.meta))
            except FileNotFoundError:
                return None

    def swap(self, name: str, content: bytes, version: str | None) -> str | None:
        mode = "create" if version is None else json.loads(version)
        with self._words(name, "written"):
            try:
                put = obstore.put(self.store, name, content, mode=mode)
                return _version(put)
            except (AlreadyExistsError, PreconditionError):
                pass
            except FileNotFoundError as error:  # of a register that was removed, or no bucket
                if version is None:
                    raise ValueError("there is no such bucket") from error
                return None
        found = self.get(name)  # by this very put, whose first answer was lost?
        return found.version if found and found.content == content else None

    def _all(self, folder: str, **start) -> Iterator[tuple[str, str]]:
        with self._words(folder, "listed"):
            for chunk in obstore.list(self.store, f"{folder}/", chunk_size=1000, **start):
                yield from sorted((meta["path"], _bare(meta)) for meta in chunk)

    @contextlib.contextmanager
    def _words(self, name: str, done: str) -> Iterator[None]:
        try:
            yield
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            raise
        except (BaseError, ValueError) as error:
            said = re.search("<Message>(.*?)</Message>", str(error))
            reason = said[1] if said else str(error).split("\n")[0].partition(" in ")[0]
            words = f"cannot be {done}: {reason[:300]}"
            raise OSError(errno.EACCES, words, self.path(name)) from None


def _bare(meta) -> str:
    """The ETag, which Azure's lists, unlike its answers to puts, give without quotes."""
    return meta["e_tag"].strip('"')


def _version(meta) -> str:
    return json.dumps({key: meta[key] for key in ("e_tag", "version") if meta[key]})
