"""The headline of a study in sentences: who wins where, by how much, and what cannot be told."""

import numpy as np
import pandas as pd

from analysis.estimates.comparisons import headline_races
from analysis.pages.view import View
from analysis.runs.names import label


def verdicts(f: View) -> list[str]:
    """Who wins at the largest budget of each size, who cannot be told from it, and the trend."""
    sentences = []
    for race in headline_races(f.speedups.assign(loss=f.speedups["fair_loss"])):
        first = race.iloc[0]
        name = f"{first['model_size']}, {first['chinchilla_ratio']:g}×: "
        sentences.append(name + _who_wins(race, bool(f.noise)) + _how_much(f, first))
    factors = f.of("decline", quantity="per_doubling")
    p = f.value("decline", "robust_joint", "p_value")
    if np.isfinite(p) and len(factors):
        listed = ", ".join(
            f"{label(row.optimizer)} ×{row.value:.3f} ({row.low:.3f} to {row.high:.3f})"
            for row in factors.itertuples()
        )
        change = "changes" if p < 0.05 else "cannot be shown to change"
        sentences.append(
            f"The speed-up over {f.base_label} {change} with model size (joint model,"
            f" p = {p:.2g}); factor per doubling of the parameters: {listed}."
        )
    return sentences


def _who_wins(race: pd.DataFrame, measured: bool) -> str:
    """The lowest fair loss, and all that may be as good (simultaneously over races and rivals)."""
    first = race.iloc[0]
    name = label(first["optimizer"])
    if len(race) == 1:
        return f"only {name} was raced, loss {first['loss']:.4f}."
    second = race.iloc[1]
    below = second["loss"] - first["loss"]
    sentence = f"{name} has the lowest loss, {first['loss']:.4f}"
    if not measured:
        sentence += f", {below:.4f} below {label(second['optimizer'])}"
        return sentence + "; without repeated runs nobody can say whether that is noise."
    tied = race["optimizer"][(race["behind_low"] <= 0) & (race["optimizer"] != first["optimizer"])]
    if len(tied):
        names = ", ".join(label(optimizer) for optimizer in tied)
        return f"{sentence}, not resolvable from {names} at this budget."
    at_least = f"at least {-first['behind_high']:.4f}"
    return f"{sentence}, {below:.4f} below {label(second['optimizer'])} ({at_least})."


def _how_much(f: View, row: pd.Series) -> str:
    if row["optimizer"] == f.baseline or not np.isfinite(row["speedup"]):
        return ""
    if row["verdict"] == "not resolvable":
        sentence = f" This cell alone does not resolve a speed-up over {f.base_label}"
        if np.isfinite(row["joint"]):
            sentence += f"; the joint model gives {_words(row, 'joint')}"
        return sentence + "."
    own = f"{f.base_label}'s own curve"
    named = {"joint": "the joint model", "robust": own, "published": "the published formula"}
    ways = [f"{_words(row, name)} by {words}" for name, words in named.items()]
    ways = [way for way in ways if not way.startswith(" by")]
    words = f" Tokens {f.base_label} would need for it, in multiples: "
    return f"{words}{', '.join(ways)}." if ways else ""


def _words(row, name) -> str:
    """`1.32 (1.20 to 1.43)`, `at least 1.00`; nothing for a number that is not there."""
    if not np.isfinite(row[name]) or row[f"{name}_bound"] == "none":
        return ""
    limit = {"lower": "at least ", "upper": "at most "}.get(row[f"{name}_bound"])
    if limit or not np.isfinite(row[f"{name}_low"]):
        return f"{limit or ''}{row[name]:.2f}"
    return f"{row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"
