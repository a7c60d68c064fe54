"""The answer of a study in sentences: who wins where, by how much, and what cannot be told."""

import numpy as np
import pandas as pd

from analysis.pages.view import View
from analysis.runs.names import label


def verdicts(f: View) -> list[str]:
    """Who wins the headline race of each size, the largest size first, and the trend with size."""
    sentences = [_who_wins(f, race) + _how_much(f, race) for race in f.races]
    p = f.value("decline", "robust_joint", "p_value")
    if np.isfinite(p) and len(f.of("decline", quantity="per_doubling")):
        change = "changes" if p < 0.05 else "cannot be shown to change"
        sentence = f"The speed-up over {f.base_label} {change} with model size (p = {p:.2g})."
        moving = f.of("decline", quantity="per_doubling")
        moving = moving[(moving["low"] > 1) | (moving["high"] < 1)] if p < 0.05 else moving.iloc[:0]
        listed = ", ".join(f"{label(r.optimizer)} ×{r.value:.3f}" for r in moving.itertuples())
        sentences.append(sentence + (f" Per doubling of the parameters: {listed}." * bool(listed)))
    return sentences


def _who_wins(f: View, race: pd.DataFrame) -> str:
    """The lowest fair loss, and all that may be as good (simultaneously over races and rivals)."""
    first = race.iloc[0]
    where = f"{first['model_size']}, {first['chinchilla_ratio']:g}×: "
    name, loss = label(first["optimizer"]), f"{first['loss']:.4f}"
    if len(race) == 1:
        return f"{where}only {name} was raced, loss {loss}."
    second = race.iloc[1]
    sentence = f"{where}{name} has the lowest loss, {loss}"
    below = f"{second['loss'] - first['loss']:.4f} below {label(second['optimizer'])}"
    if not f.noise:
        return f"{sentence}, {below}; without repeated runs nobody can say whether that is noise."
    tied = race["optimizer"][(race["behind_low"] <= 0) & (race["optimizer"] != first["optimizer"])]
    if len(tied):
        return f"{sentence}, but cannot be told from {', '.join(map(label, tied))}."
    return f"{sentence}, {below}."


def _how_much(f: View, race: pd.DataFrame) -> str:
    row = race.iloc[0]
    if row["optimizer"] == f.baseline or not np.isfinite(row["speedup"]):
        return ""
    if row["verdict"] == "not resolvable":
        return ""
    need, number = f" {f.base_label} would need", f.headline("speedup", race)[row["optimizer"]]
    if row[f"{row['procedure']}_bound"] == "":
        return f"{need} {number} times the tokens."
    law = f": {number} times by the law beyond its data" if number and not number.bound else ""
    return f"{need} more tokens than its largest budget has for that{law}."
