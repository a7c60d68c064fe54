"""The Qwen3-style optimizer ladder (238 runs of 2025-2026), as tidy tables; see qwen3_ladder.md."""

import pandas as pd

from analysis.published.tables import read

SIZES = ("130m", "300m", "520m", "1.2b")  # nominal names: 130m holds 23M without embeddings
ARCHIVE = "qwen3_archived_2026-04"  # the ladder with learning rates swept at every size


def runs() -> pd.DataFrame:
    """One row per training run: ladder, optimizer, variant, model_size, loss, hp_*, source."""
    return read("qwen3_ladder.csv.gz")


def settings() -> pd.DataFrame:
    """One row per ladder x optimizer x size: what was fixed and what differs between cells."""
    return read("qwen3_settings.csv.gz")
