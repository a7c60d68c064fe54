"""The three editions of the study's speed-ups, exactly as published."""

import numpy as np
import pandas as pd

from analysis import published
from analysis.speedup import published_speedup

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
