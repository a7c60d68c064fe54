"""Files of text: a reader for each format."""

import contextlib
import gzip
import importlib
import io
import json
import os
from collections.abc import Iterator

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")  # each also as .gz or .zst; else plain text


class CorpusError(ValueError):
    """Something is wrong with the data; the message is one line that says what to do."""


def read(path: str, raw, field: str, delimiter: str) -> Iterator[str | bytes]:
    """The documents of one open binary file, by its suffix; bytes are yet to be decoded.

    Args:
      path: its name.
      raw: the file; its position tells how much is read.
      field: key or column of the text in JSON lines and parquet.
      delimiter: separates documents in plain text; "" makes the file one document.
    """
    stem, packing = os.path.splitext(path)
    with contextlib.ExitStack() as stack:
        if packing == ".gz":
            raw = stack.enter_context(gzip.open(raw))
        elif packing == ".zst":
            # Arrow's reader, because zstandard's ends silently where a file was cut short.
            stream = optional("pyarrow").CompressedInputStream(raw, "zstd")
            raw = stack.enter_context(io.BufferedReader(stream))
        kind = os.path.splitext(stem)[1] if packing in (".gz", ".zst") else packing
        if kind in (".jsonl", ".json"):
            yield from _read_json_lines(path, raw, field)
        elif kind == ".parquet":
            yield from _read_parquet(path, raw, field)
        else:
            yield from _read_text(raw, delimiter)


def _read_text(raw, delimiter: str) -> Iterator[bytes]:
    if not delimiter:
        yield raw.read()
        return
    rest, mark = b"", delimiter.encode()
    while block := raw.read(1 << 24):
        *whole, rest = (rest + block).split(mark)
        yield from whole
    yield rest


def _read_json_lines(path: str, raw, field: str) -> Iterator[str | bytes]:
    for number, line in enumerate(raw, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except UnicodeDecodeError:
            yield line  # reported, or skipped, as not UTF-8
            continue
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CorpusError(f"{path}: line {number} is no JSON object with {field!r}") from error
        if not isinstance(text, str):
            raise CorpusError(
                f"{path}: line {number}: {field!r} is {type(text).__name__}, not text"
            )
        yield text


def _read_parquet(path: str, raw, field: str) -> Iterator[str | bytes]:
    arrow = optional("pyarrow")
    parquet = optional("pyarrow.parquet")
    try:
        table = parquet.ParquetFile(raw)
        if field not in table.schema_arrow.names:
            raise CorpusError(f"{path}: no column {field!r}, only {table.schema_arrow.names}")
        for batch in table.iter_batches(columns=[field], batch_size=1024):
            # As bytes: arrow would raise on the first text that is not UTF-8, far from its place.
            for text in batch.column(0).cast(arrow.large_binary()).to_pylist():
                yield text or b""
    except arrow.ArrowException as error:
        first = str(error).splitlines()[0]
        raise CorpusError(f"{path}: cannot read as parquet: {first}") from error


def optional(module: str):
    """A module of the extra `data`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CorpusError(f"{module} is not installed: pip install 'bestiary[data]'") from error
