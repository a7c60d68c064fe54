"""One long table of estimates: what, of whom, value, interval, and what must be said with it."""

import math

import pandas as pd


class Rows:
    """Collects rows (table, subject, quantity, value, low, high, note)."""

    def __init__(self):
        self.rows = []

    def add(self, table, subject, quantity, value, low=math.nan, high=math.nan, note=""):
        """subject: whom it is about, as text. An infinite end is an open one."""
        row = (table, str(subject), quantity, float(value), float(low), float(high), note)
        self.rows.append(row)

    def frame(self) -> pd.DataFrame:
        columns = ["table", "subject", "quantity", "value", "low", "high", "note"]
        return pd.DataFrame(self.rows, columns=columns)
