"""A page of a record's numbers: each table as intervals by subject, and all rows to search."""

import numpy as np
import pandas as pd

from analysis.pages import page
from analysis.pages.figures.answer import ROW
from analysis.pages.svg import Figure, Panel, Scale
from analysis.pages.view import Number

MOST = 60  # subjects in one picture


def record(title: str, sentences: list[str], numbers: pd.DataFrame) -> str:
    """The page of a table: table, subject, quantity, value, low, high, note (`records.rows`).

    Args:
      sentences: what a reader must know, the first as the page's lead.
    """
    drawn, sections = [], []
    for name, part in numbers.groupby("table", sort=False):
        body = ""
        for quantity, rows in part.groupby("quantity", sort=False):
            known = rows[np.isfinite(rows["value"]) & (rows["low"].notna() | rows["high"].notna())]
            if 1 < len(known) <= MOST:
                drawn.append(_intervals(f"{name}_{quantity}".replace(" ", "_"), quantity, known))
                body += page.figure(drawn[-1])
        every = [({}, [row["subject"], row["quantity"], _number(name, row), row["note"]])
                 for row in part.to_dict("records")]  # fmt: skip
        table = page.table(["subject", "quantity", "value", "note"], every, search=len(every) > 9)
        body += page.details(f"all {len(every)} rows", table) if body else table
        sections.append((name.replace("_", " "), body))
    head = page.Raw(f'<h1>{page.text(title)}</h1><p class="lead">{page.text(sentences[0])}</p>'
                    f"{page.bullets(sentences[1:])}")  # fmt: skip
    data = {"csv": {figure.name: figure.csv for figure in drawn}}
    return page.page(title, sections, data, head=head)


def _number(table, row) -> Number:
    shown = (row["value"], row["low"], row["high"])
    return Number(*map(float, shown), "", f"table {table}", row["subject"])


def _intervals(name, quantity, rows) -> Figure:
    """A row per subject; zero is drawn where it is near."""
    ends = rows[["value", "low", "high"]].to_numpy(float)
    ends = ends[np.isfinite(ends)]
    near = ends.min() <= 0.5 * (ends.max() - ends.min())
    y = Scale([0, len(rows) - 1], ticks={}, pad=0.5 / (len(rows) - 1))
    panel = Panel("", Scale([*ends, 0.0] if near else ends), y, width=680, left=230, top=6,
                  height=ROW * len(rows) + 44, x_title=quantity.replace("_", " "))  # fmt: skip
    if near:
        panel.vertical(0.0)
    for place, row in enumerate(rows.to_dict("records")):
        at = len(rows) - 1 - place
        panel.text(panel.box[0] - 8, panel.py(at) + 4, row["subject"], "end")
        with panel.coloured("blue"):
            panel.whisker(at, row["low"], row["high"], across=True)
            panel.dot(row["value"], at, _number(rows["table"].iloc[0], row).tip)
    return Figure(name, f"{quantity.replace('_', ' ')}, with 95 % intervals.", rows, [panel])
