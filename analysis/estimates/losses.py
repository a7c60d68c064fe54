"""One loss per cell: what its winner would give again, with its standard error.

A cell's best run was chosen because it was lucky as well as good. Runs of the same setting under
fresh seeds had no part in the choice: two of them or more stand for the cell alone. Without them
`stats.selection` takes the luck out of the run that was chosen.
"""

import numpy as np
import pandas as pd

from analysis.estimates.table import Rows
from analysis.runs.names import CELL, RACE, at
from analysis.runs.repeats import fresh_seeds
from analysis.runs.study import Study
from analysis.stats.noise import Levels
from analysis.stats.selection import undo_selection


def cell_losses(study: Study, winners: pd.DataFrame, noise: Levels | None) -> pd.DataFrame:
    """One loss per cell with its standard error.

    Args:
      winners: `runs.winners.winners` of the study.
      noise: None leaves the losses as observed, with errors unknown.

    Returns:
      CELL, non_embedding_params, loss, se (of what this cell does not share with its race),
      common_se (of what its seeds do to every optimizer alike), seeds (that stand for the cell),
      best_loss (as observed), trials (k), repeats, correction (nats).
    """
    table = winners[[*CELL, "non_embedding_params", "trials"]].assign(
        best_loss=winners["loss"], repeats=winners["reruns"], seeds=winners["seed"].astype(str)
    )
    if noise is None or table.empty:
        return table.assign(loss=table["best_loss"], se=np.nan, common_se=np.nan, correction=0.0)
    tried = dict(list(study.finished.groupby(CELL)))
    fresh = {cell: runs for cell, runs in fresh_seeds(study, winners).groupby(CELL)}
    padded = [_trials(winner, tried) for winner in winners.to_dict("records")]
    width = max(map(len, padded))
    losses_CK = np.array([np.pad(p, (0, width - len(p)), constant_values=np.inf) for p in padded])
    here = [noise.at(*race) for race in zip(*(winners[name] for name in RACE), strict=True)]
    residual, paired = (
        np.array([getattr(n, part).sd for n in here]) for part in ("residual", "paired")
    )
    corrected, error = undo_selection(losses_CK, residual)
    # the choice saw one seed: what that seed does to this optimizer alone is still in there
    error = np.sqrt(error**2 + paired**2 - residual**2)
    table["trials"] = [len(losses) for losses in padded]
    rows = []
    records = winners.to_dict("records")
    for winner, loss, se, level in zip(records, corrected, error, here, strict=True):
        again = fresh.get(tuple(winner[name] for name in CELL))
        rows.append(_stands_for(winner, loss, se, again, level))
    columns = ["loss", "se", "common_se", "seeds"]
    table[columns] = pd.DataFrame(rows, columns=columns, index=table.index)
    return table.assign(correction=table["loss"] - table["best_loss"])


def _trials(winner, tried) -> np.ndarray:
    """The winner's loss and those of the trials on its seed that came after it."""
    runs = tried.get(tuple(winner[name] for name in CELL))
    others = np.array([])
    if runs is not None:
        others = runs.loc[runs["seed"] == winner["seed"], "loss"].to_numpy(float)
    return np.concatenate([[winner["loss"]], np.sort(others[others > winner["loss"] + 1e-9])])


def _stands_for(winner, loss, se, again, noise):
    """loss, se, common_se and the seeds of a cell; equal seeds get equal weights in every cell."""
    paired, seed = noise.paired.sd, str(winner["seed"])
    if again is None:
        return loss, se, noise.common, seed
    m, mean = len(again), again["loss"].mean()
    seeds = " ".join(sorted(map(str, again["seed"])))
    if m > 1:
        return mean, paired / m**0.5, noise.common / m**0.5, seeds
    return (loss + mean) / 2, np.hypot(se, paired) / 2, noise.common / 2**0.5, f"{seed} {seeds}"


def put_losses(rows: Rows, cells: pd.DataFrame, quantile: float) -> None:
    """Every cell's loss as observed, and fair with its interval over all that a seed does."""
    for cell in cells.itertuples():
        how = f"best of {cell.trials}" + (f", {cell.repeats} re-runs" if cell.repeats else "")
        rows.put("loss", "observed", "loss", cell.best_loss, note=how, **at(cell))
        half = quantile * np.hypot(cell.se, cell.common_se)
        ends = (cell.loss - half, cell.loss + half)
        rows.put("loss", "fair", "loss", cell.loss, *ends, note=how, **at(cell))
