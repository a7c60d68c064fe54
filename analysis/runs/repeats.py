"""Runs that repeat one another, and the noise that they show."""

import numpy as np
import pandas as pd

from analysis.runs.names import CELL, RACE, at, reading_order, settings
from analysis.runs.study import Study
from analysis.runs.winners import repeats_of
from analysis.stats import noise
from analysis.stats.noise import Levels

NULL_KEYS = [f"hp_{name}" for name in noise.NULL_HYPERPARAMETERS]


def repeats(study: Study) -> pd.DataFrame:
    """Finished runs that differ from another in the seed alone: CELL, setting, seed, loss, hash."""
    finished = study.finished.copy()
    same = finished.groupby([*CELL, *settings(finished)], dropna=False, sort=False)
    finished["setting"] = same.ngroup()
    finished = finished.drop_duplicates(["setting", "seed"])
    counts = finished.groupby("setting")["seed"].transform("nunique")
    columns = [*CELL, "non_embedding_params", "setting", "seed", "loss", "hash"]
    table = finished.loc[counts > 1, columns]
    return reading_order(table, then=["setting", "seed"])


def measure(study: Study, winners: pd.DataFrame) -> Levels | None:
    """The noise of a study's runs, from seeds where there are enough of them, else null changes."""
    again = repeats(study)
    layouts = [_layout(cell, "setting") for _, cell in again.groupby(CELL, sort=False)]
    fresh = fresh_seeds(study, winners)
    races = {key: _layout(race, "optimizer") for key, race in fresh.groupby(RACE, sort=False)}
    return noise.levels(layouts, races, null_groups(study.finished))


def fresh_seeds(study: Study, winners: pd.DataFrame) -> pd.DataFrame:
    """The winners' runs under seeds that had no part in their choice: CELL, seed, loss."""
    cells, rows = dict(list(study.runs.groupby(CELL))), []
    for winner in winners.to_dict("records"):
        cell = tuple(winner[name] for name in CELL)
        if winner["reruns"]:
            again = repeats_of(cells[cell], winner, study.certificate_of.get(cell))
            rows += [at(winner) | {"seed": r.seed, "loss": r.loss} for r in again.itertuples()]
    return pd.DataFrame(rows, columns=[*CELL, "seed", "loss"]).drop_duplicates([*CELL, "seed"])


def _layout(table, by) -> list[list[float]]:
    """Losses by `by` on the seeds they have in common, seeds that most have first."""
    losses = table.pivot_table(index=by, columns="seed", values="loss", aggfunc="first")
    order = losses.notna().sum().sort_values(ascending=False, kind="stable").index
    rows = losses[order].to_numpy(float)
    ends = [int(np.argmin([*np.isfinite(row), False])) for row in rows]
    return [list(row[:end]) for row, end in zip(rows, ends, strict=True) if end]


def null_groups(runs: pd.DataFrame) -> list[list[float]]:
    """Losses of runs of one seed that differ only in a negligible epsilon."""
    keys = [key for key in NULL_KEYS if key in runs]
    small = (runs[keys].isna() | (runs[keys] <= noise.NULL_BELOW)).all(axis=1)
    runs = runs[small & ~runs["optimizer"].isin(noise.NULL_EXCEPT)]
    rest = [name for name in settings(runs) if name not in keys]
    groups = runs.groupby([*CELL, "seed", *rest], dropna=False, sort=False)["loss"]
    return [list(group) for _, group in groups if group.nunique() > 1]
