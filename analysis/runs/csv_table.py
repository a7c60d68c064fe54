"""Reads anybody's CSV, or says in one line what is wrong with it."""

import gzip
import io
from pathlib import Path

import pandas as pd


def read_csv(path, *, text=False) -> pd.DataFrame:
    """A table with a header; lines that start with # are skipped.

    Commas, semicolons or tabs; UTF-8 or Latin-1; plain or gzip, whatever the file is called. With
    `text` every cell stays as it was written, an empty one "".

    Raises:
      ValueError: what cannot be read, in one line that names the file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "a damaged gzip file"
        raise ValueError(f"{path}: {reason}") from None
    if b"\0" in content[:4096]:
        raise ValueError(f"{path}: not a text file")
    try:
        content = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        content = content.decode("latin-1")
    lines = [line for line in content.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise ValueError(f"{path}: the file is empty")
    separator = max(",;\t", key=lines[0].count)
    try:
        table = pd.read_csv(
            io.StringIO("\n".join(lines)),
            sep=separator,
            skipinitialspace=True,
            dtype=str if text else None,
            keep_default_na=not text,
        )
    except (pd.errors.ParserError, ValueError) as error:
        reason = str(error).splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise ValueError(f"{path}: not a table: {reason.strip()}") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{path}: its rows have more fields than its header")
    table.columns = [str(name).strip() for name in table]
    if table.empty:
        raise ValueError(f"{path}: a header ({', '.join(table)}) and no rows")
    if separator == ";":  # where semicolons separate, a comma may be the decimal point
        table = table.apply(lambda c: c.str.replace(",", ".") if c.dtype.kind not in "if" else c)
    return table
