"""The one long table of estimates: every number once, with its interval and what limits it.

Columns: table, procedure, optimizer, model_size, chinchilla_ratio, quantity, value, low, high,
bound, note. `value` is always finite. An empty end of an interval is open; `bound` says when the
value is only a lower or upper bound; the note says what the number cannot carry.
"""

import numpy as np
import pandas as pd

from analysis.runs.names import CELL

KEY = ["table", "procedure", *CELL, "quantity"]
COLUMNS = [*KEY, "value", "low", "high", "bound", "note"]


class Rows(list):
    """Collects rows of the table; a value that is not finite never gets in."""

    def put(
        self, table, procedure, quantity, value, low=None, high=None, note="", bound="", *,
        optimizer="", model_size="", chinchilla_ratio=None,
    ):  # fmt: skip
        """One number. An end that is None or not finite is open."""
        if value is None or not np.isfinite(value):
            return
        ends = [None if x is None or not np.isfinite(x) else float(x) for x in (low, high)]
        cell = (optimizer, model_size, chinchilla_ratio)
        row = (table, procedure, *cell, quantity, float(value), *ends, bound, note)
        self.append(dict(zip(COLUMNS, row, strict=True)))

    def frame(self) -> pd.DataFrame:
        """The table.

        Raises:
          ValueError: a quantity of one procedure stands there twice for one cell.
        """
        table = pd.DataFrame(self, columns=COLUMNS)
        table["chinchilla_ratio"] = table["chinchilla_ratio"].astype(float)
        twice = table[table.duplicated(KEY)]
        if len(twice):
            raise ValueError(f"numbers: {twice[KEY].iloc[0].to_dict()} stands there twice")
        return table


def pick(numbers: pd.DataFrame, table, procedure=None, quantity=None) -> pd.DataFrame:
    """The rows of one table, procedure and quantity, in their order."""
    kept = numbers["table"] == table
    if procedure is not None:
        kept &= numbers["procedure"] == procedure
    if quantity is not None:
        kept &= numbers["quantity"] == quantity
    return numbers[kept]
