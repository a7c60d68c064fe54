"""Tables of a study: best losses, deviations, repeats, early stops, crossings and cost.

Every function takes the tidy tables of `analysis.runs.reader` (or the published ones, which share
the columns) and returns a new DataFrame; nothing here fits or draws.
"""

import itertools

import numpy as np
import pandas as pd

from analysis.pages import style
from analysis.runs.reader import CELL, Study

TENTHS = tuple(i / 10 for i in range(1, 11))


def best(study: Study) -> pd.DataFrame:
    """The best trial of every cell, with its settings, in reading order.

    The certificate names it; without one it is the lowest loss of the study's own seed (repeats
    with other seeds measure noise and do not compete). Further columns: `trials` and `diverged`
    (what it was chosen from), `complete` (the search says it is done), `edges` (hyper-parameters
    whose best value is the first or last that was tried), `rerun_loss` and `reruns` (mean loss and
    number of its repeats, which the choice has not seen; NaN and 0 without any).
    """
    rows = []
    for cell, runs in study.runs.groupby(CELL):
        certificate = study.certificates.get(cell)
        searched = runs[runs["seed"] == base_seed(study, cell, runs)]
        finished = searched[searched["status"] == "finished"].sort_values(["loss", "hash"])
        if certificate is not None:
            chosen = finished[finished["hash"] == certificate["best_hash"]]
            # the noise rule chooses by the mean over seeds
            chosen = chosen.assign(loss=certificate["best_loss"])
            finished = chosen if len(chosen) else finished
        if finished.empty:
            continue
        row = finished.iloc[0].to_dict()
        row["trials"] = len(searched)
        row["diverged"] = int((searched["status"] == "diverged").sum())
        row["complete"] = bool(certificate is not None and certificate["complete"])
        row["edges"] = _edges(study, row, certificate)
        reruns = _reruns(runs, certificate)
        row["reruns"] = len(reruns)
        row["rerun_loss"] = float(np.mean(reruns)) if reruns else np.nan
        rows.append(row)
    return reading_order(pd.DataFrame(rows))


def _reruns(runs, certificate) -> list[float]:
    if certificate is None or not isinstance(certificate["repeats"], list):
        return []
    hashes = [repeat.get("hash") for repeat in certificate["repeats"]]
    return list(runs.loc[runs["hash"].isin(hashes) & (runs["status"] == "finished"), "loss"])


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
    certificate = study.certificates.get(cell)
    if certificate is not None:
        centre = runs.loc[runs["hash"] == certificate["centre_hash"], "seed"]
        if len(centre):
            return int(centre.iloc[0])
    return int(runs["seed"].mode().iloc[0])  # the smallest of equally frequent ones


def deviations(study: Study) -> pd.DataFrame:
    """Every run one hyper-parameter away from its cell's centre, and the centre itself.

    Columns: CELL, non_embedding_params, hyperparameter, value, loss, status, centre_value,
    centre_loss, delta (loss minus the centre's). The centre is the certificate's, or the best run
    of an unfinished cell; it appears once per hyper-parameter that was swept.
    """
    names = [f"hp_{name}" for name in study.hyperparameters]
    rows = []
    for cell, runs in study.runs.groupby(CELL):
        runs = runs[runs["seed"] == base_seed(study, cell, runs)]
        centre = _centre(study, cell, runs)
        if centre is None:
            continue
        same = (runs[names] == centre[names]) | (runs[names].isna() & centre[names].isna())
        changed = runs.index[(~same).sum(axis=1) == 1]
        found = [(same.columns[~same.loc[index]][0], runs.loc[index]) for index in changed]
        found += [(name, centre) for name in sorted({name for name, _ in found})]
        rows += [deviation(cell, name, run, centre) for name, run in found]
    columns = [*CELL, "non_embedding_params", "hyperparameter", "value", "loss", "status"]
    columns += ["centre_value", "centre_loss", "delta"]
    table = pd.DataFrame(rows, columns=columns)
    return reading_order(table, then=["hyperparameter", "value"])


def _centre(study, cell, runs):
    certificate = study.certificates.get(cell)
    finished = runs[runs["status"] == "finished"].sort_values(["loss", "hash"])
    if certificate is not None:
        certified = finished[finished["hash"] == certificate["centre_hash"]]
        finished = certified if len(certified) else finished
    return finished.iloc[0] if len(finished) else None


def deviation(cell, name, run, centre) -> dict:
    """One row of `deviations`: what changing `name` (a `hp_` column) from the centre did."""
    return dict(zip(CELL, cell, strict=True)) | {
        "non_embedding_params": centre["non_embedding_params"],
        "hyperparameter": name.removeprefix("hp_"),
        "value": run[name],
        "loss": run["loss"] if run["status"] == "finished" else np.nan,
        "status": run["status"],
        "centre_value": centre[name],
        "centre_loss": centre["loss"],
        "delta": run["loss"] - centre["loss"] if run["status"] == "finished" else np.nan,
    }


def repeats(study: Study) -> pd.DataFrame:
    """Finished runs that differ from another one in the seed alone: CELL, setting, seed, loss."""
    names = [f"hp_{name}" for name in study.hyperparameters]
    finished = study.runs[study.runs["status"] == "finished"].copy()
    same = finished.groupby([*CELL, *names], dropna=False, sort=False)
    finished["setting"] = same.ngroup()
    counts = finished.groupby("setting")["seed"].transform("nunique")
    table = finished.loc[counts > 1, [*CELL, "non_embedding_params", "setting", "seed", "loss"]]
    return reading_order(table, then=["setting", "seed"])


def cost(study: Study) -> pd.DataFrame:
    """What tuning cost per optimizer: trials by outcome, tokens, FLOPs, device and compile seconds.

    Every trial counts, diverged and repeated ones too. Seconds belong to the machine, not to the
    result.
    """
    runs = study.runs.astype({"tokens": float, "flops": float})
    table = runs.groupby("optimizer").agg(
        trials=("hash", "size"),
        finished=("status", lambda status: int((status == "finished").sum())),
        diverged=("status", lambda status: int((status == "diverged").sum())),
        failed=("status", lambda status: int((status == "failed").sum())),
        tokens=("tokens", _total),
        flops=("flops", _total),
        seconds=("seconds", _total),
        compile_seconds=("compile_seconds", _total),
    )
    return table.loc[style.ordered(table.index)].reset_index()


def _total(values):
    return values.sum(min_count=1)  # unknown, not zero, where nothing was recorded


def winner_curves(study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """The curves of the runs named in `cells.hash` (see `best`)."""
    return study.curves[study.curves["hash"].isin(cells["hash"])].reset_index(drop=True)


def validation_at(curves: pd.DataFrame, fractions) -> pd.DataFrame:
    """Validation loss of every curve at given fractions of its run, linear between evaluations.

    Returns CELL, hash, fraction, loss; NaN before a curve's first evaluation and beyond its last.
    """
    fractions = np.asarray(fractions, float)
    rows = []
    for (*cell, name), curve in _validation(curves).groupby([*CELL, "hash"]):
        losses = np.interp(fractions, curve["fraction"], curve["validation_loss"], np.nan, np.nan)
        cell = dict(zip(CELL, cell, strict=True))
        rows += [
            cell | {"hash": name, "fraction": fraction, "loss": loss}
            for fraction, loss in zip(fractions, losses, strict=True)
        ]
    return pd.DataFrame(rows, columns=[*CELL, "hash", "fraction", "loss"])


def _validation(curves):
    return curves[curves["validation_loss"].notna()].sort_values(["hash", "fraction"])


def early_stop(curves: pd.DataFrame, fractions=TENTHS, *, threshold: float = 3e-3) -> pd.DataFrame:
    """How often stopping the winners of each (size, ratio) at a fraction picks the wrong optimizer.

    Args:
      curves: one validation curve per cell (see `winner_curves`); races compare optimizers.
      threshold: a wrong choice that costs more than this (nats) is `costly`.

    Returns:
      fraction, races (that could be judged), wrong_winner (share of races whose leader at that
      fraction is not the leader at the end), costly (the same, and by more than the threshold),
      wrong_pairs (share of optimizer pairs in the other order than at the end), regret (mean final
      loss of the early leader above the true winner's, nats).
    """
    at = validation_at(curves, [*fractions, 1.0])
    rows = []
    for fraction in fractions:
        races = []
        for _, race in at.groupby(["model_size", "chinchilla_ratio"]):
            early = race[np.isclose(race["fraction"], fraction)]
            final = race[race["fraction"] == 1.0]
            early, final = (part.groupby("optimizer")["loss"].first() for part in (early, final))
            both = pd.DataFrame({"early": early, "final": final}).dropna()
            if len(both) > 1:
                races.append(_judge(both, threshold))
        if races:
            rows.append((round(float(fraction), 6), len(races), *np.mean(races, axis=0)))
    columns = ["fraction", "races", "wrong_winner", "costly", "wrong_pairs", "regret"]
    return pd.DataFrame(rows, columns=columns)


def _judge(race: pd.DataFrame, threshold: float) -> tuple[float, ...]:
    regret = race["final"][race["early"].idxmin()] - race["final"].min()
    upper = np.triu_indices(len(race), k=1)
    early = np.sign(np.subtract.outer(race["early"].values, race["early"].values)[upper])
    final = np.sign(np.subtract.outer(race["final"].values, race["final"].values)[upper])
    return float(regret > 0), float(regret > threshold), float(np.mean(early != final)), regret


def crossings(
    curves: pd.DataFrame, baseline: str = "adamw", *, after: float = 0.1, margin: float = 2e-3
) -> pd.DataFrame:
    """Where an optimizer's validation curve crosses the baseline's.

    Args:
      after: the first part of training is left out; warm-up crossings say nothing.
      margin: a crossing counts when the lead was, and becomes again, at least this (nats).

    Returns:
      CELL, fraction (of training), leader (who is ahead from there on).
    """
    at = validation_at(curves, np.linspace(after, 1, 401))
    rows = []
    for (size, ratio), race in at.groupby(["model_size", "chinchilla_ratio"]):
        losses = race.pivot_table(index="fraction", columns="optimizer", values="loss").dropna(
            axis=1
        )
        if baseline not in losses:
            continue
        for optimizer in style.ordered(set(losses) - {baseline}):
            lead = losses[baseline] - losses[optimizer]
            clear = np.flatnonzero(lead.abs() >= margin)
            for before, then in itertools.pairwise(clear):
                if lead.iloc[before] * lead.iloc[then] < 0:
                    between = lead.iloc[before : then + 1].abs()
                    ahead = optimizer if lead.iloc[then] > 0 else baseline
                    rows.append((optimizer, size, ratio, float(between.idxmin()), ahead))
    return reading_order(
        pd.DataFrame(rows, columns=[*CELL, "fraction", "leader"]), then=["fraction"]
    )


def reading_order(table: pd.DataFrame, then=()) -> pd.DataFrame:
    """Rows by size (small first), ratio, optimizer (catalogue order), then `then`."""
    if table.empty:
        return table.reset_index(drop=True)
    optimizers, sizes = style.ordered(table["optimizer"]), style.size_order(table)
    keys = pd.DataFrame(
        {
            "size": table["model_size"].map(sizes.index),
            "ratio": table["chinchilla_ratio"],
            "optimizer": table["optimizer"].map(optimizers.index),
            **{name: table[name].map(_sortable) for name in then},
        }
    )
    order = keys.sort_values(list(keys.columns), kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _sortable(value):
    """Numbers by size, everything else after them by name."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, str(value))
