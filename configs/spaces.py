"""What is searched of an optimizer by import path: its module's `search_space`, else by convention.

- The learning rate: five decades around its default or 0.01, and factors of two around the best.
- Arguments named as in `AS_ADAMW`, the batch size and what goes around: AdamW's grids.
- All else stays at its default.

`search_space` may state `start`, `grids`, `ranges` ({"low": 0.1, "high": 10, "values": 3, "scale":
"log"}; log and five values unless said otherwise) and `of_steps`: names whose values are given as
shares of the steps of the shortest training. What it states is searched; the batch size and what
goes around are not, unless it states them too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optim
from lm.config import ConfigError

UNKNOWN_RATE = 0.01
AS_ADAMW = {
    **{name: "beta1" for name in ("b1", "beta1", "momentum")},
    **{name: "beta2" for name in ("b2", "beta2")},
    **{name: name for name in ("batch_size", "warmup", "weight_decay", "max_grad_norm")},
}


def entry(name: str, adamw: Mapping[str, Any], steps: int, only: Sequence[str] = ()) -> dict:
    """The entry of a study: start, grids, bounds.

    Args:
      name: an import path.
      adamw: AdamW's entry in the same race.
      steps: of the shortest training.
      only: what the race searches by convention; empty: all.
    Raises:
      ValueError: one line.
    """
    values, space = optim.spec(name, preset="study").values, optim.catalogue.get(name).space
    start = {n: adamw["start"][n] for n in ("batch_size", "warmup")}
    start |= {n: v for n, v in values.items() if n in AS_ADAMW and n != "warmup"}
    start["learning_rate"] = middle = values["learning_rate"] or UNKNOWN_RATE
    grids = {"learning_rate": [rounded(middle * 10.0**k) for k in range(-2, 3)]}
    grids |= {
        n: sorted({*adamw["grids"][like], start[n]})
        for n, like in AS_ADAMW.items()
        if n in start and start[n] is not None and like in adamw["grids"]
    }
    own = {n: spread(n, given) for n, given in space.get("ranges", {}).items()}
    own |= {n: list(grid) for n, grid in space.get("grids", {}).items()}
    if own:
        grids = {"learning_rate": grids["learning_rate"]}
    elif only:
        grids = {n: v for n, v in grids.items() if {n, AS_ADAMW.get(n)} & set(only)}
    grids |= own
    middles = {n: grid[len(grid) // 2] for n, grid in own.items()}
    start |= {n: middles[n] if values.get(n) is None else values[n] for n in own if n not in start}
    start |= space.get("start", {})
    for n in space.get("of_steps", ()):
        start[n] = round(start[n] * steps)
        grids |= {n: sorted({round(share * steps) for share in grids[n]})} if n in grids else {}
    start = {n: v for n, v in start.items() if v is not None}
    return {
        "preset": "study",
        "source": values["source"],
        "start": start,
        "grids": grids,
        "bounds": {"learning_rate": [rounded(middle * 1e-5), rounded(middle * 1e5)]},
    }


def spread(name: str, given: Mapping[str, Any]) -> list[float]:
    """The values of a range. Raises ConfigError, one line."""
    known = {"values": 5, "scale": "log", **given}
    if set(known) != {"low", "high", "values", "scale"}:
        raise ConfigError(f"search_space: ranges.{name}={dict(given)} needs low and high only")
    low, high, count, log = known["low"], known["high"], known["values"], known["scale"] == "log"
    if not low < high or count < 2 or (log and low <= 0) or known["scale"] not in ("log", "linear"):
        raise ConfigError(
            f"search_space: ranges.{name}={dict(given)} must grow from low to high in two or more "
            "values; scale is log (from above 0) or linear"
        )
    shares = [k / (count - 1) for k in range(count)]
    if log:
        return [rounded(low * math.pow(high / low, share)) for share in shares]
    return [rounded(low + (high - low) * share) for share in shares]


def rounded(value: float) -> float:
    return float(f"{value:.6g}")
