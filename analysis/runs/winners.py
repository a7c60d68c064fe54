"""Who stands for a cell: the one choice of its winner, its repeats, and the runs around its centre.

The certificate names the winner. Without one it is the lowest loss of the study's own seed: repeats
with other seeds measure noise and do not compete.
"""

import numpy as np
import pandas as pd

from analysis.runs.names import CELL, at, ordered, reading_order, same_setting, settings
from analysis.runs.study import Study


def winners(study: Study) -> pd.DataFrame:
    """The winning run of every cell, with its settings, in reading order.

    Further columns: `trials` and `diverged` (what it was chosen from), `complete` (the search says
    it is done), `edges` (hyper-parameters whose best value is the first or last that was tried),
    `reruns` and `rerun_loss` (number and mean loss of its repeats, which the choice has not seen;
    0 and NaN without any).
    """
    rows = []
    cells = dict(list(study.runs.groupby(CELL)))
    for cell in dict.fromkeys([*cells, *study.certificate_of]):
        certificate = study.certificate_of.get(cell)
        runs = cells.get(cell, study.runs.iloc[:0])
        searched = runs[runs["seed"] == base_seed(study, cell, runs)]
        winner = _chosen(study, certificate, searched)
        if winner is None:
            continue
        again = repeats_of(runs, winner, certificate)
        tried = searched[searched["status"] != "missing"]
        rows.append(
            winner
            | {
                "trials": max(len(tried), 1),
                "diverged": int((tried["status"] == "diverged").sum()),
                "complete": bool(certificate is not None and certificate["complete"]),
                "edges": _edges(study, winner, certificate),
                "reruns": len(again),
                "rerun_loss": again["loss"].mean() if len(again) else np.nan,
            }
        )
    added = ["trials", "diverged", "complete", "edges", "reruns", "rerun_loss"]
    columns = dict.fromkeys([*study.runs, *study.named, *added])
    return reading_order(pd.DataFrame(rows, columns=list(columns)))


def _chosen(study, certificate, searched) -> dict | None:
    """The certificate's run, wherever it is recorded; else the lowest loss of the searched seed."""
    if certificate is not None:
        for runs in (searched, study.named):
            named = runs[runs["hash"] == certificate["best_hash"]] if len(runs) else runs
            if len(named):
                return named.iloc[0].to_dict()
    ended = (searched["status"] == "finished") & searched["loss"].notna()
    finished = searched[ended].sort_values(["loss", "hash"])
    return finished.iloc[0].to_dict() if len(finished) else None


def repeats_of(runs: pd.DataFrame, winner, certificate=None) -> pd.DataFrame:
    """A cell's finished runs of the winner's setting under seeds that had no part in the choice.

    The certificate lists them; without one they are the other seeds of that very setting.
    """
    finished = runs[(runs["status"] == "finished") & (runs["hash"] != winner["hash"])]
    if certificate is not None and isinstance(certificate["repeats"], list):
        hashes = [repeat.get("hash") for repeat in certificate["repeats"]]
        return finished[finished["hash"].isin(hashes)]
    again = finished[finished["seed"] != winner["seed"]]
    return again[same_setting(again, winner)]


def _edges(study: Study, row: dict, certificate) -> str:
    """The certificate's list, or without one the ends of grids of three values and more."""
    if certificate is not None and isinstance(certificate["edges"], list):
        names = [edge["hyperparameter"] for edge in certificate["edges"] if not edge.get("bound")]
        return " ".join(sorted(names))
    grids = study.settings.get("optimizers", {}).get(row["optimizer"], {}).get("grids", {})
    return " ".join(
        sorted(
            name
            for name, grid in grids.items()
            if len(grid) > 2 and row.get(f"hp_{name}") in (min(grid), max(grid))
        )
    )


def base_seed(study: Study, cell, runs: pd.DataFrame) -> int:
    """The seed that competes: that of the certified centre, else the most frequent one."""
    certificate = study.certificate_of.get(cell)
    if certificate is not None:
        centre = runs.loc[runs["hash"] == certificate["centre_hash"], "seed"]
        if len(centre):
            return int(centre.iloc[0])
    ended = runs[(runs["status"] == "finished") & runs["loss"].notna()]
    seeds = (ended if len(ended) else runs)["seed"]
    return int(seeds.mode().iloc[0]) if len(seeds) else 0  # the smallest of the most frequent


def deviations(study: Study) -> pd.DataFrame:
    """Every run one hyper-parameter away from its cell's centre, and the centre itself.

    Columns: CELL, non_embedding_params, hyperparameter, value, loss, status, hash, seed,
    centre_value, centre_loss, delta (loss minus the centre's). The centre is the certificate's, or
    the best run of an unfinished cell; it appears once per hyper-parameter that was swept.
    """
    names = settings(study.runs)
    rows = []
    for cell, runs in study.runs.groupby(CELL):
        runs = runs[runs["seed"] == base_seed(study, cell, runs)]
        centre = _centre(study, cell, runs)
        if centre is None:
            continue
        found = [(name, runs.loc[index]) for index, name in _changed(runs, centre, names)]
        found += [(name, centre) for name in sorted({name for name, _ in found})]
        rows += [_deviation(name, run, centre) for name, run in found]
    columns = [*CELL, "non_embedding_params", "hyperparameter", "value", "loss", "status"]
    columns += ["hash", "seed"]
    columns += ["centre_value", "centre_loss", "delta"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.drop_duplicates([*CELL, "hyperparameter", "value", "loss"])
    return reading_order(table, then=["hyperparameter", "value"])


def _changed(runs, centre, names):
    """(index, column) of the runs that differ in one hyper-parameter, as recorded or as found."""
    if "changed" in runs:
        kept = runs[(runs["role"] == "ablation") & ("hp_" + runs["changed"]).isin(names)]
        return list(("hp_" + kept["changed"]).items())
    same = (runs[names] == centre[names]) | (runs[names].isna() & centre[names].isna())
    alone = same.index[(~same).sum(axis=1) == 1]
    return [(index, same.columns[~same.loc[index]][0]) for index in alone]


def _centre(study, cell, runs):
    certificate = study.certificate_of.get(cell)
    finished = runs[runs["status"] == "finished"].sort_values(["loss", "hash"])
    if certificate is not None:
        certified = finished[finished["hash"] == certificate["centre_hash"]]
        finished = certified if len(certified) else finished
    return finished.iloc[0] if len(finished) else None


def _deviation(name, run, centre) -> dict:
    """What changing `name` (a `hp_` column) from the centre did."""
    loss = run["loss"] if run["status"] == "finished" else np.nan
    return at(run) | {
        "non_embedding_params": centre["non_embedding_params"],
        "hyperparameter": name.removeprefix("hp_"),
        "value": run[name],
        "loss": loss,
        "status": run["status"],
        "hash": run["hash"],
        "seed": run["seed"],
        "centre_value": centre[name],
        "centre_loss": centre["loss"],
        "delta": loss - centre["loss"],
    }


def cost(study: Study) -> pd.DataFrame:
    """What tuning cost per optimizer: trials by outcome, tokens, FLOPs, device and compile seconds.

    Every trial counts, diverged and repeated ones too. Seconds belong to the machine, not to the
    result; they are unknown, not zero, where nothing was recorded.
    """
    totals = ["tokens", "flops", "seconds", "compile_seconds"]
    runs = study.runs.astype(dict.fromkeys(totals, float))
    groups = runs.groupby("optimizer")
    table = groups[totals].sum(min_count=1)
    for status in ("infeasible", "diverged", "finished"):
        table.insert(0, status, (runs["status"] == status).groupby(runs["optimizer"]).sum())
    table.insert(0, "trials", groups.size())
    return table.loc[ordered(table.index)].reset_index()
