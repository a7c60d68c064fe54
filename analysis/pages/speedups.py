"""Speed-ups side by side: three procedures, three editions, two studies."""

import numpy as np
import pandas as pd

from analysis.estimates.editions import EDITIONS
from analysis.pages import page
from analysis.pages.page import Raw
from analysis.pages.view import FORMULA, View
from analysis.runs.names import CELL, label, ordered, size_order


def speedups(f: View) -> Raw:
    """Every cell by every procedure, and the baseline's law by the published formula."""
    kinds = {
        f"below {f.base_label} (nats)": ("gap", "fair_losses", "nats"),
        "joint model": ("speedup", "robust_joint", "ratio"),
        "own curve": ("speedup", "robust_cell", "ratio"),
        "published formula": ("speedup", FORMULA, "ratio"),
        "equal FLOPs": ("speedup", "robust_joint", "ratio_flops"),
        "equal seconds": ("speedup", "robust_joint", "ratio_seconds"),
    }
    rows = []
    for cell in f.speedups[f.speedups["optimizer"] != f.baseline].to_dict("records"):
        found = [f.number(*kind, *(cell[name] for name in CELL)) for kind in kinds.values()]
        rows.append((page.where(cell), [*page.names(cell), *found, cell["verdict"]]))
    heads = ["size", "budget", "optimizer", *kinds, "verdict"]
    parts = ("ratios", "alpha", "exponent", "floor", "freedom", "rms")
    laws = []
    for law in f.law_table.itertuples():
        size = law.model_size
        found = [f.number("data_law", FORMULA, part, "", size) for part in parts]
        laws.append(({"s": size}, [size, *found, law.note]))
    law_heads = ["size", "points", "α", "B", "β", "degrees of freedom", "rms residual", "note"]
    note = (
        f"Speed-up: tokens {f.base_label} needs for the same loss, divided by the tokens used."
        f" Published formula (arXiv 2509.02046): {f.base_label}'s best losses at one size fitted by"
        " L(r) = α r^−B + β. Own curve: the same runs with the noise of each. Joint model: all"
        " optimizers share one curve per size, log speed-up linear in log size and log budget."
        " Verdicts hold together over all cells (Holm)."
    )
    table = page.table(heads, rows, search=True) if rows else ""
    return Raw(
        page.details("Every speed-up by every procedure", page.paragraph(note, "note") + table)
        + (page.details(f"{f.base_label}'s law", page.table(law_heads, laws)) if laws else "")
    )


def editions(f: View, show) -> Raw:
    """The three published editions of the speed-ups beside the joint model's."""
    rows, widest = [], (0.0, "")
    for cell in f.speedups[f.speedups["optimizer"] != f.baseline].to_dict("records"):
        where = tuple(cell[name] for name in CELL)
        found = [f.number("speedup", name, "ratio", *where) for name in EDITIONS]
        values = [n.value for n in found if n is not None]
        spread = max(values) - min(values) if values else np.nan
        size, budget, optimizer = page.names(cell)
        name = f"{optimizer} at {size}, {budget}"
        widest = max(widest, (spread, name)) if np.isfinite(spread) else widest
        joint = f.number("speedup", "robust_joint", "ratio", *where)
        rows.append((page.where(cell), [size, budget, optimizer, *found, joint]))
    heads = ["size", "budget", "optimizer", "final, 1–16×", "May, 1–8×", "May, 1–16×"]
    return page.paragraph(
        "The study's figures exist in three editions: losses of May 2025 with AdamW's law fitted on"
        " budgets 1–8×, the same with 16× added, and the final losses with 16×. One more AdamW"
        f" point and a few better runs move {widest[1]} by {widest[0]:.2f}."
    ) + page.details("All editions", page.table([*heads, "joint model"], rows, search=True))


def against(f: View, other: View) -> Raw:
    """The study's speed-ups beside the recorded one's range over its editions."""
    mine, theirs = f.speedups, other.speedups
    spread = pd.concat([other.of("speedup", name) for name in EDITIONS])
    spread = spread.groupby(CELL)["value"].agg(["min", "max"])
    rivals = set(theirs["optimizer"]) - {f.baseline}
    shared = [name for name in ordered(mine["optimizer"]) if name in rivals]
    sizes, published = size_order(mine), size_order(theirs)
    rows = []
    for ratio in sorted(set(mine["chinchilla_ratio"])):
        for name in shared:
            yours = [f.number("speedup", "robust_joint", "ratio", name, s, ratio) for s in sizes]
            keys = [(name, size, ratio) for size in published]
            known = [f"{spread.loc[k, 'min']:.2f}–{spread.loc[k, 'max']:.2f}"
                     if k in spread.index else "" for k in keys]  # fmt: skip
            rows.append(({"o": name, "r": ratio}, [f"{ratio:g}×", label(name), *yours, *known]))
    heads = ["budget", "optimizer", *(f"yours {s}" for s in sizes)]
    heads += [f"published {s}" for s in published]
    strangers = sorted(set(mine["optimizer"]) - set(theirs["optimizer"]))
    words = (
        "The recorded study (arXiv 2509.02046) raced at 130M to 1.2B parameters on web text. Its"
        " columns give the range over its published editions, yours the joint model's. Sizes, data"
        " and grids differ, so agreement is a check and not a proof."
    )
    words += f" Not in the recorded study: {', '.join(strangers)}." if strangers else ""
    return Raw(page.paragraph(words) + (page.table(heads, rows) if rows else ""))
