"""Reads the packaged tables; every caller gets a copy of its own.

pandas is imported when a table is read: `configs` uses this package without it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@cache
def _cached(name: str, as_text: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    with (files("analysis.published") / name).open("rb") as file:
        compression = "gzip" if name.endswith(".gz") else None
        return pd.read_csv(file, compression=compression, dtype=dict.fromkeys(as_text, str))


def read(name: str, as_text: tuple[str, ...] = ()) -> pd.DataFrame:
    """A packaged CSV; columns in `as_text` stay as they were written, such as 1e-25 and "true"."""
    return _cached(name, as_text).copy()
