"""What the curves of a study's winners say: losses on the way, early stops, crossings."""

import itertools

import numpy as np
import pandas as pd

from analysis.runs.names import BASELINE, CELL, RACE, ordered, reading_order
from analysis.runs.study import Study

TENTHS = tuple(i / 10 for i in range(1, 11))
COSTLY = 3e-3  # nats: settings closer than this are equal in the recorded study's sweep


def winner_curves(study: Study, winners: pd.DataFrame) -> pd.DataFrame:
    """The curves of the runs named in `winners.hash` (see `winners.winners`)."""
    if study.curves.empty:
        return study.curves
    return study.curves[study.curves["hash"].isin(winners["hash"])].reset_index(drop=True)


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


def early_stop(
    curves: pd.DataFrame, fractions=TENTHS, *, threshold: float = COSTLY
) -> pd.DataFrame:
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
        for _, race in at.groupby(RACE):
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
    curves: pd.DataFrame, baseline: str = BASELINE, *, after: float = 0.1, margin: float = 2e-3
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
    for (size, ratio), race in at.groupby(RACE):
        losses = race.pivot_table(index="fraction", columns="optimizer", values="loss").dropna(
            axis=1
        )
        if baseline not in losses:
            continue
        for optimizer in ordered(set(losses) - {baseline}):
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
