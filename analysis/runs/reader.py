"""Reads a results folder: `config.json`, `curve.jsonl`, `result.json`, certificates, `study.json`.

The layout is in docs/design.md. A file that cannot be read is named in `Study.problems` and its
trial left out: one truncated file never hides the rest of a study.
"""

import json
import math
from pathlib import Path

import pandas as pd

from analysis.runs import bucket
from analysis.runs.names import BASELINE, CELL
from analysis.runs.study import (
    NUMBERS,
    RESULT_COLUMNS,
    RUN_COLUMNS,
    STATUSES,
    Problem,
    Study,
    certificates,
    lost,
)

# Suffixes of the norms that a curve logs: over all parameters, and over those of a role.
ROLES = {
    "": "all",
    "_matrix": "matrices",
    "_embedding": "embedding",
    "_head": "head",
    "_gain": "gains",
}
_CURVE_COLUMNS = [
    *("hash", "step", "tokens", "train_loss", "validation_loss", "bits_per_byte"),
    *("seconds", "learning_rate"),
    *(f"{what}{role}" for what in ("param_norm", "grad_norm") for role in ROLES),
]


class NothingToReport(Exception):
    """The folder holds no finished trial, so no table has a row. The message says what was
    found."""


def load(workdir, *, baseline=None) -> Study:
    """Read a results folder.

    Args:
      baseline: whom to measure speed-ups against; study.json's, or AdamW, where it is None.

    Raises:
      NothingToReport: there is no such folder, it holds no trials, or none of them finished.
    """
    try:
        workdir = bucket.local(workdir)
    except FileNotFoundError as error:
        raise NothingToReport(str(error)) from None
    if not workdir.is_dir():
        raise NothingToReport(f"no such results folder: {workdir}")
    folders = sorted(path for path in (workdir / "trials").glob("*") if path.is_dir())
    if not folders:
        raise NothingToReport(
            f"{workdir} holds no trials (expected {workdir}/trials/<hash>/result.json)"
        )

    problems, runs, curves, unfinished = [], [], [], 0
    for folder in folders:
        if not (folder / "result.json").exists():
            unfinished += 1
            continue
        try:
            runs.append(_read_run(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(_unreadable(f"trial {folder.name} left out: {_explain(error)}"))
            continue
        curves += _read_curve(folder, problems)

    runs = pd.DataFrame(runs, columns=None if runs else RUN_COLUMNS)
    if not (runs["status"] == "finished").any():
        ended = ", ".join(f"{n} {status}" for status, n in runs["status"].value_counts().items())
        raise NothingToReport(
            f"{workdir}: {len(folders)} trials, none finished"
            f" ({ended or 'no readable result'}; {unfinished} without a result)"
            + "".join(f"\n  {problem.sentence}" for problem in problems)
        )
    settings = _read_settings(workdir, problems)
    return Study(
        name=str(settings.get("name", workdir.name)),
        runs=_order(runs),
        curves=_with_fraction(pd.DataFrame(curves, columns=_CURVE_COLUMNS), runs),
        certificates=_read_certificates(workdir, problems),
        problems=(*problems, *lost(runs)),
        unfinished=unfinished,
        settings=settings,
        baseline=baseline or settings.get("baseline", BASELINE),
    )


def _unreadable(sentence: str) -> Problem:
    return Problem("unreadable", 1, sentence)


def _read_run(folder: Path) -> dict:
    """One trial as a flat row. Anything that contradicts itself raises ValueError."""
    config = json.loads((folder / "config.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    if result["hash"] != folder.name:
        raise ValueError(f"result.json carries the hash {result['hash']}, not the folder's")
    if result["status"] not in STATUSES:
        raise ValueError(f"status {result['status']!r} is none of {', '.join(STATUSES)}")
    loss = result["loss"]
    if result["status"] == "finished" and (loss is None or not math.isfinite(loss)):
        raise ValueError(f"finished with a loss of {loss}")
    optimizer, train = config["optimizer"], config["train"]
    row = {
        "hash": folder.name,
        "optimizer": optimizer["name"],
        "model_size": config["model"]["name"],
        "chinchilla_ratio": float(train["chinchilla_ratio"]),
        "seed": train["seed"],
        "batch_size": train["batch_size"],
        "corpus": config["data"]["corpus"],
        "fingerprint": config["data"]["fingerprint"],
    }
    row |= {name: result.get(name) for name in RESULT_COLUMNS}
    row |= {
        f"hp_{name}": _scalar(value)
        for name, value in optimizer.items()
        if name not in ("name", "preset")
    }
    if rule := config.get("parametrization"):
        exponent = rule["decay_exponent"]
        own = f",p={exponent:g}" if exponent >= 0 else ""
        row["hp_parametrization"] = rule["rule"] + own
    return row | {"hp_batch_size": train["batch_size"]}


def _scalar(value):
    """Options may be lists; a table holds them as their JSON text."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (list, dict)) else value


def _read_curve(folder: Path, problems: list) -> list[dict]:
    path, rows = folder / "curve.jsonl", []
    if not path.exists():
        return rows
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        try:
            rows.append({"hash": folder.name, **json.loads(line)})
        except (ValueError, TypeError):
            sentence = f"trial {folder.name}: line {number} of curve.jsonl is not JSON, skipped"
            problems.append(_unreadable(sentence))
    return rows


def _read_certificates(workdir: Path, problems: list) -> pd.DataFrame:
    rows = []
    for path in sorted((workdir / "certificates").glob("*.json")):
        try:
            certificate = json.loads(path.read_text())
            rows.append({**certificate, "chinchilla_ratio": float(certificate["chinchilla_ratio"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(_unreadable(f"certificate {path.name} left out: {_explain(error)}"))
    return certificates(rows)


def _read_settings(workdir: Path, problems: list) -> dict:
    try:
        settings = json.loads((workdir / "study.json").read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        problems.append(_unreadable(f"study.json left out: {_explain(error)}"))
        return {}
    return settings if isinstance(settings, dict) else {}


def _explain(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the field {error} is missing"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON (line {error.lineno}, column {error.colno})"
    return str(error)


def _order(runs: pd.DataFrame) -> pd.DataFrame:
    """Fixed column order, and rows by hash: two studies with the same results read the same."""
    hyperparameters = sorted(column for column in runs if column.startswith("hp_"))
    runs = runs.assign(**{name: pd.to_numeric(runs[name]) for name in NUMBERS})  # None is NaN
    return runs[[*RUN_COLUMNS, *hyperparameters]].sort_values("hash", ignore_index=True)


def _with_fraction(curves: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`fraction`: the share of the run's own budget done; a diverged run ends before 1."""
    columns = [*CELL, "non_embedding_params", "seed", "status"]
    table = curves.merge(runs[["hash", *columns, "steps"]], on="hash", how="left")
    last_step = table.groupby("hash")["step"].transform("max")
    table["fraction"] = table["step"] / table["steps"].astype(float).fillna(last_step)
    return table.drop(columns="steps")
