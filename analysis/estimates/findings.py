"""Everything the report says about a study, as tables: one call from a `Study` to its findings."""

import dataclasses

import numpy as np
import pandas as pd

from analysis.estimates import lint, noise, races, tables
from analysis.estimates import optima as transfer
from analysis.estimates.joint import JointFit
from analysis.estimates.loss_laws import DataLaw
from analysis.estimates.noise import Noise
from analysis.estimates.numbers import COLUMNS, study_numbers
from analysis.estimates.speedup import BASELINE
from analysis.pages import style
from analysis.runs.reader import CELL, Study

_RUN_COLUMNS = [
    *("hash", "seed", "status", "loss", "tokens", "flops", "seconds", "optimizer_bytes"),
    "non_embedding_params",
]


@dataclasses.dataclass(frozen=True)
class Findings:
    """Tables of one study in reading order; their columns are in the functions that make them.

    `numbers` holds the robust numbers in long form (`estimates.numbers`; empty while the noise
    is unknown), `laws` the baseline's data law of every size that has one, `doubts` what a reader
    should know before believing any of it.
    """

    study: Study
    best: pd.DataFrame
    deviations: pd.DataFrame
    repeats: pd.DataFrame
    numbers: pd.DataFrame
    optima: pd.DataFrame
    noise: Noise | None
    laws: dict[str, DataLaw]
    law_table: pd.DataFrame
    joint: JointFit | None
    speedups: pd.DataFrame
    trends: pd.DataFrame
    curves: pd.DataFrame
    crossings: pd.DataFrame
    early_stop: pd.DataFrame
    cost: pd.DataFrame
    doubts: tuple[str, ...]


def analyse(study: Study, *, best=None, deviations=None, numbers=None, known_doubts=()) -> Findings:
    """All tables of a study with at least one finished trial.

    Args:
      best, deviations, numbers: tables to use instead of those made from the runs, for recorded
        studies whose winners are not all among the recorded runs.
      known_doubts: sentences to put before those found.
    """
    level = noise.measure(study.runs)
    best = tables.best(study) if best is None else best
    best = races.fair_losses(best, study.runs, level)
    laws, law_table = races.data_laws(best)
    joint = races.joint_fit(best, level)
    numbers = robust_numbers(study, best, level) if numbers is None else numbers
    curves = tables.winner_curves(study, best)
    return Findings(
        study=study,
        best=best,
        deviations=tables.deviations(study) if deviations is None else deviations,
        repeats=tables.repeats(study),
        numbers=numbers,
        optima=_optima(numbers, best),
        noise=level,
        laws=laws,
        law_table=law_table,
        joint=joint,
        speedups=races.speedups(best, laws, level, joint),
        trends=races.trends(joint),
        curves=curves,
        crossings=tables.crossings(curves),
        early_stop=tables.early_stop(curves),
        cost=tables.cost(study),
        doubts=(*known_doubts, *doubts(study, best, law_table, level, joint)),
    )


def robust_numbers(study: Study, best: pd.DataFrame, level: Noise | None) -> pd.DataFrame:
    """`numbers.study_numbers` of a study; no rows while the noise is unknown."""
    if level is None:
        return pd.DataFrame(columns=COLUMNS)
    columns = [*CELL, *_RUN_COLUMNS, *(f"hp_{name}" for name in study.tuned)]
    return study_numbers(study.runs[columns], best=best, noise=level)


def _optima(numbers, best):
    """The optima among the numbers, with the parameters and tokens of their cells."""
    table = numbers[numbers["table"] == "optimum"].rename(columns={"quantity": "hyperparameter"})
    table = table[[*CELL, "hyperparameter", "value", "low", "high", "note"]]
    table["chinchilla_ratio"] = table["chinchilla_ratio"].astype(float)
    cells = best[[*CELL, "non_embedding_params", "tokens"]].astype({"chinchilla_ratio": float})
    return tables.reading_order(table.merge(cells, on=CELL), then=["hyperparameter"])


def transfer_laws(optima: pd.DataFrame, hyperparameter: str) -> dict[str, transfer.TransferLaw]:
    """The law of one hyper-parameter's optimum over size and budget, per optimizer that has one."""
    laws = {}
    swept = optima[optima["hyperparameter"] == hyperparameter]
    for optimizer, cells in swept.groupby("optimizer", sort=False):
        x, low, high = (
            transfer.to_log2(hyperparameter, cells[name].fillna(np.nan))
            for name in ("value", "low", "high")
        )
        scale = cells["non_embedding_params"], cells["chinchilla_ratio"]
        law = transfer.fit_transfer(hyperparameter, x, low, high, *scale, np.full(len(x), np.nan))
        if law is not None:
            laws[optimizer] = law
    return laws


def doubts(study, best, laws, level, joint) -> list[str]:
    """What a reader should doubt, one sentence each; an empty list is a clean study."""
    found = list(study.problems)
    if study.unfinished:
        found.append(f"{study.unfinished} trials have no result yet: the study is not finished.")
    open_cells = best[~best["complete"]]
    if len(open_cells):
        found.append(
            f"{len(open_cells)} of {len(best)} cells have no certificate that the search is done:"
            f" {_cells(open_cells)}."
        )
    if BASELINE not in set(best["optimizer"]):
        found.append(f"No finished {BASELINE} run: losses can be compared, speed-ups cannot.")
    if best["model_size"].nunique() == 1:
        found.append("One model size only: nothing can be said about a trend with size.")
    found += [
        f"{style.label(BASELINE)}'s law at {row.model_size}: {row.note}."
        for row in laws.itertuples()
        if row.note
    ]
    if level is None:
        found.append("No repeated runs: the noise is unknown, no difference can be called real.")
    elif level.df < 4:
        found.append(f"The noise rests on {level.df:.0f} degrees of freedom: {level}.")
    if joint is not None:
        found += [f"Joint model: {sentence}." for sentence in lint.joint(joint)]
    at_edge = best[best["edges"] != ""]
    if len(at_edge):
        names = pd.Series(" ".join(at_edge["edges"]).split()).value_counts().head(4)
        counts = ", ".join(f"{name} {count}" for name, count in names.items())
        found.append(
            f"{len(at_edge)} of {len(best)} winners lie at the edge of a grid (most often"
            f" {counts}): their optimum may lie outside."
        )
    uneven = lint.effort(best)
    if uneven:
        more = f"; and {len(uneven) - 1} more races" if len(uneven) > 1 else ""
        found.append(f"{uneven[0]}{more}.")
    for column, what in (("fingerprint", "corpora"), ("device", "kinds of device")):
        values = sorted(study.runs[column].dropna().unique())
        if len(values) > 1:
            found.append(f"Runs on {len(values)} {what} are mixed: {', '.join(values)}.")
    return found


def _cells(table) -> str:
    names = [f"{r.optimizer} {r.model_size} {r.chinchilla_ratio:g}x" for r in table.itertuples()]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
