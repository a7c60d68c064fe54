"""The report of a study: one self-contained page, its figures and its numbers.

    python -m analysis.report runs/nano                        a results folder
    python -m analysis.report runs/nano --against=published    with the recorded study beside it
    python -m analysis.report published --out=docs/report      the recorded study itself

Writes DIR/index.html, DIR/numbers.csv (every number, long form), DIR/table.csv (losses and
speed-ups, no
times: two studies with the same results have the same file) and DIR/figures/. The same inputs give
the same bytes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import findings, page, records, sections, style
from analysis.figures.panels import short
from analysis.findings import Findings
from analysis.records import CELL

NUMBERS = [
    *("table", "procedure", "optimizer", "model_size", "chinchilla_ratio"),
    *("quantity", "value", "low", "high", "note"),
]


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        study = records.load(arguments.source)
    except records.NothingToReport as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = findings.analyse(study)
    out = Path(arguments.out or Path(arguments.source) / "report")
    write(found, out)
    print(terminal(found))
    print(f"\nreport: {out / 'index.html'}")
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write the report of a results folder: one HTML page, figures and CSVs.",
        epilog=__doc__.split("\n\n")[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="WORKDIR", help="a results folder, or `published`")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: WORKDIR/report)")
    parser.add_argument(
        "--against", choices=["published"], help="add the recorded study as comparison"
    )
    return parser


def write(found: Findings, out: Path) -> None:
    """Write the page, the tables and the figures of one study into `out`."""
    gallery = Gallery()
    body = [(heading, section(found, gallery.show)) for heading, section in sections.STUDY]
    subtitle = f"study {found.study.name}: {len(found.study.runs)} trials"
    (out / "figures").mkdir(parents=True, exist_ok=True)
    (out / "index.html").write_text(
        page.page("A race of optimizers", subtitle, body), encoding="utf-8"
    )
    numbers(found).to_csv(out / "numbers.csv", index=False, lineterminator="\n")
    table(found).to_csv(out / "table.csv", index=False, lineterminator="\n")
    for name, figure in gallery.figures.items():
        style.save(figure, out / "figures" / name)


class Gallery:
    """The figures of a page, by file name."""

    def __init__(self):
        self.figures = {}

    def show(self, name, caption, draw) -> str:
        """Draw a figure and return its HTML; a table that holds nothing to draw leaves a remark."""
        try:
            self.figures[name] = draw()
        except ValueError as error:
            return page.paragraph(f"No figure {name.replace('_', ' ')}: {error}.", "note")
        return page.picture(self.figures[name], caption)


def table(found: Findings) -> pd.DataFrame:
    """Losses, settings and speed-ups per cell; nothing that depends on the clock."""
    timeless = ["hash", "trials", "diverged", "complete", "edges", "rerun_loss", "reruns"]
    settings = [name for name in found.best if name.startswith("hp_")]
    best = found.best[[*CELL, "bits_per_byte", *timeless, *settings]]
    columns = ["gap", "gap_error", "speedup", "low", "high", "verdict", "note"]
    return found.speedups[[*CELL, "loss", *columns]].merge(best, on=CELL, how="left")


def numbers(found: Findings) -> pd.DataFrame:
    """Every number of the report in long form; times have tables of their own."""
    rows = []

    def add(table, procedure, cell, quantity, value, low=np.nan, high=np.nan, note=""):
        optimizer, size, ratio = cell
        rows.append((table, procedure, optimizer, size, ratio, quantity, value, low, high, note))

    settings = [f"hp_{name}" for name in found.study.tuned]
    for row in found.best.to_dict("records"):
        cell = [row[name] for name in CELL]
        for name in ("loss", "bits_per_byte", "rerun_loss", "trials", "diverged", *settings):
            add("best", "sweep", cell, name.removeprefix("hp_"), row[name])
        for name in ("seconds", "compile_seconds"):
            add("time", "best", cell, name, row[name])
    for row in found.law_table.to_dict("records"):
        for name in ("alpha", "exponent", "floor", "rms"):
            cell = (findings.BASELINE, row["model_size"], None)
            add("data_law", "published_formula", cell, name, row[name], note=row["note"])
    for row in found.speedups.itertuples():
        cell = (row.optimizer, row.model_size, row.chinchilla_ratio)
        note = "; ".join(part for part in (row.verdict, row.note) if part)
        add("speedup", "published_formula", cell, "ratio", row.speedup, row.low, row.high, note)
        ends = row.gap - row.gap_error, row.gap + row.gap_error
        add("gap", "noise", cell, "nats", row.gap, *ends, row.verdict)
    if found.noise:
        ends = found.noise.low, found.noise.high
        add("noise", found.noise.source, (None,) * 3, "sigma", found.noise.sigma, *ends)
    for row in found.early_stop.to_dict("records"):
        for name in ("wrong_winner", "wrong_pairs", "regret"):
            add("early_stop", f"at {row['fraction']:g}", (None,) * 3, name, row[name])
    for row in found.crossings.itertuples():
        cell = (row.optimizer, row.model_size, row.chinchilla_ratio)
        add("crossing", "winners", cell, "fraction", row.fraction, note=f"{row.leader} leads on")
    for row in found.cost.to_dict("records"):
        cell = (row["optimizer"], None, None)
        for name in ("trials", "finished", "diverged", "failed", "tokens", "flops"):
            add("cost", "tuning", cell, name, row[name])
        for name in ("seconds", "compile_seconds"):
            add("time", "tuning", cell, name, row[name])
    long = pd.DataFrame(rows, columns=NUMBERS)
    return long[long["value"].notna()]


def terminal(found: Findings) -> str:
    """The headline numbers as text: one line per cell, best first, then the cost and the doubts."""
    lines = [f"study {found.study.name}: {len(found.study.runs)} trials"]
    lines.append(f"noise: {found.noise or 'not measured'}")
    row = "{:<10} {:>5}  {:<10} {:>8}  {:>17}  {:>18}  {}".format
    head = "size ratio optimizer loss|below AdamW|speed-up|verdict"
    size, ratio, optimizer, loss, *rest = [*head.split("|")[0].split(), *head.split("|")[1:]]
    lines += ["", row(size, ratio, optimizer, loss, *rest)]
    for _, race in found.speedups.groupby(["model_size", "chinchilla_ratio"], sort=False):
        for cell in race.sort_values("loss").itertuples():
            gap = f"{cell.gap:+.4f}" if np.isfinite(cell.gap) else ""
            gap += f" ± {cell.gap_error:.4f}" if np.isfinite(cell.gap + cell.gap_error) else ""
            ratio = f"{cell.speedup:.2f}" if np.isfinite(cell.speedup) else ""
            ratio += f" ({cell.low:.2f}-{cell.high:.2f})" if np.isfinite(cell.low) else ""
            if cell.optimizer == findings.BASELINE:
                gap = ratio = ""
            name, budget = style.label(cell.optimizer), f"{cell.chinchilla_ratio:g}x"
            line = row(cell.model_size, budget, name, f"{cell.loss:.4f}", gap, ratio, cell.verdict)
            lines.append(line.rstrip())
    row = "{:<10} {:>7} {:>9} {:>8} {:>9}".format
    lines += ["", row("tuning", "trials", "diverged", "tokens", "seconds")]
    for cost in found.cost.itertuples():
        seconds = "" if np.isnan(cost.seconds) else f"{cost.seconds:.0f}"
        name = style.label(cost.optimizer)
        lines.append(row(name, cost.trials, cost.diverged, short(cost.tokens), seconds))
    lines += ["", *sections.verdicts(found)]
    return "\n".join([*lines, *(f"doubt: {doubt}" for doubt in found.lint)])


if __name__ == "__main__":
    sys.exit(main())
