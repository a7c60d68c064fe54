"""Everything the report says about a study, as tables: one call from a `Study` to its findings."""

import dataclasses
import warnings

import numpy as np
import pandas as pd

from analysis import noise, tables
from analysis.laws import DataLaw, fit_data_law
from analysis.noise import Noise
from analysis.records import CELL, Study
from analysis.speedup import BASELINE, published_speedup

Z = 1.96  # two-sided 95 % of a normal distribution


@dataclasses.dataclass(frozen=True)
class Findings:
    """Tables of one study, in reading order (columns in the functions that make them).

    `laws` holds the baseline's data law of every size that has one, `lint` what a reader should
    doubt.
    """

    study: Study
    best: pd.DataFrame
    deviations: pd.DataFrame
    repeats: pd.DataFrame
    noise: Noise | None
    laws: dict[str, DataLaw]
    law_table: pd.DataFrame
    speedups: pd.DataFrame
    curves: pd.DataFrame
    crossings: pd.DataFrame
    early_stop: pd.DataFrame
    cost: pd.DataFrame
    lint: tuple[str, ...]


def analyse(study: Study) -> Findings:
    """All tables of a study with at least one finished trial."""
    best = tables.best(study)
    level = noise.measure(study.runs)
    laws, law_table = data_laws(best)
    curves = tables.winner_curves(study, best)
    return Findings(
        study=study,
        best=best,
        deviations=tables.deviations(study),
        repeats=tables.repeats(study),
        noise=level,
        laws=laws,
        law_table=law_table,
        speedups=speedups(best, laws, level),
        curves=curves,
        crossings=tables.crossings(curves),
        early_stop=tables.early_stop(curves),
        cost=tables.cost(study),
        lint=tuple(lint(study, best, law_table, level)),
    )


def data_laws(best: pd.DataFrame, baseline: str = BASELINE) -> tuple[dict, pd.DataFrame]:
    """The baseline's data law of every size by the study's fit, and a table that says how far to
    trust it.

    Returns the laws that may be used, and a table model_size, ratios, alpha, exponent, floor,
    freedom (points minus parameters), rms (nats), note. A fit that failed, or that is no decreasing
    law, has a note, no numbers and no law.
    """
    laws, rows = {}, []
    for size, runs in best[best["optimizer"] == baseline].groupby("model_size", sort=False):
        row = {"model_size": size, "ratios": len(runs), "note": ""}
        rows.append(row)
        if len(runs) < 3:
            row["note"] = f"{len(runs)} ratios: a law with three parameters needs three"
            continue
        law = _fit(runs)
        if law is None or not (law.alpha > 0 and law.exponent > 0):
            row["note"] = "the losses do not follow a decreasing power law"
            continue
        laws[size] = law
        residual = runs["loss"] - law.loss(runs["chinchilla_ratio"])
        row |= {"alpha": law.alpha, "exponent": law.exponent, "floor": law.floor}
        row |= {"freedom": len(runs) - 3, "rms": float(np.sqrt((residual**2).mean()))}
        if len(runs) == 3:
            row["note"] = "no degrees of freedom: the law passes through its three points"
    columns = ["model_size", "ratios", "alpha", "exponent", "floor", "freedom", "rms", "note"]
    return laws, pd.DataFrame(rows).reindex(columns=columns)


def _fit(runs):
    with warnings.catch_warnings():
        # no covariance with as many points as parameters; `freedom` says so
        warnings.simplefilter("ignore")
        try:
            return fit_data_law(runs["chinchilla_ratio"], runs["loss"])
        except RuntimeError:  # did not converge
            return None


def speedups(best: pd.DataFrame, laws: dict, level: Noise | None) -> pd.DataFrame:
    """Gap to AdamW and speed-up over it, each with what the measured noise allows to say.

    Returns CELL, non_embedding_params, loss, gap (baseline loss minus loss, nats), gap_error (95 %
    half-width of a difference of two runs), speedup (NaN without a law), low, high (the noise of
    all losses carried to first order through the published formula), note, verdict: one of faster,
    slower, not resolvable, noise unknown, no baseline, baseline.
    """
    columns = [*CELL, "non_embedding_params", "loss"]
    table = best[columns].copy()
    base = best[best["optimizer"] == BASELINE]
    base = base.set_index(["model_size", "chinchilla_ratio"])["loss"]
    keys = pd.MultiIndex.from_frame(table[["model_size", "chinchilla_ratio"]])
    table["gap"] = base.reindex(keys).values - table["loss"].values
    table["gap_error"] = Z * np.sqrt(2) * level.sigma if level else np.nan
    fitted = [best[best["model_size"] == size] for size in laws]
    table = table.merge(_concat([_published(runs) for runs in fitted]), on=CELL, how="left")
    if level:
        errors = _concat([_log_error(runs, level.sigma) for runs in fitted])
        table = table.merge(errors, on=CELL, how="left")
    error = table.pop("log_error") if level else np.nan
    table["low"] = table["speedup"] * np.exp(-Z * error)
    table["high"] = table["speedup"] * np.exp(Z * error)
    table["note"] = table["note"].fillna("no law for this size")
    table.loc[table["optimizer"] == BASELINE, "note"] = ""
    table["verdict"] = [_verdict(row) for row in table.itertuples()]
    return table


def _concat(parts):
    empty = pd.DataFrame(columns=[*CELL, "speedup", "note", "log_error"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def _published(runs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return published_speedup(runs)[[*CELL, "speedup", "note"]]


def _log_error(runs, sigma):
    """Standard error of log speed-up at one size: every loss moved by sigma in turn, in squares.

    NaN where the moved losses no longer carry a law.
    """
    table = _published(runs)[CELL]

    def log_speedup(loss):
        try:
            return np.log(_published(runs.assign(loss=loss))["speedup"].to_numpy())
        except RuntimeError:
            return np.full(len(table), np.nan)

    centre, base = log_speedup(runs["loss"]), runs["optimizer"] == BASELINE
    moves = [runs.index == index for index in runs.index[base]] + [~base]
    shifts = [log_speedup(runs["loss"] + sigma * move) - centre for move in moves]
    return table.assign(log_error=np.sqrt(np.square(shifts).sum(axis=0)))


def _verdict(row) -> str:
    if row.optimizer == BASELINE:
        return "baseline"
    if not np.isfinite(row.gap):
        return "no baseline"
    if not np.isfinite(row.gap_error):
        return "noise unknown"
    if abs(row.gap) <= row.gap_error:
        return "not resolvable"
    return "faster" if row.gap > 0 else "slower"


def lint(study: Study, best: pd.DataFrame, laws: pd.DataFrame, level: Noise | None) -> list[str]:
    """What a reader should doubt, one sentence each; an empty list is a clean study."""
    doubts = list(study.problems)
    if study.unfinished:
        doubts.append(f"{study.unfinished} trials have no result yet: the study is not finished.")
    open_cells = best[~best["complete"]]
    if len(open_cells):
        doubts.append(
            f"{len(open_cells)} of {len(best)} cells have no certificate that the search is done:"
            f" {_cells(open_cells)}."
        )
    if BASELINE not in set(best["optimizer"]):
        doubts.append(f"No finished {BASELINE} run: losses can be compared, speed-ups cannot.")
    if best["model_size"].nunique() == 1:
        doubts.append("One model size only: nothing can be said about a trend with size.")
    doubts += [f"{row.model_size}: {row.note}." for row in laws.itertuples() if row.note]
    if level is None:
        doubts.append("No repeated runs: the noise is unknown, no difference can be called real.")
    elif level.df < 4:
        doubts.append(f"The noise rests on {level.df:.0f} degrees of freedom: {level}.")
    at_edge = best[best["edges"] != ""]
    if len(at_edge):
        names = " ".join(at_edge["edges"]).split()
        counts = ", ".join(f"{name} {names.count(name)}" for name in sorted(set(names)))
        doubts.append(
            f"{len(at_edge)} of {len(best)} winners lie at the edge of a grid ({counts}):"
            " their optimum may lie outside."
        )
    doubts += _uneven_effort(best)
    for column, what in (("fingerprint", "corpora"), ("device", "kinds of device")):
        values = sorted(study.runs[column].dropna().unique())
        if len(values) > 1:
            doubts.append(f"Runs on {len(values)} {what} are mixed: {', '.join(values)}.")
    return doubts


def _uneven_effort(best: pd.DataFrame) -> list[str]:
    """The best of more trials is better by luck alone; a race with 1.5 times the trials is
    named."""
    doubts = []
    for (size, ratio), race in best.groupby(["model_size", "chinchilla_ratio"], sort=False):
        most, least = race.loc[race["trials"].idxmax()], race.loc[race["trials"].idxmin()]
        if most["trials"] >= 1.5 * least["trials"]:
            doubts.append(
                f"Uneven effort at {size} {ratio:g}x: {most['trials']} trials of"
                f" {most['optimizer']}, {least['trials']} of {least['optimizer']}."
            )
    return doubts


def _cells(table) -> str:
    return ", ".join(
        f"{row.optimizer} {row.model_size} {row.chinchilla_ratio:g}x" for row in table.itertuples()
    )
