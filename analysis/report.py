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
import functools
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.estimates import findings
from analysis.estimates.editions import published_numbers
from analysis.estimates.findings import Findings
from analysis.estimates.numbers import Rows
from analysis.pages import comparison, page, sections, style, verdicts
from analysis.pages.figures.panels import short
from analysis.runs import reader, recorded
from analysis.runs.reader import CELL


def main(argv=None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.source == "published" and not arguments.out:
        parser.error("published: say where to write, with --out=DIR")
    try:
        found = _analyse(arguments.source)
    except reader.NothingToReport as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = Path(arguments.out or Path(arguments.source) / "report")
    against = _analyse("published") if arguments.against else None
    write(found, out, against, small=arguments.small)
    print(terminal(found))
    print(f"\nreport: {out / 'index.html'}")
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write the report of a results folder: one HTML page, figures and CSVs.",
        epilog="examples:\n" + __doc__.split("\n\n")[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="WORKDIR", help="a results folder, or `published`")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: WORKDIR/report)")
    parser.add_argument(
        "--against", choices=["published"], help="add the recorded study as comparison"
    )
    parser.add_argument("--small", action="store_true", help="small bitmaps instead of vectors")
    return parser


def _analyse(source: str) -> Findings:
    return _recorded() if source == "published" else findings.analyse(reader.load(source))


@functools.cache
def _recorded() -> Findings:
    return findings.analyse(
        recorded.study(),
        best=recorded.best(),
        deviations=recorded.deviations(),
        numbers=published_numbers(),
        known_doubts=recorded.DOUBTS,
    )


def write(
    found: Findings, out: Path, against: Findings | None = None, *, small: bool = False
) -> None:
    """Write the page, the tables and the figures of one study into `out`."""
    gallery, is_recorded = Gallery(out / "figures", small), found.study.name == recorded.NAME
    chosen = sections.RECORDED if is_recorded else sections.STUDY
    body = [(heading, section(found, gallery.show)) for heading, section in chosen]
    if against is not None:
        beside = comparison.comparison(found, against, gallery.show)
        body.insert(4, ("Against the recorded study", beside))
    subtitle = f"study {found.study.name}: {len(found.study.runs)} trials"
    html = page.page("A race of optimizers", subtitle, body)
    (out / "index.html").write_text(html, encoding="utf-8")
    numbers(found, is_recorded).to_csv(out / "numbers.csv", index=False, lineterminator="\n")
    table(found).to_csv(out / "table.csv", index=False, lineterminator="\n")


class Gallery:
    """Draws the figures of a page, embeds them, and writes their files."""

    def __init__(self, folder: Path, small: bool):
        self.folder, self.small = folder, small
        folder.mkdir(parents=True, exist_ok=True)

    def show(self, name, caption, draw) -> str:
        """Draw a figure and return its HTML; a table that holds nothing to draw leaves a remark."""
        try:
            figure = draw()
        except ValueError as error:
            return page.paragraph(f"No figure {name.replace('_', ' ')}: {error}.", "note")
        if self.small:
            content = style.render_small(figure)
            (self.folder / f"{name}.png").write_bytes(content)
            return page.picture(content, "png", caption)
        style.save(figure, self.folder / name)
        return page.picture((self.folder / f"{name}.svg").read_bytes(), "svg", caption)


def table(found: Findings) -> pd.DataFrame:
    """Losses, settings and speed-ups per cell; nothing that depends on the clock."""
    timeless = ["hash", "trials", "diverged", "complete", "edges", "rerun_loss", "reruns"]
    settings = [name for name in found.best if name.startswith("hp_")]
    best = found.best[[*CELL, "bits_per_byte", *timeless, *settings]]
    return found.speedups.merge(best, on=CELL, how="left")


def numbers(found: Findings, is_recorded: bool = False) -> pd.DataFrame:
    """Every number of the report in long form (`analysis.estimates.numbers`); times have a table
    of their own."""
    rows = Rows()
    for row in found.best.to_dict("records"):
        at = {name: row[name] for name in CELL}
        for name in ("loss", "bits_per_byte", "rerun_loss", "trials", "diverged"):
            rows.put("best", "sweep", name, row[name], **at)
        for name in found.study.tuned:
            value = row[f"hp_{name}"]
            if not isinstance(value, str):
                rows.put("best", "hyperparameter", name, value, **at)
        for name in ("seconds", "compile_seconds"):
            rows.put("time", "best", name, row[name], **at)
    for row in found.law_table.to_dict("records"):
        at = {"optimizer": findings.BASELINE, "model_size": row["model_size"]}
        for name in ("alpha", "exponent", "floor", "rms"):
            rows.put("data_law", "published_formula", name, row[name], note=row["note"], **at)
    for row in found.speedups.to_dict("records"):
        at = {name: row[name] for name in CELL}
        if not is_recorded:
            note = row["published_note"]
            rows.put("speedup", "published_formula", "ratio", row["published"], note=note, **at)
        low, high = row["gap"] - row["gap_error"], row["gap"] + row["gap_error"]
        rows.put("gap", "fair_losses", "nats", row["gap"], low, high, row["verdict"], **at)
    for row in found.early_stop.to_dict("records"):
        for name in ("wrong_winner", "costly", "wrong_pairs", "regret"):
            rows.put("early_stop", f"at {row['fraction']:g}", name, row[name])
    for row in found.crossings.to_dict("records"):
        at, note = {name: row[name] for name in CELL}, f"{row['leader']} leads on"
        rows.put("crossing", "winners", "fraction", row["fraction"], note=note, **at)
    for row in found.cost.to_dict("records"):
        for name in ("trials", "finished", "diverged", "failed", "tokens", "flops"):
            rows.put("tuning", "all trials", name, row[name], optimizer=row["optimizer"])
        for name in ("seconds", "compile_seconds"):
            rows.put("time", "tuning", name, row[name], optimizer=row["optimizer"])
    robust = found.numbers.copy()
    robust.loc[robust["quantity"].str.endswith("seconds"), "table"] = "time"
    return pd.concat([part for part in (rows.frame(), robust) if len(part)], ignore_index=True)


def terminal(found: Findings) -> str:
    """The headline numbers as text: one line per cell, best first, then the cost and the doubts."""
    lines = [f"study {found.study.name}: {len(found.study.runs)} trials"]
    lines.append(f"noise: {found.noise or 'not measured'}")
    row = "{:<10} {:>5}  {:<10} {:>8}  {:>17}  {:>9}  {:>18}  {}".format
    heads = [
        "size",
        "ratio",
        "optimizer",
        "loss",
        "below AdamW",
        "published",
        "joint model",
        "verdict",
    ]
    lines += ["", row(*heads)]
    for _, race in found.speedups.groupby(["model_size", "chinchilla_ratio"], sort=False):
        for cell in race.sort_values("loss").itertuples():
            cells = [cell.model_size, f"{cell.chinchilla_ratio:g}x", style.label(cell.optimizer)]
            gap = _number(cell.gap, "+.4f") + (
                f" ± {_number(cell.gap_error, '.4f')}" if cell.se > 0 else ""
            )
            joint = _number(cell.joint, ".2f")
            joint += f" ({cell.joint_low:.2f}-{cell.joint_high:.2f})" if joint else ""
            numbers = [gap, _number(cell.published, ".2f"), joint]
            if cell.optimizer == findings.BASELINE:
                numbers = ["", "", ""]
            lines.append(row(*cells, f"{cell.loss:.4f}", *numbers, cell.verdict).rstrip())
    row = "{:<10} {:>7} {:>9} {:>8} {:>9}".format
    lines += ["", row("tuning", "trials", "diverged", "tokens", "seconds")]
    for cost in found.cost.itertuples():
        seconds = "" if np.isnan(cost.seconds) else f"{cost.seconds:.0f}"
        name = style.label(cost.optimizer)
        lines.append(row(name, cost.trials, cost.diverged, short(cost.tokens), seconds))
    lines += ["", *verdicts.verdicts(found)]
    return "\n".join([*lines, *(f"doubt: {doubt}" for doubt in found.doubts)])


def _number(value, spec) -> str:
    return format(value, spec) if np.isfinite(value) else ""


if __name__ == "__main__":
    sys.exit(main())
