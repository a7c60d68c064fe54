"""Losses and speed-ups against budget and size, one small panel per size or budget."""

import numpy as np
import pandas as pd

from analysis.pages import looks
from analysis.pages.svg import Figure, Panel, Scale, short
from analysis.pages.view import View
from analysis.runs.names import CELL, ordered, size_order

BUDGET = "budget (× 20 tokens per parameter)"
SIZE = "model size (parameters without embeddings)"


def budgets(cells) -> Scale:
    """A logarithmic axis of Chinchilla ratios with a tick at each that was run."""
    ratios = sorted(set(cells["chinchilla_ratio"]))
    return Scale(ratios, log=True, ticks={r: f"{r:g}×" for r in ratios}, pad=0.08)


def sizes(cells) -> Scale:
    """A logarithmic axis of parameters with a tick at each size that was run."""
    ticks = dict(zip(cells["non_embedding_params"], cells["model_size"], strict=True))
    return Scale(ticks, log=True, ticks=ticks, pad=0.1)


def chosen(table: pd.DataFrame, optimizers) -> pd.DataFrame:
    """The rows of some optimizers; of all where `optimizers` is None."""
    return table if optimizers is None else table[table["optimizer"].isin(optimizers)]


def by_budget(f: View, table, draw, *, y=None, y_title="", per=None, x=None):
    """A panel per size (or, `per="chinchilla_ratio"`, per budget) drawn by `draw(panel, cells)`."""
    if table.empty:
        raise ValueError("nothing to draw, the table has no rows for it")
    panels = []
    for key, cells in _groups(table, per or "model_size"):
        if per == "chinchilla_ratio":
            title, where, axis, words = f"{key:g}×", {"r": key}, sizes(table), SIZE
        else:
            params = short(cells["non_embedding_params"].iloc[0])
            title, where, axis, words = f"{key} ({params})", {"s": key}, budgets(table), BUDGET
        axis = axis if x is None else x(cells)
        panel = Panel(title, axis, y(cells), x_title=words, y_title=y_title, **where)
        draw(panel, cells)
        panels.append(panel)
    return panels


def _groups(table, by):
    keys = size_order(table) if by == "model_size" else sorted(set(table[by]))
    return [(key, table[table[by] == key]) for key in keys]


def losses(f: View, optimizers=None, *, by_size=False) -> Figure:
    """Fair loss of every cell with its interval; at each size the baseline's data law, dotted."""
    table = chosen(f.speedups, optimizers)
    x = "non_embedding_params" if by_size else "chinchilla_ratio"

    def draw(panel, cells):
        law = f.laws.get(cells["model_size"].iloc[0])
        if law is not None and not by_size:
            ratios = np.geomspace(cells[x].min(), cells[x].max(), 40)
            panel.line(ratios, law.loss(ratios), dashes="1 3")
        for name in ordered(cells["optimizer"]):
            mine = cells[cells["optimizer"] == name].sort_values(x)
            with panel.of(name):
                panel.line(mine[x], mine["fair_loss"], dashes=looks.dashes(name))
                for cell in mine.itertuples():
                    _loss(f, panel, cell, getattr(cell, x))

    y = "validation loss (nats per token)"
    per = "chinchilla_ratio" if by_size else "model_size"
    panels = by_budget(f, table, draw, y=lambda c: Scale(c["fair_loss"]), y_title=y, per=per)
    caption = "Loss of the tuned winners: what they would give again, with 95 % intervals."
    caption += "" if by_size else f" Dotted: {f.base_label}'s data law."
    name = "losses_by_size" if by_size else "losses"
    columns = [*CELL, "non_embedding_params", "loss", "fair_loss"]
    return Figure(name, caption, table[columns], panels, ordered(table["optimizer"]))


def _loss(f, panel, cell, x):
    where = (cell.optimizer, cell.model_size, cell.chinchilla_ratio)
    number = f.number("loss", "fair", "loss", *where) or f.number(
        "loss", "observed", "loss", *where
    )
    if number is not None:
        panel.whisker(x, number.low, number.high)
    else:
        number = f.number("best", "sweep", "loss", *where)
    panel.marker(cell.optimizer, x, cell.fair_loss, number.tip if number else "")


def losses_by_size(f: View, optimizers=None) -> Figure:
    """As `losses`, a panel per budget."""
    return losses(f, optimizers, by_size=True)


def speedups(f: View, optimizers=None, *, by_size=False) -> Figure:
    """Speed-up over the baseline in tokens: joint model as lines and bands, own curves as points.

    An arrow is a lower bound: the baseline was not run far enough.
    """
    table = chosen(f.speedups[f.speedups["optimizer"] != f.baseline], optimizers)
    table = table[table[["joint", "robust", "published"]].notna().any(axis=1)]
    x = "non_embedding_params" if by_size else "chinchilla_ratio"
    names = ordered(table["optimizer"])

    def draw(panel, cells):
        panel.horizontal(1.0)
        for number, name in enumerate(names):
            mine = cells[cells["optimizer"] == name].sort_values(x)
            known = mine[mine["joint"].notna() & (mine["joint_bound"] == "")]
            with panel.of(name):
                panel.band(known[x], known["joint_low"], known["joint_high"])
                panel.line(known[x], known["joint"], dashes=looks.dashes(name))
                for cell in mine.itertuples():  # neighbours side by side, not on top of each other
                    shift = 2 ** (0.05 * (number - (len(names) - 1) / 2))
                    _speedup(f, panel, cell, getattr(cell, x) * shift)

    per = "chinchilla_ratio" if by_size else "model_size"
    panels = by_budget(f, table, draw, y=_speedup_axis, y_title="speed-up (tokens)", per=per)
    caption = f"Tokens {f.base_label} needs for the same loss, in multiples. Lines and bands: joint"
    caption += " model; points: the size's own curve; 95 %. An arrow: a lower bound."
    name = "speedups_by_size" if by_size else "speedups"
    kinds = [f"{k}{e}" for k in ("joint", "robust", "published") for e in ("", "_low", "_high")]
    return Figure(name, caption, table[[*CELL, "non_embedding_params", *kinds]], panels, names)


def _speedup_axis(cells):
    """The middle of the values: one wild interval does not flatten the rest."""
    seen = cells[["joint_low", "joint_high", "robust", "joint", "published"]].to_numpy(float)
    seen = seen[np.isfinite(seen)]
    low, high = np.quantile(seen, [0.01, 0.99]) if len(seen) else (1.0, 1.0)
    return Scale([1.0, low, high], pad=0.1)


def _speedup(f, panel, cell, x):
    where = (cell.optimizer, cell.model_size, cell.chinchilla_ratio)
    number = f.number("speedup", "robust_cell", "ratio", *where)
    number = number or f.number("speedup", "published_formula", "ratio", *where)
    if number is None or number.bound == "none":
        return
    if np.isfinite(number.low):
        panel.whisker(x, number.low, number.high)
    panel.marker(cell.optimizer, x, number.value, number.tip, radius=3.4)


def speedups_by_size(f: View, optimizers=None) -> Figure:
    """As `speedups`, a panel per budget: does the advantage shrink with scale?"""
    return speedups(f, optimizers, by_size=True)
