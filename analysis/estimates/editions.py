"""The recorded study by its own procedures, exactly: speed-ups in three editions, settings, laws.

`published_numbers` is all of it as rows of numbers.csv, with the robust procedures beside.
"""

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from analysis import published
from analysis.estimates import numbers, optima, sensitivity
from analysis.estimates.loss_laws import fit_data_law
from analysis.estimates.speedup import published_speedup

# edition -> (column of `published.best()`, largest ratio in the AdamW fit)
EDITIONS = {
    "published_final": ("loss", np.inf),
    "published_may_4pt": ("loss_may2025", 8),
    "published_may_16x": ("loss_may2025", np.inf),
}


def edition(name: str) -> pd.DataFrame:
    """Speed-ups of one edition (see `speedup.published_speedup` for the columns)."""
    column, max_ratio = EDITIONS[name]
    best = published.best()
    return published_speedup(best.assign(loss=best[column]), max_ratio=max_ratio)


def edition_cells(name: str) -> pd.DataFrame:
    """The losses that an edition used."""
    best = published.best()
    return best.assign(loss=best[EDITIONS[name][0]])


def joint_law(cells: pd.DataFrame) -> np.ndarray:
    """L = alpha N^-A + beta D^-B + gamma on ratios 1-8; returns (alpha, A, beta, B, gamma).

    The study's App. B.1, with its start; N in parameters, D in tokens.
    """
    cells = cells[cells.chinchilla_ratio <= 8]
    N = cells.non_embedding_params.to_numpy(float)
    D = cells.chinchilla_ratio.to_numpy(float) * published.TOKENS_PER_PARAM * N
    law, _ = curve_fit(
        _joint, (N, D), cells.loss.to_numpy(float), p0=[22, 0.15, 280, 0.28, 1.7], maxfev=200_000
    )
    return law


def _joint(x, alpha, A, beta, B, gamma):
    return alpha * x[0] ** -A + beta * x[1] ** -B + gamma


def published_numbers(*, robust=True, cards=True) -> pd.DataFrame:
    """Every number of the recorded study (columns: `numbers.COLUMNS`)."""
    rows = numbers.Rows()
    for name in EDITIONS:
        _edition(rows, name)
    _settings(rows)
    frames = [rows.frame()]
    if robust:
        best = published.best()
        frames.append(numbers.study_numbers(published.runs(), best=best, cards=cards))
    return pd.concat(frames, ignore_index=True)


def _edition(rows, name):
    cells = edition_cells(name)
    for cell in edition(name).itertuples():
        at = {"optimizer": cell.optimizer, "model_size": cell.model_size}
        at["chinchilla_ratio"] = cell.chinchilla_ratio
        rows.put("speedup", name, "ratio", cell.speedup, note=cell.note, **at)
    for size in published.SIZES:
        base = cells[(cells.optimizer == "adamw") & (cells.model_size == size)]
        base = base[base.chinchilla_ratio <= EDITIONS[name][1]]
        law = fit_data_law(base.chinchilla_ratio, base.loss)
        for quantity in ("alpha", "exponent", "floor"):
            at = {"optimizer": "adamw", "model_size": size}
            rows.put("data_law", name, quantity, getattr(law, quantity), **at)
    if name == "published_may_16x":
        return  # same losses and ratios 1-8 as published_may_4pt
    at_7b = (7e9, 7e9 * published.TOKENS_PER_PARAM)
    loss = {}
    for optimizer in ("adamw", "muon"):
        law = joint_law(cells[cells.optimizer == optimizer])
        for quantity, value in zip(("alpha", "A", "beta", "B", "gamma"), law, strict=True):
            rows.put("joint_law", name, quantity, value, optimizer=optimizer)
        loss[optimizer] = _joint(at_7b, *law)
    rows.put(
        "joint_law", name, "loss_minus_adamw_7b_1x", loss["muon"] - loss["adamw"],
        note="changes sign without the 1.2b runs: not a robust prediction", optimizer="muon",
    )  # fmt: skip


def _settings(rows):
    predictions = optima.published_predictions(published.centres(), published.PARAMS)
    for p in predictions.itertuples():
        note = f"held-out error at 520m 8x {p.held_out:.0%}"
        rows.put(
            "prediction", "published", p.hyperparameter, p.prediction,
            note=note + (f"; {p.flag} law" if p.flag else ""), optimizer=p.optimizer,
            model_size="1.2b", chinchilla_ratio=p.chinchilla_ratio,
        )  # fmt: skip
    runs, best = published.runs(), published.best()
    for delta in (5e-3, 6e-3, 7e-3):
        for name, keys in sensitivity.sensitive_sets(runs, best, delta=delta).items():
            note = "sensitive at this threshold; the study names 5e-3 to 7e-3 in different places"
            for key in sorted(keys):
                rows.put("sensitive", f"published_{delta:g}", key, 1, note=note, optimizer=name)
