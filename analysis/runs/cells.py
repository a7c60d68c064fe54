"""From runs to one loss per cell: cleaned, with its standard error, selection undone.

A cell is (optimizer, model_size, chinchilla_ratio). Its best run was chosen because it was lucky as
well as good; what it would give again comes from `noise.undo_selection`, or from re-runs.
"""

import difflib
import re

import numpy as np
import pandas as pd

from analysis.estimates import noise as noise_
from analysis.published import OPTIMIZERS, PARAMS, TOKENS_PER_PARAM

CELL = ["optimizer", "model_size", "chinchilla_ratio"]
_ALIASES = {
    "mini": "adam_mini",
    "adammini": "adam_mini",
    "soape": "soap",
    "soapb": "soap",
    "psgd": "kron",
    "psgdkron": "kron",
    "cautiousadamw": "cautious",
    "cadamw": "cautious",
    "sophiah": "sophia",
    "marsadamw": "mars",
}


def canonical(name: str) -> str:
    """The catalogue's name for any spelling of an optimizer; unknown names stay as they are."""
    squeezed = re.sub(r"[^a-z0-9]", "", str(name).lower())
    known = {re.sub("_", "", o): o for o in OPTIMIZERS}
    return known.get(squeezed) or _ALIASES.get(squeezed) or str(name)


def clean(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, float, str]]]:
    """Usable runs and what was wrong with the others.

    Args:
      runs: CELL and `loss`; optionally `status`, `seed`, `non_embedding_params`, `tokens`, `hp_*`.

    Returns:
      the finished runs with a finite loss, and (quantity, count, sentence) for each problem.

    Raises:
      ValueError: naming the columns that are missing, or a ratio that is not positive.
    """
    missing = [c for c in (*CELL, "loss") if c not in runs]
    if missing:
        raise ValueError(f"runs: missing column {', '.join(missing)}; there are {', '.join(runs)}")
    runs, problems = runs.copy(), []
    runs["loss"] = pd.to_numeric(runs.loss, errors="coerce")
    runs["chinchilla_ratio"] = pd.to_numeric(runs.chinchilla_ratio, errors="coerce")
    bad = runs[~(np.isfinite(runs.chinchilla_ratio) & (runs.chinchilla_ratio > 0))]
    if len(bad):
        raise ValueError(
            f"chinchilla_ratio: must be positive, got {bad.chinchilla_ratio.iloc[0]} "
            f"in row {bad.index[0]}"
        )
    runs["optimizer"] = runs.optimizer.map(canonical)
    for name in sorted(set(runs.optimizer) - set(OPTIMIZERS)):
        near = difflib.get_close_matches(name, OPTIMIZERS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        count = int((runs.optimizer == name).sum())
        problems.append(("unknown_optimizer", count, f"{name!r} is kept under its own name{hint}"))
    same = [c for c in runs if c not in ("run", "hash", "source", "also_in", "role", "changed")]
    twice = runs.duplicated(same if "hash" not in runs else ["hash"])
    if twice.any():
        problems.append(("duplicates", int(twice.sum()), "repeated rows counted once"))
        runs = runs[~twice]
    if "status" in runs:
        for status, count in runs.status[runs.status != "finished"].value_counts().items():
            problems.append((str(status), int(count), "left out of every fit"))
        runs = runs[runs.status == "finished"]
    lost = ~np.isfinite(runs.loss)
    if lost.any():
        problems.append(("missing_loss", int(lost.sum()), "finished without a finite loss"))
        runs = runs[~lost]
    return _with_params(runs), problems


def _with_params(runs):
    if "non_embedding_params" in runs and runs.non_embedding_params.notna().all():
        return runs
    params = runs.model_size.map(PARAMS)
    if params.isna().any() and "tokens" in runs:
        params = params.fillna(runs.tokens / runs.chinchilla_ratio / TOKENS_PER_PARAM)
    if params.isna().any():
        unknown = runs.model_size[params.isna()].iloc[0]
        raise ValueError(
            f"model_size: {unknown!r} needs a non_embedding_params column (known: {list(PARAMS)})"
        )
    return runs.assign(non_embedding_params=params)


def cell_losses(runs, noise: noise_.Noise, *, best=None) -> pd.DataFrame:
    """One loss per cell with its standard error.

    The winner is picked among the runs of the first seed; its other seeds, which had no part in the
    choice, are averaged with its corrected loss by inverse variance.

    Args:
      runs: cleaned runs.
      best: CELL, loss of winners that may be missing from `runs` (the recorded study).

    Returns:
      CELL, loss, se, best_loss (as observed), trials (k), repeats, correction (nats),
      non_embedding_params.
    """
    settings = [c for c in runs if c.startswith("hp_")]
    first = runs.seed.min() if "seed" in runs and len(runs) else None
    wins = {} if best is None else best.set_index(CELL).loss.to_dict()
    records, padded = [], []
    for cell, group in runs.groupby(CELL, sort=False):
        trial = group if first is None else group[group.seed == group.seed.min()]
        losses = np.sort(trial.loss.to_numpy(float))
        observed = wins.pop(cell, losses[0])
        losses = np.concatenate([[observed], losses[losses > observed + 1e-9]])
        winner = trial.loc[trial.loss.idxmin()]
        again = np.array([])
        if first is not None and group.seed.nunique() > 1:
            rest = group[group.seed != winner.seed]
            same = (rest[settings] == winner[settings]) | (
                rest[settings].isna() & winner[settings].isna()
            )
            again = rest.loss[same.all(axis=1)].to_numpy(float) if settings else rest.loss.values
        padded.append(losses)
        records.append((*cell, observed, len(losses), again, group.non_embedding_params.iloc[0]))
    for cell, observed in wins.items():
        row = best[(best[CELL] == list(cell)).all(axis=1)].iloc[0]
        padded.append(np.array([observed]))
        records.append((*cell, observed, 1, np.array([]), row.non_embedding_params))
    if not records:
        columns = ["loss", "se", "best_loss", "trials", "repeats", "correction"]
        return pd.DataFrame(columns=[*CELL, *columns, "non_embedding_params"])
    width = max(map(len, padded))
    losses_CK = np.array([np.pad(p, (0, width - len(p)), constant_values=np.inf) for p in padded])
    corrected, se = noise_.undo_selection(losses_CK, noise.sigma)
    rows = []
    for record, loss, error in zip(records, corrected, se, strict=True):
        *cell, observed, trials, again, params = record
        if len(again):
            weights = np.array([1 / error**2, len(again) / noise.sigma**2])
            loss = weights @ [loss, again.mean()] / weights.sum()
            error = weights.sum() ** -0.5
        rows.append(
            dict(zip(CELL, cell, strict=True))
            | {
                "loss": float(loss),
                "se": float(error),
                "best_loss": float(observed),
                "trials": trials,
                "repeats": len(again),
                "correction": float(loss - observed),
                "non_embedding_params": float(params),
            }
        )
    return pd.DataFrame(rows)


def costs(runs: pd.DataFrame, *, baseline="adamw") -> pd.DataFrame:
    """What one token costs, relative to the baseline at the same size.

    Args:
      runs: CELL, tokens and any of flops, seconds, optimizer_bytes.

    Returns:
      optimizer, model_size, quantity ("flops", "seconds", "bytes"), factor, low, high (the range
      over pairs of runs: seconds on a shared machine are noisy and this is shown, not averaged).
    """
    rows = []
    sources = {"flops": "flops", "seconds": "seconds", "bytes": "optimizer_bytes"}
    for quantity, column in sources.items():
        if column not in runs:
            continue
        if quantity == "bytes":
            per = runs[column].astype(float)
        elif "tokens" in runs:
            per = runs[column].astype(float) / runs.tokens.astype(float)
        else:
            continue
        usable = runs.assign(per=per)[np.isfinite(per) & (per > 0)]
        for size, group in usable.groupby("model_size", sort=False):
            base = group.per[group.optimizer == baseline]
            if not len(base):
                continue
            for name, mine in group.groupby("optimizer", sort=False):
                if name == baseline:
                    continue
                low, high = np.quantile(mine.per, [0.1, 0.9]) / base.median()
                rows.append(
                    {
                        "optimizer": name,
                        "model_size": size,
                        "quantity": quantity,
                        "factor": float(mine.per.median() / base.median()),
                        "low": float(low),
                        "high": float(high),
                    }
                )
    columns = ["optimizer", "model_size", "quantity", "factor", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
