"""The recorded results of arXiv 2509.02046, as tidy tables; units and caveats in README.md.

Every loader returns a fresh `pandas.DataFrame` in the columns all of `analysis` uses: `optimizer`
(catalogue name), `model_size` (130m 300m 520m 1.2b), `chinchilla_ratio`, `loss` (nats per token),
`seed`, `hp_<hyper-parameter>`. A loss that was never recorded is NaN, never a sentinel.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import TYPE_CHECKING

from analysis.published.tables import read

if TYPE_CHECKING:
    import pandas as pd

OPTIMIZERS = (
    *("adamw", "nadamw", "cautious", "mars", "lion", "adam_mini"),
    *("muon", "scion", "kron", "soap", "sophia"),
)
SIZES = ("130m", "300m", "520m", "1.2b")
PARAMS = {"130m": 134_217_728, "300m": 301_989_888, "520m": 536_870_912, "1.2b": 1_207_959_552}
TOKENS_PER_PARAM = 20  # chinchilla_ratio 1
AS_TEXT = ("value", "grid", "start")  # as they were written, such as 1e-25 and "true"


def rows(name: str) -> list[dict[str, str]]:
    """The rows of one CSV file of this folder as text, without pandas (for `configs`)."""
    with (files(__name__) / name).open() as file:
        return list(csv.DictReader(file))


def best() -> pd.DataFrame:
    """Best loss of each of the 150 cells (what the study plots), with its settings."""
    return read("best.csv")


def centres() -> pd.DataFrame:
    """The 150 published centre configs with the loss of the run at the centre itself."""
    return read("centres.csv")


def runs() -> pd.DataFrame:
    """All 2,141 recorded runs: each cell's centre and its one-parameter deviations."""
    return read("runs.csv.gz", AS_TEXT)


def grids() -> pd.DataFrame:
    """The 1-D grid and the starting value of every hyper-parameter in every cell, as JSON text."""
    return read("grids.csv", AS_TEXT)


def curves() -> pd.DataFrame:
    """Validation loss every 1,000 steps of 123 runs (each cell's best run as of May 2025)."""
    return read("curves.csv.gz")


def downstream() -> pd.DataFrame:
    """Ten downstream accuracies (fractions; `average_pct` in percent) of 135 of those runs."""
    return read("downstream.csv")


def quoted_speedups() -> pd.DataFrame:
    """Speed-ups as read from the study's figures, by edition: what the editions must reproduce."""
    return read("quoted_speedups.csv")


def quoted_predictions() -> pd.DataFrame:
    """The study's own predicted 1.2b settings: what `estimates.editions` must reproduce."""
    return read("quoted_predictions.csv")


def quoted_sensitive() -> pd.DataFrame:
    """The study's committed sets of scaling-sensitive hyper-parameters, one row per member."""
    return read("quoted_sensitive.csv")
