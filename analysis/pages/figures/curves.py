"""What happens during training: curves, leads with late crossings, early stops, norms."""

import numpy as np
import pandas as pd

from analysis.pages import looks
from analysis.pages.figures.losses import chosen
from analysis.pages.svg import Figure, Panel, Scale
from analysis.pages.view import View
from analysis.runs.curves import validation_at
from analysis.runs.names import CELL, RACE, label, ordered, size_order
from analysis.runs.reader import ROLES

POINTS = np.linspace(0.1, 1.0, 46)  # shares of training at which curves are drawn
TENTHS = {v / 10: f"{v * 10} %" for v in range(0, 11, 2)}


def _races(table):
    order = size_order(table)
    keys = sorted(table.groupby(RACE).groups, key=lambda key: (order.index(key[0]), key[1]))
    return [(key, table[(table[RACE] == list(key)).all(axis=1)]) for key in keys]


def _panel(title, y, y_title, size, ratio, start):
    x = Scale([start, 1.0], ticks={t: w for t, w in TENTHS.items() if t >= start}, pad=0.02)
    return Panel(title, x, y, x_title="share of training", y_title=y_title, s=size, r=ratio)


def training(f: View, optimizers=None) -> Figure:
    """Validation loss of the winners over the second half of training, a panel per race."""
    table = validation_at(chosen(f.curves, optimizers), POINTS[POINTS >= 0.5]).dropna()
    panels = []
    for (size, ratio), race in _races(table):
        title, words = f"{size}, {ratio:g}×", "validation loss (nats)"
        panel = _panel(title, Scale(race["loss"]), words, size, ratio, 0.5)
        for name in ordered(race["optimizer"]):
            run = race[race["optimizer"] == name]
            with panel.of(name):
                _curve(panel, name, run["fraction"], run["loss"], f.winner_of[name, size, ratio])
        panels.append(panel)
    if not panels:
        raise ValueError("the winners have no curves")
    caption = "Validation loss of the tuned winners over the second half of training."
    names = ordered(table["optimizer"])
    return Figure("training", caption, table[[*CELL, "fraction", "loss"]], panels, names)


def _curve(panel, name, x, y, source):
    panel.line(x, y, dashes=looks.dashes(name))
    seen = [(a, b) for a, b in zip(x, y, strict=True) if panel.y.holds(b)]
    if seen:
        panel.marker(name, *seen[-1], f"{label(name)}: {seen[-1][1]:.4g}; {source}", radius=3.4)


def lead(f: View, optimizers=None, *, limit=0.06) -> Figure:
    """Lead over the baseline at the same point of training; a ring where it changes hands late.

    Args:
      limit: panels show at most this lead and lag, nats.
    """
    found = []
    table = validation_at(chosen(f.curves, optimizers), POINTS)
    for (size, ratio), race in _races(table):
        wide = race.pivot_table(index="fraction", columns="optimizer", values="loss")
        if f.baseline not in wide or wide.shape[1] < 2:
            continue
        leads = wide.sub(wide[f.baseline], axis=0).mul(-1).drop(columns=f.baseline)
        late = leads[leads.index >= 0.3].to_numpy()
        ends = (max(np.nanmin(late), -limit), min(np.nanmax(late), limit))
        y_title = f"loss below {f.base_label} (nats)"
        panel = _panel(f"{size}, {ratio:g}×", Scale([0.0, *ends]), y_title, size, ratio, 0.1)
        panel.horizontal(0)
        for name in ordered(leads):
            with panel.of(name):
                _curve(panel, name, leads.index, leads[name], f.winner_of[name, size, ratio])
                crossed = f.crossings[(f.crossings[CELL] == [name, size, ratio]).all(axis=1)]
                for row in crossed[crossed["fraction"] >= 0.5].itertuples():
                    tip = f"{label(row.leader)} leads on from {row.fraction:.2f}"
                    panel.ring(row.fraction, 0.0, f"{label(name)}, {size} {ratio:g}×: {tip}")
        part = leads.melt(ignore_index=False, value_name="lead").reset_index()
        found.append((panel, part.assign(model_size=size, chinchilla_ratio=ratio)))
    if not found:
        raise ValueError(f"no race has curves of {f.baseline} and of another optimizer")
    caption = f"Lead over {f.base_label} at the same point of training. A ring: the lead changes"
    caption += " hands in the second half."
    panels, tables = zip(*found, strict=True)
    frame = pd.concat(tables)[[*CELL, "fraction", "lead"]]
    return Figure("lead", caption, frame, list(panels), ordered(frame["optimizer"]))


def early_stop(f: View) -> Figure:
    """How often a race stopped early is decided wrongly, and what that costs."""
    table = f.early_stop
    if table.empty:
        raise ValueError("the winners have no curves")
    x = Scale([0, 1], ticks=TENTHS, pad=0.02)
    shares = Panel("wrong decisions", x, Scale([0, 1]), x_title="share of training at the stop",
                   y_title="share of races or pairs")  # fmt: skip
    looked = {"wrong_winner": "vermilion", "wrong_pairs": "blue"}
    for column, hue in looked.items():
        with shares.coloured(hue):
            shares.line(table["fraction"], table[column])
        at = table[column].iloc[len(table) // 3]
        shares.text(shares.px(0.42), shares.py(at) - 6, column.replace("_", " "))
    cost = Panel("loss given away", x, Scale([0, *table["regret"]]),
                 x_title="share of training at the stop", y_title="nats per token")  # fmt: skip
    cost.line(table["fraction"], table["regret"])
    caption = f"Trusting the leader before the end, over {table['races'].max()} races."
    return Figure("early_stop", caption, table, [shares, cost])


def norms(f: View) -> Figure:
    """Norms of parameters and gradient over training, in all and per role, in the largest race."""
    logged = f.curves[f.curves["param_norm"].notna()] if len(f.curves) else f.curves
    if logged.empty:
        raise ValueError("no norms were logged")
    size, ratio = f.races[0].iloc[0][RACE]
    logged = logged[(logged["model_size"] == size) & (logged["chinchilla_ratio"] == ratio)]
    if logged.empty:
        raise ValueError("no norms were logged in the largest race")
    panels, columns = [], []
    for what, words in (("param_norm", "parameters"), ("grad_norm", "gradient")):
        for role, role_words in ROLES.items():
            column = f"{what}{role}"
            if column not in logged or logged[column].isna().any():
                continue
            columns.append(column)
            x = Scale([0, 1], ticks=TENTHS, pad=0.02)
            log = what == "grad_norm" and bool((logged[column] > 0).all())
            panel = Panel(f"{words}: {role_words}", x, Scale(logged[column], log=log),
                          x_title="share of training", y_title="Euclidean norm")  # fmt: skip
            for name in ordered(logged["optimizer"]):
                run = logged[logged["optimizer"] == name].sort_values("fraction")
                with panel.of(name):
                    source = f.winner_of[name, size, ratio]
                    _curve(panel, name, run["fraction"], run[column], source)
            panels.append(panel)
    caption = f"Norms of parameters and of the gradient before clipping: winners at {size},"
    caption += f" {ratio:g}×."
    table = logged[[*CELL, "fraction", *columns]]
    return Figure("norms", caption, table, panels, ordered(logged["optimizer"]))
