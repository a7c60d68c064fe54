"""The report of a coordinate check: what of a model's layers grows with its width or depth.

    python -m analysis.coordinates coordinates/muon-mup-width.csv

reads what `lm.coordinates` measured, prints of every layer the slopes d log2(size) / d log2(width)
with 95 % intervals, and draws them beside the file. A change is "flat" where its whole interval
lies within 10 % over eightfold width, "drifts" where it lies outside, "open" otherwise.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.pages.looks import HUES
from analysis.pages.svg import Figure, Panel, Scale
from analysis.runs.csv_table import read_csv

FLAT = math.log(1.1) / math.log(8)  # largest slope of what is flat
WHAT = {"rms": "size", "change": "change by training"}  # root mean squares
COLUMNS = ("axis", "layer", "size", "seed", *WHAT)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.coordinates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="of lm.coordinates")
    arguments = parser.parse_args(argv)
    for file in arguments.files:
        try:
            rows = read(file)
            found = slopes(rows)
            draw(rows, found, file.stem).save(file.with_suffix(""), data=False)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        sizes = ", ".join(map(str, sorted(set(rows["size"]))))
        print(f"{file.stem}, {rows['axis'].iloc[0]}s {sizes}\n{terminal(found)}")
        print(f"picture: {file.with_suffix('.svg')}")
    return 0


def read(file) -> pd.DataFrame:
    """axis, layer, size, seed, rms, change of every layer, size and seed.

    Raises:
      ValueError: the file is no such table.
    """
    rows = read_csv(file)
    missing = [name for name in COLUMNS if name not in rows]
    if missing:
        raise ValueError(f"{file}: no column {', '.join(missing)}; write it with lm.coordinates")
    positive = rows[["size", *WHAT]].apply(pd.to_numeric, errors="coerce").gt(0).all(axis=1)
    if not positive.all():
        raise ValueError(
            f"{file}: row {positive.idxmin() + 1}: not a positive size, rms and change"
        )
    if rows["size"].nunique() < 3:
        raise ValueError(f"{file}: {rows['size'].nunique()} sizes; a slope needs 3")
    return rows


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every layer: slopes of its size and of its change, half their intervals, a verdict."""
    found = []
    for layer, mine in rows.groupby("layer", sort=False):
        line = {"layer": layer}
        for name in WHAT:
            fit = stats.linregress(np.log2(mine["size"]), np.log2(mine[name]))
            line[name] = fit.slope
            line[f"{name}_half"] = fit.stderr * stats.t.ppf(0.975, len(mine) - 2)
        low, high = (line["change"] + sign * line["change_half"] for sign in (-1, 1))
        flat, outside = low >= -FLAT and high <= FLAT, low > FLAT or high < -FLAT
        found.append(line | {"verdict": "flat" if flat else "drifts" if outside else "open"})
    return pd.DataFrame(found)


def terminal(found: pd.DataFrame) -> str:
    """The slopes, a line a layer."""
    lines = [f"{'layer':14} {'size':>15} {'change':>15}  verdict on the change"]
    for line in found.to_dict("records"):
        numbers = (f"{line[n]:+.3f} ± {line[f'{n}_half']:.3f}" for n in WHAT)
        lines.append(f"{line['layer']:14} {' '.join(numbers)}  {line['verdict']}")
    return "\n".join(lines)


def draw(rows: pd.DataFrame, found: pd.DataFrame, title: str) -> Figure:
    """Sizes and changes against width or depth (seeds' geometric means), a line a layer."""
    axis, sizes = rows["axis"].iloc[0], sorted(set(rows["size"]))
    x = Scale(sizes, log=True, ticks={size: f"{size:g}" for size in sizes})
    panels, hues = [], list(HUES)
    for name, words in WHAT.items():
        means = np.exp(np.log(rows[name]).groupby([rows["layer"], rows["size"]]).mean())
        y = Scale(means, log=True)
        panel = Panel(words, x, y, width=500, height=270, right=185, x_title=axis,
                      y_title="root mean square")  # fmt: skip
        for place, line in enumerate(found.to_dict("records")):
            with panel.coloured(hues[place % len(hues)]):
                values, dashed = means[line["layer"]], "5 3" if place % 2 else ""
                panel.line(values.index, values, dashes=dashed)
                slope = f"{line[name]:+.2f} ± {line[f'{name}_half']:.2f}"
                for size, value in values.items():
                    panel.dot(size, value, f"{line['layer']}, {axis} {size}: {value:.3g}")
                at, row = panel.box[2] + 8, panel.box[1] + 10 + 19 * place
                panel.segment(at, row - 4, at + 16, row - 4, "line", f'stroke-dasharray="{dashed}"')
                panel.text(at + 20, row, f"{line['layer']} {slope}")
        panels.append(panel)
    caption = f"{title}: slopes in log2, with 95 % intervals over the seeds."
    return Figure("coordinates", caption, rows, panels)


if __name__ == "__main__":
    sys.exit(main())
