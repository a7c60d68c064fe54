"""What it costs: trials of the search, tuning, time and memory of a run; shares of races won."""

import numpy as np
import pandas as pd

from analysis.pages import looks
from analysis.pages.figures.answer import ROW
from analysis.pages.figures.losses import chosen
from analysis.pages.svg import Figure, Panel, Scale, short
from analysis.pages.view import View
from analysis.runs.names import CELL, label, ordered, size_order

RESOURCES = {
    "seconds": "device seconds of the run",
    "flops": "model FLOPs of the run",
    "optimizer_bytes": "optimizer state (bytes)",
}


def best_so_far(f: View, optimizers=None) -> Figure:
    """Expected best loss against trials spent, in every headline race."""
    table = chosen(f.best_so_far, optimizers)
    panels = []
    for race in f.races:
        size, ratio = race.iloc[0]["model_size"], race.iloc[0]["chinchilla_ratio"]
        here = table[(table["model_size"] == size) & (table["chinchilla_ratio"] == ratio)]
        if here["trials"].max() < 2 or here.empty:
            continue
        y = Scale([here["above"].min(), min(here["above"].max(), 0.1)])
        panel = Panel(f"{size}, {ratio:g}×", Scale([1, here["trials"].max()]), y, s=size, r=ratio,
                      x_title="trials spent", y_title="nats above the best of all")  # fmt: skip
        for name in ordered(here["optimizer"]):
            line = here[here["optimizer"] == name]
            with panel.of(name):
                panel.line(line["trials"], line["above"], dashes=looks.dashes(name))
                last = line.iloc[-1]
                if panel.y.holds(last["above"]):
                    tip = f"{label(name)}: {last['trials']:.0f} trials"
                    panel.marker(name, last["trials"], last["above"], tip, radius=3.4)
        panels.append(panel)
    if not panels:
        raise ValueError("no headline race has trials")
    caption = "Expected best loss of so many of a cell's trials, drawn in random order."
    return Figure("best_so_far", caption, table, panels, ordered(table["optimizer"]))


def profile(f: View, optimizers=None) -> Figure:
    """Share of races in which an optimizer lies within tau of the best, by fair loss."""
    rows = f.of("race", "fair_losses", "behind_best")
    if rows.empty:
        raise ValueError("no race has two optimizers with known noise")
    rows = chosen(rows.assign(behind=rows["value"].clip(lower=0)), optimizers)
    x = Scale([0, np.quantile(rows["behind"], 0.9) or 1e-3], pad=0.03)
    panel = Panel("", x, Scale([0, 1], pad=0.05), width=520, height=290, top=8,
                  x_title="tau: nats above the best of the race",
                  y_title="share of its races within tau")  # fmt: skip
    for name in ordered(rows["optimizer"]):
        behind = np.sort(rows.loc[rows["optimizer"] == name, "behind"])
        share = np.arange(1, len(behind) + 1) / len(behind)
        xs = np.repeat([0.0, *behind, max(x.high, behind[-1])], 2)[1:-1]
        ys = np.repeat([0.0, *share], 2)
        with panel.of(name):
            panel.line(xs, ys, dashes=looks.dashes(name))
            within = int((behind <= x.high).sum())
            tip = f"{label(name)}: best of {int((behind == 0).sum())} of {len(behind)} races"
            panel.marker(name, x.high, share[within - 1] if within else 0.0, tip, radius=3.4)
    caption = "Performance profile: the higher a line starts, the more races it wins; the sooner it"
    caption += " reaches 1, the less it ever loses."
    table = rows[[*CELL, "behind"]]
    return Figure("profile", caption, table, [panel], ordered(rows["optimizer"]))


def tuning_cost(f: View) -> Figure:
    """Trials, tokens and seconds spent on tuning each optimizer."""
    panels, names = [], ordered(f.cost["optimizer"])
    words = {"trials": "trials", "tokens": "tokens", "seconds": "device seconds"}
    y = Scale([0, len(names) - 1], ticks={}, pad=0.5 / max(len(names) - 1, 1))
    for column in [c for c in words if f.cost[c].notna().any()]:
        panel = Panel("", Scale([0, *f.cost[column]], pad=0), y, height=ROW * len(names) + 44,
                      left=88, top=6, x_title=words[column])  # fmt: skip
        for row in f.cost.itertuples():
            at = panel.py(len(names) - 1 - names.index(row.optimizer))
            panel.text(panel.box[0] - 8, at + 4, label(row.optimizer), "end")
            value = getattr(row, column)
            if np.isfinite(value):
                with panel.of(row.optimizer):
                    wide = panel.px(value) - panel.box[0]
                    kind = ("time", "tuning") if column == "seconds" else ("tuning", "all trials")
                    tip = f.number(*kind, column, row.optimizer).tip
                    panel.rectangle(panel.box[0], at - 7, wide, 14, "bar", tip)
        panels.append(panel)
    return Figure("tuning_cost", "What tuning each optimizer cost.", f.cost, panels)


def pareto(f: View, resource="seconds", optimizers=None) -> Figure:
    """Loss of the tuned winners against one resource, the efficient ones joined.

    Args:
      resource: one of seconds, flops, optimizer_bytes.
    """
    if resource not in RESOURCES:
        raise ValueError(f"resource: {resource!r} is none of {', '.join(RESOURCES)}")
    known = chosen(f.best, optimizers)
    known = known[known[resource].notna()].astype({resource: float})
    if known.empty:
        raise ValueError(f"no run has {RESOURCES[resource]}")
    panels = []
    for size in size_order(known):
        cells = known[known["model_size"] == size].sort_values([resource, "loss"])
        panel = Panel(size, Scale(cells[resource], log=True), Scale(cells["loss"]), s=size,
                      x_title=RESOURCES[resource], y_title="validation loss (nats)")  # fmt: skip
        best = cells[cells["loss"] < cells["loss"].cummin().shift(fill_value=np.inf)]
        panel.line(best[resource], best["loss"], dashes="1 3")
        for cell in cells.itertuples():
            with panel.of(cell.optimizer):
                where = (cell.optimizer, size, cell.chinchilla_ratio)
                spent = f"{short(getattr(cell, resource))} {RESOURCES[resource]}"
                tip = f"{spent}; {f.number('best', 'sweep', 'loss', *where).tip}"
                panel.marker(cell.optimizer, getattr(cell, resource), cell.loss, tip)
        panels.append(panel)
    caption = f"Loss against {RESOURCES[resource]}. Dotted: no run is better in both."
    table = known[[*CELL, "loss", resource]]
    return Figure(f"pareto_{resource}", caption, table, panels, ordered(known["optimizer"]))


def downstream(scores: pd.DataFrame) -> Figure:
    """Average downstream accuracy against validation loss of the same run.

    Args:
      scores: optimizer, model_size, chinchilla_ratio, loss, average_pct.
    """
    known = scores.dropna(subset=["loss", "average_pct"])
    x, y = Scale(known["loss"]), Scale(known["average_pct"])
    panel = Panel("", x, y, width=520, height=300, top=8, x_title="validation loss (nats)",
                  y_title="average accuracy of ten tasks (%)")  # fmt: skip
    for run in known.itertuples():
        with panel.of(run.optimizer):
            tip = f"{label(run.optimizer)} {run.model_size} {run.chinchilla_ratio:g}×"
            tip = f"{tip}: {run.average_pct:.1f} % at {run.loss:.3f}"
            panel.marker(run.optimizer, run.loss, run.average_pct, tip, radius=3.4)
    caption = "Accuracy on ten tasks: loss decides, the optimizer adds little."
    table = known[[*CELL, "loss", "average_pct"]]
    return Figure("downstream", caption, table, [panel], ordered(known["optimizer"]))
