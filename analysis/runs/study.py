"""A study as tidy tables: its runs, their curves, and the certificates that name the winners.

`reader.load` makes one of a results folder, `recorded.study` of the recorded results, `from_table`
of any table of runs.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.published import OPTIMIZERS, PARAMS, TOKENS_PER_PARAM
from analysis.runs.names import BASELINE, CELL, canonical, cell_name, did_you_mean, settings

STATUSES = ("finished", "diverged", "infeasible")
RESULT_COLUMNS = [
    *("status", "reason", "diverged_step", "loss", "bits_per_byte", "train_loss"),
    *("steps", "tokens", "non_embedding_params", "total_params", "optimizer_bytes", "flops"),
    *("seconds", "compile_seconds", "device", "device_count", "commit", "dirty"),
]
NUMBERS = [
    *("diverged_step", "loss", "bits_per_byte", "train_loss", "steps", "tokens", "flops"),
    *("non_embedding_params", "total_params", "optimizer_bytes", "seconds", "compile_seconds"),
]
RUN_COLUMNS = ["hash", *CELL, "seed", "batch_size", "corpus", "fingerprint", *RESULT_COLUMNS]
CERTIFICATE_COLUMNS = [
    *(*CELL, "phase", "centre_hash", "best_hash", "best_loss"),
    *("complete", "edges", "missing", "repeats"),
]


class Problem(NamedTuple):
    """Something that could not be used: what, how often, and a sentence."""

    kind: str
    count: int
    sentence: str


@dataclasses.dataclass(frozen=True)
class Study:
    """All tables of one study.

    runs          one row per trial with a readable result; `status` says how it ended
    certificates  one row per certificate: CELL, centre_hash, best_hash, best_loss, complete ...
    curves        one row per logged line: hash, step, tokens, fraction (of the run), train_loss ...
    named         runs that a certificate names and `runs` does not hold
    problems      what could not be used
    unfinished    trials that have a config and no result yet
    settings      study.json, or {} where it is missing
    baseline      the optimizer that speed-ups are measured against
    known_doubts  what a reader must know of the records themselves
    """

    name: str
    runs: pd.DataFrame
    certificates: pd.DataFrame
    curves: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    named: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    problems: tuple[Problem, ...] = ()
    unfinished: int = 0
    settings: dict = dataclasses.field(default_factory=dict)
    baseline: str = BASELINE
    known_doubts: tuple[Problem, ...] = ()

    @property
    def hyperparameters(self) -> list[str]:
        """Names (without prefix) of everything an optimizer was told, tuned or not."""
        return [column.removeprefix("hp_") for column in settings(self.runs)]

    @functools.cached_property
    def tuned(self) -> list[str]:
        """The hyper-parameters of which some optimizer tried more than one value in some cell."""
        values = self.runs.groupby(CELL)
        return [n for n in self.hyperparameters if (values[f"hp_{n}"].nunique() > 1).any()]

    @functools.cached_property
    def certificate_of(self) -> dict[tuple, dict]:
        """(optimizer, model_size, chinchilla_ratio) -> certificate."""
        rows = self.certificates.to_dict("records")
        return {tuple(row[name] for name in CELL): row for row in rows}

    @functools.cached_property
    def finished(self) -> pd.DataFrame:
        """The runs with a final loss, in the columns that estimates use."""
        ended = (self.runs["status"] == "finished") & np.isfinite(self.runs["loss"].astype(float))
        return self.runs[ended]


def together(studies: list[Study]) -> Study:
    """Several folders as one race: every run once; of two certificates of a cell the complete one
    with the lower loss, and a doubt that names such cells.

    Raises:
      ValueError: they have different baselines.
    """
    baselines = sorted({study.baseline for study in studies})
    if len(baselines) > 1:
        raise ValueError(f"different baselines ({', '.join(baselines)}): name one with --baseline")
    tables = {}
    for name in ("runs", "certificates", "curves", "named"):
        parts = [getattr(study, name) for study in studies]
        parts = [part for part in parts if len(part)] or parts[:1]
        tables[name] = pd.concat(parts, ignore_index=True)
    runs, found = tables["runs"], tables["certificates"]
    found = found.sort_values(["complete", "best_loss"], ascending=[False, True], kind="stable")
    twice = found[found.duplicated(CELL)]
    doubts = [doubt for study in studies for doubt in study.known_doubts]
    if len(twice):
        cells = ", ".join(cell_name(row) for row in twice.drop_duplicates(CELL).itertuples())
        sentence = f"{len(twice)} cells were searched in more than one folder: {cells}."
        doubts.append(Problem("searched twice", len(twice), sentence))
    first = studies[0]
    tables["certificates"] = found.drop_duplicates(CELL).reset_index(drop=True)
    tables["runs"] = runs.drop_duplicates("hash").reset_index(drop=True)
    if len(tables["curves"]):
        tables["curves"] = tables["curves"].drop_duplicates(["hash", "step"])
    return dataclasses.replace(
        first, name=" + ".join(study.name for study in studies), known_doubts=tuple(doubts),
        problems=tuple(p for study in studies for p in study.problems),
        unfinished=sum(study.unfinished for study in studies), **tables,
    )  # fmt: skip


def certificates(rows) -> pd.DataFrame:
    """Certificates as a table: missing fields are empty, and a missing `complete` is no."""
    table = pd.DataFrame(rows)
    columns = list(dict.fromkeys([*CERTIFICATE_COLUMNS, *table.columns]))
    table = table.reindex(columns=columns)
    return table.assign(complete=table["complete"].eq(True))


def from_table(runs: pd.DataFrame, *, winners=None, name="a table of runs", baseline=BASELINE):
    """A study of any table of runs.

    Args:
      runs: CELL and `loss`; optionally `status`, `seed`, `non_embedding_params`, `tokens`, `flops`,
        `seconds`, `optimizer_bytes` and `hp_*`.
      winners: CELL, `loss` and settings of best runs that `runs` may not contain.

    Returns:
      a `Study` without curves. Repeated rows count once; what was odd is in its `problems`.

    Raises:
      ValueError: naming the columns that are missing, or a ratio that is not positive.
    """
    missing = [c for c in (*CELL, "loss") if c not in runs]
    if missing:
        raise ValueError(f"runs: missing column {', '.join(missing)}; there are {', '.join(runs)}")
    runs = _numeric(runs)
    problems = []
    for name_ in sorted(set(runs.optimizer) - set(OPTIMIZERS)):
        sentence = f"{name_!r} is kept under its own name{did_you_mean(name_, OPTIMIZERS)}"
        count = int((runs.optimizer == name_).sum())
        problems.append(Problem("unknown_optimizer", count, sentence))
    same = [c for c in runs if c not in ("run", "hash", "source", "also_in", "role", "changed")]
    twice = runs.duplicated(same if "hash" not in runs else ["hash"])
    if twice.any():
        problems.append(Problem("duplicates", int(twice.sum()), "repeated rows counted once"))
    runs = runs[~twice].reset_index(drop=True)
    defaults = {"hash": [f"{row:05d}" for row in range(len(runs))], "seed": 0, "status": "finished"}
    runs = runs.assign(**{k: v for k, v in defaults.items() if k not in runs})
    runs = runs.reindex(columns=[*dict.fromkeys([*RUN_COLUMNS, *runs.columns])])
    runs = with_params(runs)
    problems += lost(runs)
    named, rows = pd.DataFrame(), []
    if winners is not None:
        named = with_params(_numeric(winners)).assign(status="finished", seed=runs.seed.min())
        named["hash"] = [f"best-{row:05d}" for row in range(len(named))]
        rows = named[[*CELL, "hash", "loss"]].rename(
            columns={"hash": "best_hash", "loss": "best_loss"}
        )
    return Study(
        name, runs, certificates(rows), named=named, problems=tuple(problems), baseline=baseline
    )


def lost(runs: pd.DataFrame) -> list[Problem]:
    """Runs that no estimate can use, by status."""
    problems = [
        Problem(str(status), int(count), "left out of every fit")
        for status, count in runs.status[runs.status != "finished"].value_counts().items()
    ]
    without = (runs.status == "finished") & ~np.isfinite(runs.loss.astype(float))
    if without.any():
        sentence = "finished without a finite loss"
        problems.append(Problem("missing_loss", int(without.sum()), sentence))
    return problems


def _numeric(runs):
    runs = runs.assign(
        optimizer=runs.optimizer.map(canonical),
        loss=pd.to_numeric(runs.loss, errors="coerce"),
        chinchilla_ratio=pd.to_numeric(runs.chinchilla_ratio, errors="coerce").astype(float),
    )
    bad = runs[~(np.isfinite(runs.chinchilla_ratio) & (runs.chinchilla_ratio > 0))]
    if len(bad):
        raise ValueError(
            f"chinchilla_ratio: must be positive, got {bad.chinchilla_ratio.iloc[0]:g} "
            f"in row {bad.index[0]}"
        )
    return runs


def with_params(runs: pd.DataFrame) -> pd.DataFrame:
    """Parameter counts where they are missing: from the size's name, else from the budget."""
    if "non_embedding_params" in runs and runs.non_embedding_params.notna().all():
        return runs
    params = runs.model_size.map(PARAMS).astype(float)
    if "non_embedding_params" in runs:
        params = runs.non_embedding_params.astype(float).fillna(params)
    if "tokens" in runs:
        by_budget = runs.tokens.astype(float) / runs.chinchilla_ratio / TOKENS_PER_PARAM
        params = params.fillna(by_budget)
    if params.isna().any():
        unknown = runs.model_size[params.isna()].iloc[0]
        raise ValueError(
            f"model_size: {unknown!r} needs a non_embedding_params column (known: {list(PARAMS)})"
        )
    return runs.assign(non_embedding_params=params)
