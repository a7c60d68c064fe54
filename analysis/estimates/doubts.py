"""What a reader should know before believing any number, one sentence each."""

import pandas as pd

from analysis.estimates.table import Rows, pick
from analysis.fits import lint
from analysis.fits.joint import JointFit
from analysis.runs.names import RACE, cell_name, label
from analysis.runs.study import Study
from analysis.stats.noise import ENOUGH, Levels


def put_doubts(
    rows: Rows, study: Study, best: pd.DataFrame, noise: Levels | None, joint: JointFit | None
) -> None:
    """A row per doubt: its kind, how many cases, and the sentence as note. None: a clean study."""
    found = [*_search(study, best), *_laws(rows, study), *_noise(noise, joint), *_mixtures(study)]
    kinds = {}
    for kind, count, sentence in [*study.known_doubts, *found]:
        kinds[kind] = kinds.get(kind, 0) + 1
        quantity = kind if kinds[kind] == 1 else f"{kind} {kinds[kind]}"
        rows.put("doubt", "", quantity, count, note=sentence)


def _search(study, best):
    """What was not found, not run, or not run as much."""
    found = [problem for problem in study.problems if problem.kind == "unreadable"]
    if study.unfinished:
        sentence = f"{study.unfinished} trials have no result yet: the study is not finished."
        found.append(("unfinished", study.unfinished, sentence))
    open_cells = best[~best["complete"]]
    if len(open_cells):
        sentence = (
            f"{len(open_cells)} of {len(best)} cells have no certificate that the search is done:"
            f" {_cells(open_cells)}."
        )
        found.append(("uncertified", len(open_cells), sentence))
    if study.baseline not in set(best["optimizer"]):
        sentence = f"No finished {study.baseline} run: losses can be compared, speed-ups cannot."
        found.append(("no baseline", 1, sentence))
    if best["model_size"].nunique() == 1:
        sentence = "One model size only: nothing can be said about a trend with size."
        found.append(("one size", 1, sentence))
    at_edge = best[best["edges"] != ""]
    if len(at_edge):
        names = pd.Series(" ".join(at_edge["edges"]).split()).value_counts().head(4)
        counts = ", ".join(f"{name} {count}" for name, count in names.items())
        sentence = (
            f"{len(at_edge)} of {len(best)} winners lie at the edge of a grid (most often"
            f" {counts}): their optimum may lie outside."
        )
        found.append(("edges", len(at_edge), sentence))
    return [*found, *_certified(study), *_effort(best)]


def _certified(study):
    """What the certificates themselves admit."""
    for name, words in (
        ("failed", "trials failed on the machine, without a result"),
        ("infeasible", "settings cannot be run (out of memory), and are left out"),
        ("ties", "contenders could not be told apart from the settings that were chosen"),
    ):
        column = study.certificates.get(name, pd.Series(dtype=object))
        lists = [(row, entries) for row, entries in column.items() if isinstance(entries, list)]
        hit = [row for row, entries in lists if entries]
        count = sum(len(entries) for _, entries in lists)
        if count:
            where = _cells(study.certificates.loc[hit])
            yield name, count, f"{count} {words}, in {len(hit)} cells: {where}."


def _effort(best):
    """Unequal tuning flatters whoever was tuned longer."""
    uneven = lint.effort(best)
    if not uneven:
        return
    total = best.groupby("optimizer")["trials"].sum().sort_values(kind="stable")
    races = best.groupby(RACE).ngroups
    sentence = (
        f"Unequal effort in {len(uneven)} of {races} races, such as {uneven[0]}; over all of them"
        f" {label(total.index[-1])} had {total.iloc[-1]} trials and {label(total.index[0])}"
        f" {total.iloc[0]}."
    )
    yield "effort", len(uneven), sentence


def _laws(rows, study):
    """The baseline's laws that are none, or that nothing checks."""
    numbers = pick(rows.frame(), "data_law", "published_formula", "ratios")
    return [
        ("law", row.value, f"{label(study.baseline)}'s law at {row.model_size}: {row.note}.")
        for row in numbers.itertuples()
        if row.note
    ]


def _noise(noise, joint):
    found = []
    if noise is None:
        sentence = "No repeated runs: the noise is unknown, no difference can be called real."
        found.append(("no noise", 1, sentence))
    elif noise.total.df < ENOUGH:
        df = noise.total.df
        sentence = f"The noise rests on {df:.0f} degrees of freedom: {noise}."
        found.append(("noise", df, sentence))
    sentences = lint.joint(joint) if joint is not None else []
    return found + [("joint", 1, f"Joint model: {sentence}.") for sentence in sentences]


def _mixtures(study):
    """Corpora and devices that should be one."""
    for column, what in (("fingerprint", "corpora"), ("device", "kinds of device")):
        values = sorted(study.runs[column].dropna().unique())
        if len(values) > 1:
            sentence = f"Runs on {len(values)} {what} are mixed: {', '.join(values)}."
            yield (what, len(values), sentence)


def _cells(table) -> str:
    names = [cell_name(row) for row in table.itertuples()]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
