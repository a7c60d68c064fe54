"""Speed-ups at equal cost: what a token costs beside the baseline's (FLOPs, seconds, bytes)."""

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimates.table import Rows
from analysis.runs.names import CELL
from analysis.stats.noise import EFFICIENCY

SOURCES = {"flops": "flops", "seconds": "seconds", "bytes": "optimizer_bytes"}


def costs(runs: pd.DataFrame, *, baseline) -> pd.DataFrame:
    """What one token costs, relative to the baseline at the same size.

    Args:
      runs: CELL and any of tokens, flops, seconds, optimizer_bytes.

    Returns:
      optimizer, model_size, quantity ("flops", "seconds", "bytes"), factor, low, high (where the
      factor of two more runs lies, 95 %: seconds on a shared machine are noisy and this is shown,
      not averaged; open ends where one run says nothing of that).
    """
    rows = []
    for quantity, column in SOURCES.items():
        if column not in runs:
            continue
        per = pd.to_numeric(runs[column])
        per = per if quantity == "bytes" else per / pd.to_numeric(runs["tokens"])
        usable = runs.assign(per=np.log(per.where(per > 0))).dropna(subset="per")
        for size, group in usable.groupby("model_size", sort=False):
            base = group.per[group.optimizer == baseline]
            if not len(base):
                continue
            for name, mine in group.groupby("optimizer", sort=False):
                if name == baseline:
                    continue
                factor = mine.per.median() - base.median()
                half = _half_width(mine.per, base) if quantity == "seconds" else 0.0
                ends = np.exp([factor, factor - half, factor + half])
                rows.append((name, size, quantity, *ends))
    columns = ["optimizer", "model_size", "quantity", "factor", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _half_width(*groups) -> float:
    """Of the 95 % interval of the difference of one more run of each of two groups.

    The standard deviation comes from the middle half of a group's values (one stalled machine is
    not all), with Welch's degrees of freedom; the medians have errors of their own.
    """
    variances, degrees = [], []
    for values in groups:
        sd = np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.349
        variances.append(sd**2 * (1 + np.pi / 2 / len(values)))
        degrees.append(EFFICIENCY * (len(values) - 1))
    total = sum(variances)
    if min(degrees) == 0:
        return np.inf
    if total == 0:
        return 0.0
    df = total**2 / sum(v**2 / n for v, n in zip(variances, degrees, strict=True))
    return float(stats.t.ppf(0.975, df) * np.sqrt(total)) if df >= 1 else np.inf


def put_costs(rows: Rows, runs: pd.DataFrame, baseline: str) -> None:
    """Cost factors, and every speed-up in `rows` at equal FLOPs and equal seconds.

    The interval carries the speed-up's own and the spread of the cost, as independent on the log
    scale; an end that is open stays open.
    """
    ratios = [r for r in rows if r["table"] == "speedup" and r["quantity"] == "ratio"]
    ratios = [r for r in ratios if r["procedure"].startswith("robust")]
    for cost in costs(runs, baseline=baseline).itertuples():
        note = "per token" if cost.quantity != "bytes" else "of optimizer state"
        ends = (cost.factor, cost.low, cost.high)
        where = {"optimizer": cost.optimizer, "model_size": cost.model_size}
        rows.put("cost", "", cost.quantity, *ends, note, **where)
        if cost.quantity == "bytes":
            continue
        half = np.log(cost.high / cost.factor)
        for r in ratios:
            if (r["optimizer"], r["model_size"]) == (cost.optimizer, cost.model_size):
                value, low, high = r["value"], r["low"], r["high"]
                low = low and value * np.exp(-np.hypot(np.log(value / low), half))
                high = high and value * np.exp(np.hypot(np.log(high / value), half))
                ends = (None if x is None else x / cost.factor for x in (value, low, high))
                rows.put(
                    "speedup", r["procedure"], f"ratio_{cost.quantity}", *ends, r["note"],
                    r["bound"], **{name: r[name] for name in CELL},
                )  # fmt: skip
