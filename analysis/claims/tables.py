"""What `analysis.claims` compares: arms, each a table of runs with their losses along the way.

A source is a CSV (one row per run, or per point of a run's curve), a results folder, or `track3:N`,
the runs behind result N of the shipped record.
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.published import track3
from analysis.runs import reader
from analysis.runs.csv_table import read_csv
from analysis.runs.reader import CELL

NAMES = {  # our name -> what tables call it; the first that is there counts
    "loss": ("loss", "val_loss", "validation_loss", "final_val_loss", "final_loss", "eval_loss"),
    "run": ("run", "run_id", "hash", "run_name", "trial"),
    "seed": ("seed", "random_seed"),
    "step": ("step", "steps", "last_step", "iteration"),
    "tokens": ("tokens", "tokens_seen"),
    "flops": ("flops", "model_flops"),
    "seconds": ("seconds", "train_time_s", "time"),
}
AXES = ("step", "tokens", "flops", "seconds")
SETTING = (  # columns that tell settings apart, beside hp_*
    *("optimizer", "model_size", "size", "params", "non_embedding_params", "chinchilla_ratio"),
    "learning_rate",
)


class ClaimError(ValueError):
    """A table or an option that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Arm:
    """Runs of one setting: points has run, seed, loss and those of AXES that are known."""

    name: str
    points: pd.DataFrame = field(repr=False)

    @property
    def last(self) -> pd.DataFrame:
        """The last point of every run, by run."""
        return self.points.groupby("run", sort=False).tail(1).set_index("run")

    def losses(self, step=None) -> dict:
        """{seed, or run where seeds are missing or repeat: loss} at a step, at the end by default.

        Raises:
          ClaimError: the runs end at different steps and none is named, or lack the one named.
        """
        if step is None:
            last = self.last
            if "step" in last and last.step.nunique() > 1:
                ends = ", ".join(f"{s:g}" for s in sorted(last.step.unique())[:4])
                raise ClaimError(f"{self.name}: runs end at steps {ends}; name one with --step")
        else:
            if "step" not in self.points:
                raise ClaimError(f"{self.name}: no column `step`, so there is no step {step:g}")
            last = self.points[self.points.step == step].set_index("run")
            missing = self.points.run.nunique() - len(last)
            if missing:
                raise ClaimError(
                    f"{self.name}: {missing} of its runs have no loss at step {step:g}"
                )
        return dict(zip(self._keys(last), last.loss, strict=True))

    def _keys(self, table):
        """What pairs a run with one of the other arm: its seed, if that names one run."""
        if "seed" in table and table.seed.notna().all() and table.seed.is_unique:
            return table.seed.tolist()
        return [(self.name, run) for run in table.index]

    def looks(self) -> pd.DataFrame:
        """Losses with one row per run (as keys) and one column per step that all runs looked at."""
        if "step" not in self.points:
            raise ClaimError(f"{self.name}: no column `step`, so there is no curve")
        wide = self.points.pivot(index="run", columns="step", values="loss").dropna(axis=1)
        seeds = self.last.reindex(wide.index)
        return wide.set_axis(pd.Index(self._keys(seeds), tupleize_cols=False), axis=0)

    def budget(self, axis: str, step=None) -> float | None:
        """Mean of an axis at the end or at a step; None where it is not recorded."""
        if axis not in self.points or self.points[axis].isna().any():
            return None
        at = self.last if step is None else self.points[self.points.step == step]
        return float(at[axis].mean())

    def curves(self, axis: str) -> list:
        """(budget, loss) of every run with at least three points."""
        if axis not in self.points:
            return []
        runs = (run for _, run in self.points.groupby("run", sort=False) if len(run) >= 3)
        return [(run[axis].to_numpy(float), run.loss.to_numpy(float)) for run in runs]


def read(source: str, *, loss: str | None = None) -> pd.DataFrame:
    """The points of a source: run, loss, AXES and seed where known, and all its other columns.

    Raises:
      ClaimError: no such source, no losses in it, or a value that is no number; names file and row.
    """
    if source.startswith("track3:"):
        return _track3(source)
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    return _points(_text(source), source, loss)


def _text(source):
    """A CSV with every cell as it was written."""
    try:
        table = read_csv(source, text=True)
    except ValueError as error:
        raise ClaimError(str(error)) from None
    return table.rename(columns=lambda name: str(name).strip())


def _points(raw, source, loss):
    named = {ours: [c for c in theirs if c in raw] for ours, theirs in NAMES.items()}
    if loss:
        if loss not in raw:
            raise ClaimError(f"{source}: no column {loss!r}{nearest(loss, raw.columns)}")
        named["loss"] = [loss]
    if not named["loss"]:
        known = ", ".join(NAMES["loss"])
        raise ClaimError(f"{source}: no column of losses ({known}); name it with --loss")
    table = raw.copy()
    for ours, theirs in named.items():
        if not theirs:
            continue
        column = raw[theirs[0]].str.strip()
        table[ours] = column if ours in ("run", "seed") else _numbers(column, source, theirs[0])
    if "seed" in table:
        table["seed"] = table.seed.replace("", np.nan)
    bad = ~np.isfinite(table.loss)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ClaimError(
            f"{source}: line {row + 2}: {named['loss'][0]} is {raw[named['loss'][0]].iloc[row]!r};"
            " a run without a finite loss cannot be averaged, so leave it out and say so"
        )
    return table


def _numbers(column, source, name):
    """Floats; an empty cell is NaN, anything else that is no number an error."""
    values = pd.to_numeric(column.where(column != ""), errors="coerce")
    bad = np.flatnonzero(values.isna() & ~column.str.lower().isin(["", "nan"]))
    if len(bad):
        wrong = column.iloc[bad[0]]
        raise ClaimError(f"{source}: line {bad[0] + 2}: {name} is {wrong!r}, not a number")
    return values.astype(float)


def _track3(source):
    number = source.partition(":")[2]
    runs = track3.runs()
    known = sorted(int(n) for n in runs.result_number.dropna().unique())
    if not number.isdigit() or int(number) not in known:
        raise ClaimError(f"{source}: there are results {known[0]} to {known[-1]}")
    runs = runs[(runs.result_number == int(number)) & (runs.role == track3.EVIDENCE)]
    table = track3.curves()
    table = table[table.run_id.isin(runs.run_id)].merge(runs[["run_id", "seed"]], on="run_id")
    # seconds are left out: the machines differ
    return table.rename(columns={"run_id": "run"})[["run", "seed", "step", "loss"]]


def _folder(path):
    """A results folder: the fresh repeats of every winner, or all runs where nothing was chosen."""
    try:
        study = reader.load(path)
    except reader.NothingToReport as error:
        raise ClaimError(str(error)) from None
    runs = study.runs[study.runs.status == "finished"]
    if not len(runs):
        raise ClaimError(f"{path}: no finished run")
    if study.certificate_of:
        fresh = [_repeats(certificate) for certificate in study.certificate_of.values()]
        runs = runs[runs.hash.isin({name for names in fresh for name in names})]
    settings = [c for c in runs if c.startswith("hp_")]
    for cell, group in runs.groupby(CELL):
        several = [c for c in settings if group[c].nunique(dropna=False) > 1]
        if several:
            name = f"{cell[0]} {cell[1]} {cell[2]:g}x"
            raise ClaimError(f"{path}: the runs of {name} differ in {several[0][3:]}, not in seed")
    cell = [*CELL, "non_embedding_params"]
    ends = runs[["hash", "seed", *cell, "steps", "tokens", "flops", "seconds", "loss"]]
    ends = ends.rename(columns={"hash": "run", "steps": "step"})
    if not len(study.curves):
        return ends
    curves = study.curves[study.curves.hash.isin(runs.hash)].dropna(subset="validation_loss")
    curves = curves.rename(columns={"hash": "run", "validation_loss": "loss"})
    along = curves[["run", "step", "tokens", "loss"]].merge(
        ends[["run", "seed", *cell, "step", "flops"]].rename(columns={"step": "end"}), on="run"
    )
    along = along[along.step < along.end].assign(flops=along.flops * along.step / along.end)
    return pd.concat([along.drop(columns="end"), ends.drop(columns="seconds")], ignore_index=True)


def _repeats(certificate):
    """The winner's own loss was chosen for being low: repeats speak if there are two of them."""
    winner = certificate.get("best_hash")
    repeats = certificate.get("repeats")
    found = [r["hash"] for r in repeats if r.get("hash")] if isinstance(repeats, list) else []
    fresh = [name for name in found if name != winner]
    return fresh if len(fresh) > 1 else [winner, *fresh]


def select(name: str, table: pd.DataFrame, only: dict) -> pd.DataFrame:
    """Rows where the columns of `only` have the values given.

    Raises:
      ClaimError: a column or a value that is not there, with the nearest name.
    """
    for column, value in only.items():
        if column not in table:
            raise ClaimError(f"{name}: no column {column!r}{nearest(column, table.columns)}")
        text = table[column].map(plain)
        if value not in set(text):
            known = sorted(set(text))
            hint = nearest(value, known) or f" (there are {', '.join(known[:6])})"
            raise ClaimError(f"{name}: {column} is nowhere {value!r}{hint}")
        table = table[text == value]
    return table


def arm(name: str, table: pd.DataFrame) -> Arm:
    """All rows of a table as one arm.

    Raises:
      ClaimError: rows of several settings, points that belong to no run, or to one twice.
    """
    table = table.copy()
    for column in table:
        if column in SETTING or column.startswith("hp_"):
            values = sorted(set(table[column].map(plain)))
            if len(values) > 1:
                raise ClaimError(
                    f"{name}: {column} is {', '.join(values[:3])}; one setting per arm"
                    f" (--only={column}={values[0]})"
                )
    if "run" not in table:
        table["run"] = _runs(name, table)
    order = [axis for axis in AXES if axis in table][:1]
    table = table.sort_values(order, kind="stable") if order else table
    twice = table.duplicated(["run", *order])
    if twice.any():
        row = table[twice].iloc[0]
        where = f" at {order[0]} {row[order[0]]:g}" if order else ""
        raise ClaimError(f"{name}: run {row.run} has two losses{where}")
    return Arm(name, table.reset_index(drop=True))


def _runs(name, table):
    if "seed" in table and table.seed.notna().all():
        return table.seed
    if "step" not in table or table.step.nunique() == 1:
        return np.arange(len(table))
    if table.step.is_monotonic_increasing and table.step.is_unique:
        return 0
    raise ClaimError(f"{name}: a column `run` or `seed` must say which run a point belongs to")


def plain(value) -> str:
    """A value as one would type it: 8 for 8.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def nearest(name, known) -> str:
    """ "; did you mean ...?", or nothing."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], 1)
    return f"; did you mean {near[0]!r}?" if near else ""


STATEMENT = ("id", "kind", "claim", "a_mean", "a_n", "a_steps", "b_mean", "b_n", "b_steps")


def statements(source: str) -> pd.DataFrame:
    """A table of stated claims for `rules.check_statements`.

    Raises:
      ClaimError: no such table, or a column of STATEMENT that it lacks or that holds no numbers.
    """
    table = _text(source)
    missing = [column for column in STATEMENT if column not in table]
    if missing:
        raise ClaimError(f"{source}: no column {missing[0]!r}{nearest(missing[0], table.columns)}")
    optional = ("a_result", "b_result", "exchange_per_100_steps")
    for column in (*STATEMENT[3:], *optional):
        text = table[column] if column in table else pd.Series("", index=table.index)
        table[column] = _numbers(text, source, column)
    for column in ("stated_value", "stated_p", "stated_verdict"):
        said = table[column] if column in table else pd.Series("", index=table.index)
        table[column] = said.where(said != "", None)
    return table
