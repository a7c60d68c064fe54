"""Corpora: text becomes tokens once, in a cache folder, and is read from there by row.

`prepare({"corpus": "stdlib"}, sequence_length=128)` needs no download: it is the text of the
running interpreter's own standard library, bytes as tokens.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import time

import numpy as np

from lm import documents
from lm.documents import CorpusError
from lm.rows import Rows

BYTES_SEPARATOR = 256


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Prepared tokens.

    `train` is a source of rows (T,); `validation` maps names to such sources, the headline first.
    `token_bytes` (vocab_size,) int32 counts the bytes of text of each token, 0 for `separator`;
    None where the tokenizer does not say.
    """

    fingerprint: str
    vocab_size: int
    separator: int
    token_bytes: np.ndarray | None
    train: Rows
    validation: dict[str, Rows]


def default_cache() -> str:
    """$BESTIARY_CACHE, or ~/.cache/bestiary."""
    return os.environ.get("BESTIARY_CACHE") or os.path.expanduser("~/.cache/bestiary")


def prepare(data, *, sequence_length: int, cache: str | None = None, log=print) -> Corpus:
    """The corpus that `data` names, prepared if it is not yet.

    Safe when several processes ask at once: one prepares, the others wait.

    Args:
      data: `{"corpus": "stdlib"}`; a "fingerprint" in it must be that of the corpus.
      sequence_length: tokens per row.
      cache: folder of prepared corpora; by default `default_cache()`.
      log: called with one line at a time.

    Raises:
      CorpusError: one line that names what is wrong.
    """
    cache = pathlib.Path(cache or default_cache())
    name = data["corpus"]
    if name != "stdlib":
        raise CorpusError(f"unknown corpus {name!r}: expected 'stdlib'")
    folder = _prepare_standard_library(cache, log)
    return open_corpus(folder, sequence_length)


def open_corpus(folder: pathlib.Path, sequence_length: int) -> Corpus:
    """A corpus already prepared in `folder`."""
    import tensorflow_datasets as tfds

    meta = json.loads((folder / "metadata.json").read_text())
    builder = tfds.builder_from_directory(folder)

    def rows(split):
        dtype = builder.info.features["tokens"].np_dtype
        source = builder.as_data_source(split)
        return Rows(source, meta["tokens"][split], meta["record_tokens"], dtype, sequence_length)

    splits = {split: rows(split) for split in meta["tokens"]}
    for split, source in splits.items():
        if not len(source):
            raise CorpusError(
                f"{split} has {source.tokens} tokens, sequence_length {sequence_length} needs more"
            )
    token_bytes = np.ones(meta["vocab_size"], np.int32)
    token_bytes[meta["separator"]] = 0
    return Corpus(
        fingerprint=meta["fingerprint"],
        vocab_size=meta["vocab_size"],
        separator=meta["separator"],
        token_bytes=token_bytes,
        train=splits.pop("train"),
        validation=splits,
    )


def _prepare_standard_library(cache: pathlib.Path, log) -> pathlib.Path:
    root = documents.standard_library()
    stamp = hashlib.blake2b(digest_size=8)
    for path in documents.standard_library_files(root):
        status = os.stat(os.path.join(root, path))
        stamp.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    name = f"stdlib-{stamp.hexdigest()}"
    folder = cache / name / "tokens" / "1.0.0"
    if (folder / "metadata.json").exists():
        return folder
    with _lock(cache / f"{name}.lock"):
        if not (folder / "metadata.json").exists():
            import tensorflow_datasets as tfds

            from lm.builder import RECORD_TOKENS, Tokens

            tfds.disable_progress_bar()
            start = time.monotonic()
            log(f"preparing the standard library's text in {folder}")
            streams = {
                split: lambda split=split: map(_bytes, documents.read_standard_library(root, split))
                for split in ("train", "validation")
            }
            meta = {"vocab_size": 257, "separator": 256, "record_tokens": RECORD_TOKENS}
            builder = Tokens(streams, np.uint16, meta, data_dir=cache / name)
            builder.download_and_prepare(download_dir=cache / name, file_format="array_record")
            log(f"prepared {builder._written['tokens']} in {time.monotonic() - start:.1f} s")
    return folder


def _bytes(document: str) -> np.ndarray:
    tokens = np.frombuffer(document.encode(), np.uint8).astype(np.uint16)
    return np.append(tokens, np.uint16(BYTES_SEPARATOR))


@contextlib.contextmanager
def _lock(path: pathlib.Path):
    """One process at a time; the system frees the lock of a process that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
