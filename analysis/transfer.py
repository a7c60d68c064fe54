"""The report of a race of scaling rules: what settings tuned small are worth large.

    python -m analysis.transfer runs/transfer

prints, with 95 % intervals, what each rule loses against tuning anew (nats, and tokens), the lead
over the baseline by size when both are constant, scaled or tuned, how far optima move per doubling
of the width, and the exponent of weight decay; and writes them with two pictures to
WORKDIR/transfer/ (`--out`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.fits.transfer import CONSTANT, TUNED, transfer
from analysis.pages.looks import HUES
from analysis.pages.svg import Figure, Panel, Scale
from analysis.runs import reader
from analysis.runs.names import label, ordered

TITLES = {
    "loss": "Loss, nats",
    "regret": "Lost against the size's own winner, nats",
    "tokens": "The same as a factor of tokens and parameters",
    "lead": "Lead over the baseline, nats",
    "exponent": "p of learning rate x decay ~ width^-p",
}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.transfer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "workdir", metavar="WORKDIR", help="the results folder of a `transfer` race"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: WORKDIR/transfer")
    arguments = parser.parse_args(argv)
    try:
        study = reader.load(arguments.workdir)
        table = transfer(study)
    except (reader.NothingToReport, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = arguments.out or Path(arguments.workdir) / "transfer"
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "transfer.csv", index=False, float_format="%.6g")
    sizes = {name: given["hidden"] for name, given in study.settings["sizes"].items()}
    for quantity in {"regret", "lead"} & set(table.quantity):
        draw(table, quantity, sizes).save(out / quantity)
    print(terminal(table))
    print(f"\nwritten: {out}/")
    return 0


def terminal(table: pd.DataFrame) -> str:
    """The table by quantity, a line a number."""
    parts = []
    for quantity, rows in table.groupby("quantity", sort=False):
        title = TITLES.get(quantity, f"{quantity.capitalize()}, octaves per doubling of width")
        parts.append(f"\n{title}")
        for row in rows.itertuples():
            place = f"{label(row.optimizer):10} {row.model_size:9} {row.chinchilla_ratio:g}x"
            words = "not bracketed" if np.isnan(row.estimate) else f"{row.estimate:+.4f}"
            ends = f"[{_end(row.low)}, {_end(row.high)}]"
            note = f"  {row.note}" if isinstance(row.note, str) and row.note else ""
            parts.append(f"  {place} {row.rule:10} {words:>13} {ends}{note}")
    return "\n".join(parts).strip()


def _end(value: float) -> str:
    return f"{value:+.4f}" if np.isfinite(value) else "open"


def draw(table: pd.DataFrame, quantity: str, widths: dict[str, int]) -> Figure:
    """A quantity against width: a panel an optimizer, a hue a rule.

    Raises:
      ValueError: the table has no such rows.
    """
    rows = table[table.quantity == quantity].drop(columns="note")
    rows = rows.assign(width=rows.model_size.map(widths)).sort_values(["rule", "width"])
    x = Scale(rows.width, log=True, ticks={w: f"{w}" for w in sorted(set(rows.width))}, pad=0.2)
    y = Scale([0.0, *rows.estimate, *rows.low, *rows.high])
    panels, rules = [], sorted(set(rows.rule), key=[TUNED, CONSTANT, *rows.rule].index)
    for name in ordered(rows.optimizer):
        panel = Panel(label(name), x, y, x_title="width", y_title="nats", right=64)
        panel.horizontal(0.0)
        for hue, rule in zip(HUES, rules, strict=False):
            line = rows[(rows.optimizer == name) & (rows.rule == rule) & rows.estimate.notna()]
            if line.empty:
                continue
            with panel.coloured(hue):
                panel.line(line.width, line.estimate)
                for row in line.itertuples():
                    panel.whisker(row.width, row.low, row.high)
                    panel.dot(row.width, row.estimate, f"{rule}: {row.estimate:.4f}")
                panel.text(panel.px(row.width) + 6, panel.py(row.estimate) + 4, rule, "soft")
        panels.append(panel)
    return Figure(quantity, f"{TITLES[quantity]}; bars at 95 %.", rows, panels)


if __name__ == "__main__":
    sys.exit(main())
