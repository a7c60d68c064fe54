"""The report of a study: one self-contained page, its figures and its numbers.

    python -m analysis.report runs/nano                        a results folder
    python -m analysis.report runs/nano --against=published    with the recorded study beside it
    python -m analysis.report runs/nano --baseline=muon        speed-ups over another optimizer
    python -m analysis.report published --out=docs/report      the recorded study itself

Writes DIR/index.html, DIR/numbers.csv (every number, long form), DIR/table.csv (losses and
speed-ups, no times: two studies with the same results have the same file) and DIR/figures/. The
same inputs give the same bytes.
"""

import argparse
import dataclasses
import functools
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.pages import comparison, page, sections, style, verdicts
from analysis.pages.figures.panels import short
from analysis.pages.view import View, view
from analysis.runs import reader, recorded
from analysis.runs.names import BASELINE, CELL, RACE, did_you_mean, label, settings


def main(argv=None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.source == "published" and not arguments.out:
        parser.error("published: say where to write, with --out=DIR")
    try:
        found = _look(arguments.source, arguments.baseline)
    except (reader.NothingToReport, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = Path(arguments.out or Path(arguments.source) / "report")
    against = _look("published", found.baseline) if arguments.against else None
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
    parser.add_argument("--baseline", metavar="NAME", help="speed-ups are over this optimizer")
    parser.add_argument("--small", action="store_true", help="small bitmaps instead of vectors")
    return parser


def _look(source: str, baseline: str | None) -> View:
    if source == "published":
        return _recorded(baseline or BASELINE)
    study = reader.load(source, baseline=baseline)
    raced = sorted(set(study.runs["optimizer"]))
    if baseline and baseline not in raced:
        hint = did_you_mean(baseline, raced)
        raise ValueError(f"--baseline: {baseline!r} was not raced, only {', '.join(raced)}{hint}")
    return view(study)


@functools.cache
def _recorded(baseline: str) -> View:
    return view(dataclasses.replace(recorded.study(), baseline=baseline))


def write(found: View, out: Path, against: View | None = None, *, small: bool = False) -> None:
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
    numbers(found).to_csv(out / "numbers.csv", index=False, lineterminator="\n")
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


def table(found: View) -> pd.DataFrame:
    """Losses, settings and speed-ups per cell; nothing that depends on the clock."""
    timeless = ["hash", "trials", "diverged", "complete", "edges", "rerun_loss", "reruns"]
    best = found.best[[*CELL, "bits_per_byte", *timeless, *settings(found.best)]]
    clock = [name for name in found.speedups if name.startswith("joint_seconds")]
    return found.speedups.drop(columns=clock).merge(best, on=CELL, how="left")


def numbers(found: View) -> pd.DataFrame:
    """The long table, with all that depends on the clock under `time`."""
    timed = found.numbers["quantity"].str.endswith("seconds")
    kept = found.numbers["table"].where(~timed | (found.numbers["table"] == "time"), "time")
    return found.numbers.assign(table=kept)


def terminal(found: View) -> str:
    """The headline numbers as text: one line per cell, best first, then the cost and the doubts."""
    lines = [f"study {found.study.name}: {len(found.study.runs)} trials"]
    lines.append(f"noise: {found.noise or 'not measured'}")
    row = "{:<10} {:>5}  {:<10} {:>8}  {:>17}  {:>9}  {:>18}  {}".format
    heads = ["size", "ratio", "optimizer", "loss", f"below {found.base_label}"]
    lines += ["", row(*heads, "published", "joint model", "verdict")]
    for _, race in found.speedups.groupby(RACE, sort=False):
        for cell in race.sort_values("loss").itertuples():
            cells = [cell.model_size, f"{cell.chinchilla_ratio:g}x", label(cell.optimizer)]
            half = _number((cell.gap_high - cell.gap_low) / 2, ".4f")
            gap = _number(cell.gap, "+.4f") + (half and f" ± {half}")
            limit = {"lower": "≥ "}.get(cell.joint_bound, "")
            joint = limit + _number(cell.joint, ".2f")
            joint += f" ({cell.joint_low:.2f}-{cell.joint_high:.2f})" if joint and not limit else ""
            shown = [gap, _number(cell.published, ".2f"), joint]
            lines.append(row(*cells, f"{cell.loss:.4f}", *shown, cell.verdict).rstrip())
    row = "{:<10} {:>7} {:>9} {:>8} {:>9}".format
    lines += ["", row("tuning", "trials", "diverged", "tokens", "seconds")]
    for cost in found.cost.itertuples():
        seconds = "" if np.isnan(cost.seconds) else f"{cost.seconds:.0f}"
        name = label(cost.optimizer)
        lines.append(row(name, cost.trials, cost.diverged, short(cost.tokens), seconds))
    lines += [*_searches(found), "", *verdicts.verdicts(found)]
    return "\n".join([*lines, *(f"doubt: {doubt}" for doubt in found.doubts)])


def _searches(found: View) -> list[str]:
    """One line per certificate: trials, what the start lost, what would overturn it, doubts."""
    if found.searches.empty:
        return []
    row = "{:<10} {:>5}  {:<10} {:>6} {:>10} {:>13}  {}".format
    lines = [
        "",
        row("search", "ratio", "optimizer", "trials", "start lost", "overturned by", "admits"),
    ]
    for cell in found.searches.to_dict("records"):
        listed = ("ties", "edges", "missing", "failed", "infeasible", "refused")
        admits = [f"{cell[n]:.0f} {n} ({cell[f'{n}_note']})" for n in listed if cell.get(n, 0) > 0]
        named = (cell["model_size"], f"{cell['chinchilla_ratio']:g}x", label(cell["optimizer"]))
        lost = _number(cell.get("start_regret", np.nan), ".4f")
        fall = _number(cell.get("overturn", np.nan), ".4f")
        lines.append(row(*named, cell["trials"], lost, fall, "; ".join(admits)).rstrip())
    return lines


def _number(value, spec) -> str:
    return format(value, spec) if np.isfinite(value) else ""


if __name__ == "__main__":
    sys.exit(main())
