"""Speed-up: the data AdamW needs for the same loss, divided by the data used."""

import numpy as np
import pandas as pd

from analysis.laws import fit_data_law

BASELINE = "adamw"


def published_speedup(cells: pd.DataFrame, *, max_ratio=np.inf, baseline=BASELINE) -> pd.DataFrame:
    """The study's speed-ups: one AdamW data law per size, inverted at every other loss.

    Args:
      cells: one row per (optimizer, model_size, chinchilla_ratio) with its best `loss`.
      max_ratio: fit window; AdamW losses at larger ratios are left out of the fit.
      baseline: the optimizer the law is fitted to.

    Returns:
      optimizer, model_size, chinchilla_ratio, loss, equivalent_ratio, speedup, note. A loss at or
      below the fitted floor gives the lower bound r_max / r and says so; sizes with fewer than
      three baseline ratios give no rows.
    """
    rows = []
    for size, at_size in cells.groupby("model_size", sort=False):
        base = at_size[(at_size.optimizer == baseline) & (at_size.chinchilla_ratio <= max_ratio)]
        base = base[np.isfinite(base.loss)]
        if base.chinchilla_ratio.nunique() < 3:
            continue
        law, largest = (
            fit_data_law(base.chinchilla_ratio, base.loss),
            base.chinchilla_ratio.max(),
        )
        for cell in at_size[np.isfinite(at_size.loss)].itertuples():
            equivalent, note = float(law.data_for(cell.loss)), ""
            if not np.isfinite(equivalent):
                equivalent, note = float(largest), "lower bound: below the fitted floor"
            elif equivalent > largest:
                note = f"extrapolates {baseline} beyond {largest:g}x"
            rows.append(
                {
                    "optimizer": cell.optimizer,
                    "model_size": size,
                    "chinchilla_ratio": cell.chinchilla_ratio,
                    "loss": cell.loss,
                    "equivalent_ratio": equivalent,
                    "speedup": equivalent / cell.chinchilla_ratio,
                    "note": note,
                }
            )
    columns = ["optimizer", "model_size", "chinchilla_ratio", "loss", "equivalent_ratio", "speedup"]
    return pd.DataFrame(rows, columns=[*columns, "note"])
