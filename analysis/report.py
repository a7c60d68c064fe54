"""The report of a study: one self-contained page and its numbers.

    python -m analysis.report runs/nano                        a results folder
    python -m analysis.report runs/nano runs/theirs --out=DIR  several folders as one race
    python -m analysis.report runs/nano --against=published    with the recorded study beside it
    python -m analysis.report runs/nano --baseline=muon        speed-ups over another optimizer
    python -m analysis.report published --out=docs/report      the recorded study itself
    python -m analysis.report track3 --out=DIR                 another record: track3, qwen3_ladder
    python -m analysis.report runs --gallery                   one page for all studies of a folder

Writes DIR/index.html, DIR/numbers.csv (every number, long form), DIR/table.csv (losses and
speed-ups, no times: two studies with the same results have the same file) and DIR/answer.svg. The
same inputs give the same bytes.
"""

import argparse
import dataclasses
import functools
import sys
from pathlib import Path

import pandas as pd

from analysis.pages import comparison, figures, page, record, sections, speedups, trust, verdicts
from analysis.pages.svg import short
from analysis.pages.view import View, digits, view
from analysis.records import RECORDS
from analysis.runs import reader, recorded
from analysis.runs.names import BASELINE, CELL, did_you_mean, label, settings
from analysis.runs.study import Study, together


def main(argv=None) -> int:
    parser = _parser()
    given = parser.parse_args(argv)
    known = given.sources == ["published"] or given.sources[0] in RECORDS
    elsewhere = len(given.sources) > 1 or "://" in given.sources[0]
    if (known or elsewhere) and not given.out:
        parser.error(f"{' '.join(given.sources)}: say where to write, with --out=DIR")
    if given.gallery and len(given.sources) > 1:
        parser.error("--gallery takes one folder of studies")
    out = Path(given.out or Path(given.sources[0]) / ("" if given.gallery else "report"))
    if given.sources[0] in RECORDS:
        _record(RECORDS[given.sources[0]], out)
        print(f"report: {out / 'index.html'}")
        return 0
    try:
        if given.gallery:
            print(gallery(Path(given.sources[0]), out))
            return 0
        found = _look(given.sources, given.baseline)
    except (reader.NothingToReport, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    against = _look(["published"], found.baseline) if given.against else None
    write(found, out, against)
    print(terminal(found))
    print(f"report: {out / 'index.html'}")
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write the report of one or several results folders: a page and CSVs.",
        epilog="examples:\n" + __doc__.split("\n\n")[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = "results folders (several are one race), or `published`"
    parser.add_argument("sources", metavar="WORKDIR", nargs="+", help=words)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: WORKDIR/report)")
    parser.add_argument(
        "--against", choices=["published"], help="add the recorded study as comparison"
    )
    parser.add_argument("--baseline", metavar="NAME", help="speed-ups are over this optimizer")
    words = "one page for all studies below WORKDIR, each by its answer"
    parser.add_argument("--gallery", action="store_true", help=words)
    return parser


def _look(sources: list[str], baseline: str | None) -> View:
    if sources == ["published"]:
        return _recorded(baseline or BASELINE)
    study = _load(sources, baseline)
    raced = sorted(set(study.runs["optimizer"]))
    if baseline and baseline not in raced:
        hint = did_you_mean(baseline, raced)
        raise ValueError(f"--baseline: {baseline!r} was not raced, only {', '.join(raced)}{hint}")
    return view(study)


def _load(sources, baseline) -> Study:
    studies = [reader.load(source, baseline=baseline) for source in sources]
    return studies[0] if len(studies) == 1 else together(studies)


@functools.cache
def _recorded(baseline: str) -> View:
    return view(dataclasses.replace(recorded.study(), baseline=baseline))


def write(found: View, out: Path, against: View | None = None) -> None:
    """Write the page, the tables and the picture of the answer of one study into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.html").write_text(html(found, against), encoding="utf-8")
    show = sections.Figures()
    show(figures.forest, found)
    for drawn in show.drawn.values():  # none where nobody can be compared
        (out / "answer.svg").write_text(drawn.svg(), encoding="utf-8")
    numbers(found).to_csv(out / "numbers.csv", index=False, lineterminator="\n")
    table(found).to_csv(out / "table.csv", index=False, lineterminator="\n")


def html(found: View, against: View | None = None) -> str:
    """The page of one study."""
    show = sections.Figures()
    chosen = sections.RECORDED if found.study.name == recorded.NAME else sections.STUDY
    top = sections.head(found, show)
    last = (*chosen[1:], chosen[0])  # the doubts link to what the others draw
    parts = {heading: section(found, show) for heading, section in last}
    body = [(heading, parts[heading]) for heading, _ in chosen]
    if against is not None:
        beside = speedups.against(found, against)
        body.insert(4, ("Against the recorded study", beside))
    data = {"csv": {name: drawn.csv for name, drawn in show.drawn.items()}}
    return page.page(found.study.name, body, data | {"compare": comparison.data(found)}, head=top)


def _record(module, out: Path) -> None:
    """The page and the numbers of a record of `analysis.records`."""
    found = module.numbers()
    out.mkdir(parents=True, exist_ok=True)
    content = record.record(module.TITLE, module.sentences(found), found)
    (out / "index.html").write_text(content, encoding="utf-8")
    found.to_csv(out / "numbers.csv", index=False, lineterminator="\n")


def gallery(folder: Path, out: Path) -> str:
    """A page with the answer of every study below `folder`, linked to its report.

    Raises:
      reader.NothingToReport: there is no study below the folder.
    """
    below = sorted({path.parent for path in folder.glob("**/trials") if path.is_dir()})
    show, parts = sections.Figures(), []
    for workdir in below:
        name = str(workdir.relative_to(folder))
        try:
            found = view(reader.load(workdir), cards=False)
        except (reader.NothingToReport, ValueError) as error:
            parts.append((name, page.paragraph(str(error), "note")))
            continue
        body = page.bullets(verdicts.verdicts(found)) + show(sections.named_forest, found, name)
        if (workdir / "report" / "index.html").exists():
            href = page.text((Path(name) / "report" / "index.html").as_posix())
            body = page.Raw(f'<p><a href="{href}">whole report</a></p>') + body
        parts.append((name, body))
    if not parts:
        raise reader.NothingToReport(f"{folder}: no study below it (a folder with trials/)")
    data = {"csv": {name: drawn.csv for name, drawn in show.drawn.items()}}
    out.mkdir(parents=True, exist_ok=True)
    top = page.Raw(f"<h1>{page.text(folder.name)}: {len(parts)} studies</h1>")
    (out / "index.html").write_text(page.page(folder.name, parts, data, head=top), encoding="utf-8")
    return f"gallery of {len(parts)} studies: {out / 'index.html'}"


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


def terminal(found: View, most=11) -> str:
    """The answer in at most `most` lines: sentences, the largest race, the cost, the doubts."""
    sentences, race = verdicts.verdicts(found), found.races[0]
    cost = found.cost[["trials", "tokens"]].sum()
    last = [f"{cost['trials']:.0f} trials of {short(cost['tokens'])} tokens in all"]
    doubts = trust.ranked_doubts(found)
    if doubts:
        nats = f" ({doubts[0].nats} nats)" if doubts[0].nats else ""
        last.append(f"{len(doubts)} doubts, the first{nats}: {doubts[0].sentence}")
    room = most - len(last) - 2
    lines = sentences[: max(1, room - min(len(race), 5))]
    row = "{:<14} {:>8}  {:>20}  {:>20}  {}".format
    lines.append(row("", "loss", f"below {found.base_label}", "speed-up", "verdict").rstrip())
    shown = race.head(max(1, most - len(lines) - len(last)))
    numbers = [found.headline(what, race) for what in ("gap", "speedup")]
    for cell in shown.itertuples():
        texts = [_half(number[cell.optimizer]) for number in numbers]
        words = (label(cell.optimizer), f"{cell.loss:.4f}", *texts, cell.verdict)
        lines.append(row(*words).rstrip())
    lines[-1] += f"   (and {len(race) - len(shown)} more)" * (len(race) > len(shown))
    return "\n".join([*lines, *last])


def _half(number) -> str:
    """`0.034 ± 0.004`, or as the page shows it where the interval is open or one-sided."""
    if number is None:
        return ""
    half = (number.high - number.low) / 2
    if (
        number.bound
        or not half > 0
        or abs(number.high + number.low - 2 * number.value) > 0.1 * half
    ):
        return str(number)
    ends = (number.low, number.high)
    return f"{digits(number.value, *ends)} ± {digits(half, *ends)}"


if __name__ == "__main__":
    sys.exit(main())
