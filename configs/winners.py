"""The best setting and loss of the study in each of its 150 cells (arXiv 2509.02046).

Read from the recorded results in `analysis.published`. Twelve best runs left no setting on record;
there the cell's centre stands instead.
"""

import math
from functools import cache

from analysis import published
from configs import grids, ladder


def winner(optimizer: str, size: str, ratio: float) -> dict | None:
    """The recorded winner at a published size and ratio, or that of the nearest cell.

    Nearest in size first, then in ratio, both in logarithms.

    Returns:
      `cell` ("130m,1x"), `loss` (final validation loss on Paloma's C4/EN split, nats per token of
      Llama-3), `batch_size` (sequences of 4096 tokens) and the tuned hyper-parameters by their
      catalogue names; None for an optimizer that the study did not run.
    """

    def distance(row: dict) -> tuple[float, float]:
        by_size = abs(math.log(ladder.params(row["model_size"]) / ladder.params(size)))
        return by_size, abs(math.log(float(row["chinchilla_ratio"]) / ratio))

    rows = _by_optimizer().get(optimizer)
    if not rows:
        return None
    row = min(rows, key=distance)
    tuned = [name for name in (*grids.GRIDS[optimizer], "max_grad_norm") if row[f"hp_{name}"]]
    values = {name: _number(row[f"hp_{name}"]) for name in tuned}
    if "normalize_grads" in values:
        values["normalize_grads"] = bool(values["normalize_grads"])
    if "block_size" in values and not float(row["hp_partition_grads_into_blocks"] or 1):
        values["block_size"] = None  # recorded, but the run was not cut into blocks
    cell = f"{row['model_size']},{float(row['chinchilla_ratio']):g}x"
    return {"cell": cell, "loss": float(row["loss"]), **values}


@cache
def _by_optimizer() -> dict[str, list[dict[str, str]]]:
    rows = published.rows("best.csv")
    return {o: [row for row in rows if row["optimizer"] == o] for o in published.OPTIMIZERS}


def _number(text: str) -> int | float:
    return int(float(text)) if float(text).is_integer() else float(text)
