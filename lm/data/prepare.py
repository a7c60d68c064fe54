"""Documents to token streams: parallel over processes, and continued where it was stopped.

Documents are read in order by one process and cut into chunks; every chunk becomes small files in
a working folder, whoever tokenises it. What is already there is not done again. The chunks, and so
the streams, do not depend on the number of processes.
"""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Iterator

import numpy as np

from lm import storage
from lm.data.documents import Documents
from lm.data.readers import CorpusError

CHUNK_BYTES = 2**23
FIELDS = ("documents", "tokens", "bytes", "spelled")  # spelled: what the tokens say bytes should be


def dtype_of(vocab_size: int) -> np.dtype:
    """16 bits where they hold the vocabulary, else 32."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def write_chunks(
    documents: Documents, tokenizer, folder: pathlib.Path, processes: int, log
) -> dict:
    """Writes all chunks into `folder`; returns split -> {documents, tokens, bytes, spelled}."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {split: dict.fromkeys(FIELDS, 0) for split in documents.splits}
    due, start = Every(), time.monotonic()
    for chunk in _run(_todo(documents, folder), tokenizer, folder, processes):
        for split, found in chunk.items():
            for field in FIELDS:
                counts[split][field] += found[field]
        if due():
            log(_progress(documents, counts, time.monotonic() - start))
    return counts


def read_chunks(folder: pathlib.Path, split: str, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The tokens of one split, an array per chunk."""
    for path in sorted(folder.glob(f"*.{split}.tokens")):
        yield np.fromfile(path, dtype)


def _todo(documents: Documents, folder: pathlib.Path) -> Iterator:
    """Numbers every chunk; gives its counts where it is done, otherwise its documents."""
    for number, chunk in enumerate(_chunks(documents)):
        done = folder / f"{number:07d}.json"
        yield number, json.loads(done.read_text()) if done.exists() else chunk


def _chunks(documents: Documents) -> Iterator[list[tuple[str, str]]]:
    chunk, size = [], 0
    for split, text in documents:
        chunk.append((split, text))
        size += len(text)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _run(todo: Iterator, tokenizer, folder: pathlib.Path, processes: int) -> Iterator[dict]:
    if processes == 1:
        for number, chunk in todo:
            yield chunk if isinstance(chunk, dict) else _write(number, chunk, tokenizer, folder)
        return
    # Spawned, because forking a process that runs threads (JAX's) can hang the child.
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start, (tokenizer, folder)
    )
    try:
        pending = set()
        for number, chunk in todo:
            if isinstance(chunk, dict):
                yield chunk
                continue
            pending.add(pool.submit(_work, number, chunk))
            if len(pending) > 2 * processes:  # bounds the memory, and how far reading runs ahead
                done, pending = concurrent.futures.wait(
                    pending, return_when=concurrent.futures.FIRST_COMPLETED
                )
                yield from (future.result() for future in done)
        yield from (future.result() for future in concurrent.futures.as_completed(pending))
    except concurrent.futures.BrokenExecutor as error:
        raise CorpusError(
            "a tokenising process died (out of memory?); the same command continues, "
            "with fewer --processes if need be"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(tokenizer, folder: pathlib.Path):
    """Runs once in each worker."""
    global _WORKER
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process, one core
    _WORKER = tokenizer, folder


def _work(number: int, chunk: list) -> dict:
    return _write(number, chunk, *_WORKER)


def _write(number: int, chunk: list, tokenizer, folder: pathlib.Path) -> dict:
    """Tokenises one chunk into files; the counts, written last, say that it is complete."""
    counts, table = {}, tokenizer.token_bytes
    for split in dict.fromkeys(split for split, _ in chunk):
        texts = [text for where, text in chunk if where == split]
        tokens = np.concatenate(tokenizer.encode(texts))
        counts[split] = {
            "documents": len(texts),
            "tokens": len(tokens),
            "bytes": sum(len(text.encode()) for text in texts),
            "spelled": int(table[tokens].sum()),
        }
        raw = tokens.astype(dtype_of(tokenizer.vocab_size)).tobytes()
        storage.write(folder / f"{number:07d}.{split}.tokens", raw)
    storage.write(folder / f"{number:07d}.json", json.dumps(counts).encode())
    return counts


class Every:
    """True once in so many seconds: when a line of progress is due."""

    def __init__(self, seconds: float = 5.0):
        self._seconds, self._last = seconds, time.monotonic()

    def __call__(self) -> bool:
        due = time.monotonic() - self._last >= self._seconds
        if due:
            self._last = time.monotonic()
        return due


def _progress(documents: Documents, counts: dict, seconds: float) -> str:
    total = {field: sum(split[field] for split in counts.values()) for field in FIELDS}
    line = f"tokenising: {total['documents']:,} documents, {total['tokens'] / 1e6:,.1f}M tokens"
    line += f", {total['bytes'] / 1e6 / seconds:.1f} MB/s"
    # Reading runs ahead of tokenising. Characters stand for bytes here.
    share = documents.read_bytes / max(1, documents.input_bytes)
    share *= min(1.0, total["bytes"] / max(1, documents.text_length))
    return line + f", {share:.0%}, about {seconds / share - seconds:,.0f} s left" if share else line
