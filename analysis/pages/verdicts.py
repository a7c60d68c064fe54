"""The headline of a study in sentences: who wins where, by how much, and what cannot be told."""

import numpy as np
import pandas as pd

from analysis.estimates.findings import BASELINE, Findings
from analysis.estimates.races import largest_races
from analysis.pages import style


def verdicts(f: Findings) -> list[str]:
    """Who wins at the largest budget of each size, who cannot be told from it, and the trend."""
    sentences = []
    for race in largest_races(f.speedups):
        first = race.iloc[0]
        name = f"{first['model_size']}, {first['chinchilla_ratio']:g}×: "
        sentences.append(name + _who_wins(race, f.noise) + _how_much(first))
    p = f.joint.decline_test() if f.joint and len(f.joint.sizes) > 1 else None
    if p is not None and len(f.trends):
        factors = ", ".join(
            f"{style.label(row.optimizer)} ×{row.factor:.3f} ({row.low:.3f} to {row.high:.3f})"
            for row in f.trends.itertuples()
        )
        change = "changes" if p < 0.05 else "cannot be shown to change"
        sentences.append(
            f"The speed-up over AdamW {change} with model size (joint model, p = {p:.2g}); factor"
            f" per doubling of the parameters: {factors}."
        )
    return sentences


def _who_wins(race: pd.DataFrame, level) -> str:
    first = race.iloc[0]
    name = style.label(first["optimizer"])
    if len(race) == 1:
        return f"only {name} was raced, loss {first['loss']:.4f}."
    behind = race["fair_loss"] - first["fair_loss"]
    second = style.label(race["optimizer"].iloc[1])
    sentence = f"{name} has the lowest loss, {first['fair_loss']:.4f}"
    if level is None:
        sentence += f", {behind.iloc[1]:.4f} below {second}"
        return sentence + "; without repeated runs nobody can say whether that is noise."
    error = np.hypot(race["error"], first["error"])
    tied = race["optimizer"][(behind <= error) & (race["optimizer"] != first["optimizer"])]
    if len(tied):
        names = ", ".join(style.label(optimizer) for optimizer in tied)
        return f"{sentence}, not resolvable from {names} at this budget (±{error.iloc[1]:.4f})."
    return f"{sentence}, {behind.iloc[1]:.4f} below {second} (±{error.iloc[1]:.4f})."


def _how_much(row: pd.Series) -> str:
    if row["optimizer"] == BASELINE or not np.isfinite(row["speedup"]):
        return ""
    if row["verdict"] == "not resolvable":
        sentence = " This cell alone does not resolve a speed-up over AdamW"
        if np.isfinite(row["joint"]):
            interval = f"{row['joint_low']:.2f} to {row['joint_high']:.2f}"
            sentence += f"; the joint model gives {row['joint']:.2f} ({interval})"
        return sentence + "."
    ways = []
    if np.isfinite(row["joint"]):
        note = f"; {row['joint_note']}" if row["joint_note"] else ""
        interval = f"{row['joint_low']:.2f} to {row['joint_high']:.2f}"
        ways.append(f"{row['joint']:.2f} ({interval}{note}) by the joint model")
    if row["bound"] in ("lower", "upper"):
        limit = {"lower": "at least", "upper": "at most"}[row["bound"]]
        ways.append(f"{limit} {row['robust']:.2f} by AdamW's own runs")
    elif np.isfinite(row["robust"]) and not row["bound"]:
        interval = f"{row['robust_low']:.2f} to {row['robust_high']:.2f}"
        ways.append(f"{row['robust']:.2f} ({interval}) by AdamW's own curve")
    if np.isfinite(row["published"]):
        ways.append(f"{row['published']:.2f} by the published formula")
    return f" Tokens AdamW would need for it, in multiples: {', '.join(ways)}." if ways else ""
