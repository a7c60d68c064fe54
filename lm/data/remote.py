"""Corpora in buckets: put there once, fetched record by record as they are read.

    ADDRESS/corpus.json                      of the prepared corpus, put last; and the digests below
    ADDRESS/<fingerprint>/token_bytes.npy
    ADDRESS/<fingerprint>/<split>.crc32      a checksum of each record
    ADDRESS/<fingerprint>/<split>/00000      OBJECT_RECORDS records of tokens, one after the other

Array records are compressed, with blocks between them: where a record begins is known only after
the file was read. Here it is arithmetic, so that a host asks for the records of its own rows.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import queue
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm.data import cache as cache_lib
from lm.data import prepare
from lm.data.readers import CorpusError
from lm.data.rows import Rows
from lm.storage import Store, open_store

OBJECT_RECORDS = 2**13  # 64 MiB at 16 bits
RUN = 512  # records that one request asks for, at most
REQUESTS = 32  # under way at a time


@contextlib.contextmanager
def _asked() -> Iterator[None]:
    """What a bucket or a disk refuses is an error of the corpus, in one line."""
    try:
        yield
    except OSError as error:
        raise CorpusError(f"{error.filename}: {error.strerror}") from error


@_asked()
def upload(folder: Path, address: str, log: Callable = print) -> None:
    """Puts a prepared corpus into a bucket; what is there of it already is not put again.

    Raises:
      CorpusError: its records are not what its fingerprint says, the bucket refuses, or another
        corpus is there.
    """
    from lm.data import dataset

    meta, store = cache_lib.read_meta(folder), open_store(address)
    cache_lib.check_files(folder, meta)
    inside, digests, due = meta["fingerprint"], {}, prepare.Every()
    files = {"token_bytes.npy": (folder / "token_bytes.npy").read_bytes()}
    builder = dataset.open_dataset(str(folder / dataset.FOLDER))
    if (there := _meta(store)) and there["fingerprint"] != meta["fingerprint"]:
        raise CorpusError(f"{address} holds another corpus; choose another address")
    for split in meta["splits"]:
        source, checksums = builder.as_data_source(split), []
        found, known = hashlib.blake2b(digest_size=16), store.list(f"{inside}/{split}")
        for start in range(0, len(source), OBJECT_RECORDS):
            ids = range(start, min(len(source), start + OBJECT_RECORDS))
            records = [r["tokens"].tobytes() for r in source.__getitems__(list(ids))]
            checksums += map(zlib.crc32, records)
            content, name = b"".join(records), f"{start // OBJECT_RECORDS:05d}"
            found.update(content)
            if name not in known:
                store.write(f"{inside}/{split}/{name}", content)
            if due():
                log(f"{split}: {ids.stop / len(source):.0%} is in {address}")
        digests[split] = found.hexdigest()
        files[f"{split}.crc32"] = np.array(checksums, "<u4").tobytes()
    if _fingerprint(meta, digests) != meta["fingerprint"]:
        raise CorpusError(f"{folder} is damaged: remove it and prepare it again")
    for name, content in files.items():
        store.write(f"{inside}/{name}", content)
    checks = {name: _digest(content) for name, content in files.items()}
    remote = {"object_records": OBJECT_RECORDS, "digests": digests, "files": checks}
    store.write_json("corpus.json", {**meta, "remote": remote})


def describe(address: str) -> list[str]:
    """What the corpus at an address holds, in a few lines."""
    return cache_lib.describe(address, read_meta(address))


def read_meta(address: str) -> dict:
    """corpus.json at an address."""
    with _asked():
        meta = _meta(open_store(address))
    if meta is None or "remote" not in meta:
        raise CorpusError(
            f"no corpus at {address}; put one there: python -m lm.data upload NAME {address}"
        )
    if _fingerprint(meta, meta["remote"]["digests"]) != meta["fingerprint"]:
        raise CorpusError(f"{address}/corpus.json is damaged; upload the corpus again")
    return meta


def open_rows(
    address: str, meta: dict, cache: Path, sequence_length: int
) -> tuple[dict[str, Rows], np.ndarray]:
    """The rows of every split, and the bytes of each token."""
    store, folder = open_store(address), cache / f"remote-{meta['fingerprint']}"
    files = {name: _file(store, meta, folder, name) for name in meta["remote"]["files"]}
    rows = {}
    for split, count in meta["splits"].items():
        records = Records(
            store,
            f"{meta['fingerprint']}/{split}",
            folder / split,
            checksums=np.frombuffer(files[f"{split}.crc32"], "<u4"),
            digest=meta["remote"]["digests"][split],
            tokens=count["tokens"],
            record_tokens=meta["record_tokens"],
            object_records=meta["remote"]["object_records"],
            dtype=prepare.dtype_of(meta["vocab_size"]),
        )
        rows[split] = Rows(
            records,
            where=f"{address}/{split}",
            feature="tokens",
            tokens=count["tokens"],
            record_tokens=meta["record_tokens"],
            vocab_size=meta["vocab_size"],
            sequence_length=sequence_length,
        )
    return rows, np.load(io.BytesIO(files["token_bytes.npy"]))


class Records:
    """The records of one split: from this host's cache, or fetched into it, checked both ways.

    The cache is a sparse file as long as the split. Which records it has needs no list: a hole does
    not have a record's checksum. So processes share it, and one killed while writing does no harm.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        path: Path,
        *,
        checksums: np.ndarray,
        digest: str,
        tokens: int,
        record_tokens: int,
        object_records: int,
        dtype: np.dtype,
    ):
        self.store, self.folder, self.checksums, self.digest = store, folder, checksums, digest
        self.dtype, self.object_records = np.dtype(dtype), object_records
        self.record_bytes = record_tokens * self.dtype.itemsize
        self.bytes = tokens * self.dtype.itemsize
        self.here = np.zeros(len(checksums), bool)  # seen in the cache by this process
        self.coming: dict[int, threading.Event] = {}
        self.lock = threading.Lock()
        try:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self.file, self.bytes)
        except OSError as error:
            raise CorpusError(f"cannot write the cache {path}: {error.strerror}") from error

    def __len__(self) -> int:
        return len(self.checksums)

    def __getitems__(self, ids: list[int]) -> list[dict[str, np.ndarray]]:
        """
        Raises:
          CorpusError: an object is gone, unreadable or damaged; one line.
        """
        self.expect(ids)
        contents = [self._get(i) for i in ids]
        if ids == list(range(len(self))):
            found = hashlib.blake2b(digest_size=16)
            for content in contents:
                found.update(content)
            if found.hexdigest() != self.digest:
                raise CorpusError(f"{self.store.path(self.folder)} is not of its fingerprint")
        return [{"tokens": np.frombuffer(content, self.dtype)} for content in contents]

    def expect(self, ids: Iterable[int]) -> None:
        """Begins to fetch those of the records that are not here, in the background."""
        with self.lock:
            wanted = sorted(i for i in set(ids) if not self.here[i] and i not in self.coming)
            wanted = [i for i in wanted if self._cached(i) is None]
            for first, count in _runs(wanted, self.object_records):
                event = threading.Event()
                self.coming |= dict.fromkeys(range(first, first + count), event)
                _later(functools.partial(self._fetch_ahead, first, count, event))

    def _get(self, i: int) -> bytes:
        if event := self.coming.get(i):
            event.wait()
        content = self._cached(i)
        if content is None:  # what failed in the background fails again, or not, here
            self._fetch(i, 1)
            content = self._cached(i)
        if content is None:
            raise CorpusError(f"the cache of {self.store.path(self.folder)} does not keep its data")
        return content

    def _fetch_ahead(self, first: int, count: int, event: threading.Event) -> None:
        try:
            self._fetch(first, count)
        except CorpusError:
            pass  # said when it is needed
        finally:
            with self.lock:
                for i in range(first, first + count):
                    self.coming.pop(i, None)
            event.set()

    def _fetch(self, first: int, count: int) -> None:
        """Records of one object into the cache."""
        number, inside = divmod(first, self.object_records)
        name = f"{self.folder}/{number:05d}"
        start, end = self._start(first), self._start(first + count)
        with _asked():
            content = self.store.read_part(name, inside * self.record_bytes, end - start)
        if content is None:
            raise CorpusError(f"{self.store.path(name)} is gone")
        for i in range(first, first + count):
            record = content[self._start(i) - start : self._start(i + 1) - start]
            if zlib.crc32(record) != self.checksums[i]:
                raise CorpusError(f"{self.store.path(name)} is damaged at record {i}; upload again")
        try:
            os.pwrite(self.file, content, start)
        except OSError as error:
            raise CorpusError(f"cannot write the corpus's cache: {error.strerror}") from error
        self.here[first : first + count] = True

    def _cached(self, i: int) -> bytes | None:
        content = os.pread(self.file, self._start(i + 1) - self._start(i), self._start(i))
        if zlib.crc32(content) != self.checksums[i]:
            return None
        self.here[i] = True
        return content

    def _start(self, i: int) -> int:
        return min(i * self.record_bytes, self.bytes)


def _runs(ids: Iterable[int], object_records: int) -> Iterator[tuple[int, int]]:
    """(first, count) of neighbours that one request can ask for."""
    first, count = 0, 0
    for i in ids:
        if count and i == first + count and count < RUN and i % object_records:
            count += 1
            continue
        if count:
            yield first, count
        first, count = i, 1
    if count:
        yield first, count


_jobs: queue.SimpleQueue = queue.SimpleQueue()


def _later(job: Callable[[], Any]) -> None:
    """Runs it in one of REQUESTS threads, which do not hold up the end of the process."""
    _start_threads()
    _jobs.put(job)


@functools.cache
def _start_threads() -> None:
    def serve() -> None:
        while True:
            _jobs.get()()

    for _ in range(REQUESTS):
        threading.Thread(target=serve, daemon=True).start()


def _meta(store: Store) -> dict | None:
    try:
        return store.read_json("corpus.json")
    except ValueError as error:
        raise CorpusError(f"{store.path('corpus.json')} cannot be read: {error}") from error


def _file(store: Store, meta: dict, folder: Path, name: str) -> bytes:
    """A small file beside the records, once fetched kept in the cache."""
    wanted, kept = meta["remote"]["files"][name], folder / name
    with _asked():
        if kept.exists() and _digest(content := kept.read_bytes()) == wanted:
            return content
        content = store.read(f"{meta['fingerprint']}/{name}")
    if content is None or _digest(content) != wanted:
        why = "is gone" if content is None else "is damaged; upload the corpus again"
        raise CorpusError(f"{store.path(meta['fingerprint'])}/{name} {why}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        open_store(str(folder)).write(name, content)
    except OSError as error:
        raise CorpusError(f"cannot write the cache {folder}: {error.strerror}") from error
    return content


def _fingerprint(meta: dict, digests: dict[str, str]) -> str:
    return cache_lib.digest(meta["vocab_size"], meta["separator"], digests)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
