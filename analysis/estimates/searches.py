"""What each cell's search did: the certificate's words, and its best against trials spent."""

import numpy as np
import pandas as pd

from analysis.estimates.table import Rows
from analysis.runs.names import CELL, RACE, at
from analysis.runs.study import Study
from analysis.runs.winners import base_seed
from analysis.stats.selection import expected_best

LISTED = ("ties", "edges", "failed", "infeasible", "refused", "missing")


def put_searches(rows: Rows, study: Study) -> None:
    """A row per number of a certificate, with what it counts as the note.

    ties        contenders that were not told apart from the chosen settings
    edges       chosen values that are the first or last that was tried
    failed      trials that the machine did not let end; infeasible: that no machine can run;
                refused: that the race does not allow; missing: neighbours that were not run
    sensitive   hyper-parameters that Phase I found to need retuning with scale
    laws        that predicted the start of a Phase III cell
    overturn    nats by which another run's loss would have to fall for the choice to change
    start_regret  nats that the settings the search began with lose against the best
    """
    for certificate in study.certificates.to_dict("records"):
        where = at(certificate)
        for name in LISTED:
            found = certificate.get(name)
            if isinstance(found, list):
                note = "; ".join(_words(entry) for entry in found)
                rows.put("search", "certificate", name, len(found), note=note, **where)
        sensitive, laws = (certificate.get(name) for name in ("sensitive", "laws"))
        if isinstance(sensitive, list):
            note = ", ".join(sensitive)
            rows.put("search", "certificate", "sensitive", len(sensitive), note=note, **where)
        if isinstance(laws, dict) and laws:
            note = "; ".join(_law(name, law) for name, law in laws.items())
            rows.put("search", "certificate", "laws", len(laws), note=note, **where)
        for name in ("start_regret", "moves"):
            value = _number(certificate.get(name))
            rows.put("search", "certificate", name, value, **where)
        overturn = certificate.get("overturn")
        if isinstance(overturn, dict):
            note = _words(overturn["changes"])
            rows.put("search", "certificate", "overturn", overturn["fall"], note=note, **where)


def _law(name, law) -> str:
    """`learning_rate = 0.0123 (N / 1.2e+06)^-0.31 r^-0.1`, or the constant."""
    if law["constant"] is not None:
        return f"{name} = {law['constant']}"
    return f"{name} = {np.exp(law['a']):.3g} (N / {law['n0']:.3g})^{law['b']:.2g} r^{law['c']:.2g}"


def _number(value) -> float:
    return np.nan if value is None or pd.isna(value) else float(value)


def _words(entry) -> str:
    """`learning_rate 0.02`, with the reason where there is one."""
    changes = entry.get("changes")
    if changes is None and "hyperparameter" in entry:
        changes = {entry["hyperparameter"]: entry.get("value", "")}
    if changes is None:
        changes = {k: v for k, v in entry.items() if k not in ("hash", "reason")}
    words = ", ".join(f"{name} {value}".strip() for name, value in changes.items())
    reason = entry.get("reason")
    return f"{words}: {reason}" if reason and words else reason or words


def best_so_far(study: Study, best: pd.DataFrame) -> pd.DataFrame:
    """CELL, trials, above: the expected best of so many of a cell's trials, in nats above the best
    of its race. A diverged trial counts as the worst that finished."""
    parts = []
    floor = best.groupby(RACE)["loss"].min()
    for cell, runs in study.runs.groupby(CELL, sort=False):
        runs = runs[runs["seed"] == base_seed(study, cell, runs)]
        losses = runs.loc[runs["status"].isin(["finished", "diverged"]), "loss"].astype(float)
        if not losses.notna().any() or cell[1:] not in floor.index:
            continue
        above = expected_best(losses.fillna(losses.max())) - floor[cell[1:]]
        keys = dict(zip(CELL, cell, strict=True))
        parts.append(pd.DataFrame({"trials": np.arange(1, len(above) + 1), "above": above, **keys}))
    return pd.concat(parts, ignore_index=True)[[*CELL, "trials", "above"]]
