"""The cache of prepared corpora: `CACHE/NAME/corpus.json` beside the tokens it describes.

A corpus appears whole, by one rename. Building it is safe when several processes do it at once,
and continues where it was stopped.
"""

import contextlib
import dataclasses
import difflib
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import shutil
import time

import numpy as np

from lm.data import prepare
from lm.data.documents import Documents, standard_library
from lm.data.readers import CorpusError
from lm.data.tokenizer import Bytes, Json

# A table of bytes per token that is wrong by more than this share of the text is not used.
SPELLING_TOLERANCE = 1e-3


def default_cache() -> str:
    """$BESTIARY_CACHE, or ~/.cache/bestiary."""
    return os.environ.get("BESTIARY_CACHE") or os.path.expanduser("~/.cache/bestiary")


def find(which: str, cache: pathlib.Path, log=print) -> pathlib.Path:
    """The folder of a prepared corpus, by its name or path; prepares the standard library's."""
    if which == "stdlib":
        texts, tokenizer = standard_library(), Bytes()
        return build(f"stdlib-{key_of(texts, tokenizer)[:12]}", texts, tokenizer, cache, log=log)
    folder = pathlib.Path(which) if os.sep in which else cache / which
    if which and (folder / "corpus.json").exists():
        return folder
    known = ["stdlib", *sorted(path.parent.name for path in cache.glob("[!.]*/corpus.json"))]
    near = difflib.get_close_matches(which, known, n=1, cutoff=0.0)[0]
    raise CorpusError(f"no corpus {which!r} in {cache}; did you mean {near!r}?")


def build(
    name: str,
    documents: Documents,
    tokenizer: Bytes | Json,
    cache: pathlib.Path,
    *,
    processes: int = 1,
    log=print,
) -> pathlib.Path:
    """Prepares `documents` as corpus `name`, unless that is done; returns its folder.

    Args:
      processes: how many tokenise; the result does not depend on it.
      log: called with one line at a time.

    Raises:
      CorpusError: no text, text that cannot be read, no place to write, or another corpus of that
        name. Nothing half-made is left, except chunks from which the next call continues.
    """
    folder, key = cache / name, key_of(documents, tokenizer)
    if _is_prepared(folder, key):
        return folder
    try:
        with _lock(cache, name, log):
            if not _is_prepared(folder, key):
                _build(folder, key, documents, tokenizer, processes, log)
    except OSError as error:
        raise CorpusError(f"cannot write a corpus in {cache}: {error.strerror or error}") from error
    return folder


def _build(folder, key, documents, tokenizer, processes, log):
    from lm.data import dataset  # here, because TFDS takes a second to import

    start, cache = time.monotonic(), folder.parent
    log(f"preparing corpus {folder.name} in {cache} ({documents.input_bytes / 1e6:,.0f} MB)")
    parts, unfinished = cache / f".{folder.name}-parts-{key}", cache / f".{folder.name}-unfinished"
    for stale in [unfinished, *cache.glob(f".{folder.name}-parts-*")]:
        if stale != parts:
            shutil.rmtree(stale, ignore_errors=True)
    counts = prepare.write_chunks(documents, tokenizer, parts, processes, log)
    if empty := [split for split, count in counts.items() if not count["tokens"]]:
        shutil.rmtree(parts, ignore_errors=True)
        raise CorpusError(f"corpus {folder.name}: {' and '.join(empty)} has no text")
    lengths = {split: count["tokens"] for split, count in counts.items()}
    dtype, due, passed = prepare.dtype_of(tokenizer.vocab_size), prepare.Every(), 0

    def stream(split):
        nonlocal passed
        for array in prepare.read_chunks(parts, split, dtype):
            passed += len(array) / sum(lengths.values()) / 2  # once to write, once to compare
            if due():
                log(f"writing and checking the records: {passed:.0%}")
            yield array

    streams = {split: functools.partial(stream, split) for split in lengths}
    unfinished.mkdir()
    try:
        digests = dataset.write(unfinished, streams, lengths, dtype)
        meta = {
            "key": key,
            "fingerprint": digest(tokenizer.vocab_size, tokenizer.separator, digests),
            "vocab_size": tokenizer.vocab_size,
            "separator": tokenizer.separator,
            "tokenizer": tokenizer.identity,
            "record_tokens": dataset.RECORD_TOKENS,
            "splits": counts,
            "skipped": documents.skipped,
            "files": file_sizes(unfinished),
        }
        np.save(unfinished / "token_bytes.npy", tokenizer.token_bytes)
        (unfinished / "corpus.json").write_text(json.dumps(meta, indent=1))
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(parts, ignore_errors=True)
    sizes = ", ".join(f"{split} {n['tokens'] / 1e6:.2f}M tokens" for split, n in counts.items())
    log(f"prepared corpus {folder.name}: {sizes}, in {time.monotonic() - start:.1f} s")


def describe(where: pathlib.Path | str, meta: dict) -> list[str]:
    """What a prepared corpus holds, in a few lines."""
    lines = [f"{where}: fingerprint {meta['fingerprint']}, vocabulary {meta['vocab_size']:,}"]
    for split, n in meta["splits"].items():
        lines.append(
            f"  {split}: {n['documents']:,} documents, {n['bytes']:,} bytes, "
            f"{n['tokens']:,} tokens ({n['bytes'] / n['tokens']:.3f} bytes each)"
        )
    if meta["skipped"]:
        lines.append(f"  {meta['skipped']:,} documents left out because they are not UTF-8")
    if misspelt(meta) > SPELLING_TOLERANCE:
        lines.append(f"  no bits per byte: its tokens miss the text by {misspelt(meta):.2%}")
    return lines


def read_meta(folder: pathlib.Path) -> dict:
    """corpus.json of a prepared corpus."""
    try:
        meta = json.loads((folder / "corpus.json").read_text())
        if {"key", "fingerprint", "record_tokens", "splits", "files"} <= meta.keys():
            return meta
        why = "incomplete"
    except (OSError, ValueError, AttributeError) as error:
        why = error
    raise CorpusError(
        f"{folder / 'corpus.json'} cannot be read ({why}); remove {folder} and prepare it again"
    )


def check_files(folder: pathlib.Path, meta: dict):
    """Raises CorpusError where a file is missing or cut short."""
    found = file_sizes(folder)
    for name, size in meta["files"].items():
        if found.get(name) != size:
            raise CorpusError(
                f"{folder / name} has {found.get(name, 0)} bytes, expected {size}; "
                f"remove {folder} and prepare it again"
            )


def misspelt(meta: dict) -> float:
    """Share of the text's bytes by which the table of bytes per token is wrong."""
    splits = meta["splits"].values()
    return max(abs(count["spelled"] / count["bytes"] - 1) for count in splits)


def file_sizes(folder: pathlib.Path) -> dict[str, int]:
    """Size in bytes of every file under `folder`, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def key_of(documents: Documents, tokenizer) -> str:
    """Names the input without reading it: options, file sizes and times, tokenizer."""
    files = []
    for split, paths in documents.files.items():
        for path in paths:
            status = None if path.startswith("tfds:") else os.stat(path)
            files.append((split, path, status and (status.st_size, status.st_mtime_ns)))
    options = {k: v for k, v in dataclasses.asdict(documents).items() if k != "files"}
    return digest(files, options, tokenizer.identity, tokenizer.separator, prepare.CHUNK_BYTES)


def digest(*parts) -> str:
    """A hash of plain values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _is_prepared(folder: pathlib.Path, key: str) -> bool:
    if not folder.exists():
        return False
    if read_meta(folder)["key"] != key:
        raise CorpusError(
            f"corpus {folder.name!r} exists and was made of other files or with other options; "
            f"choose another name or remove {folder}"
        )
    return True


@contextlib.contextmanager
def _lock(cache: pathlib.Path, name: str, log):
    """One process at a time; the system frees the lock of a process that dies."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f".{name}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"waiting for another process that prepares corpus {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
