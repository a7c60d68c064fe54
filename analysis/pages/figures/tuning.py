"""What each hyper-parameter does: valleys, borrowed settings, optima over scale."""

import numpy as np
import pandas as pd

from analysis.fits.valley import valley
from analysis.pages import looks
from analysis.pages.figures.losses import chosen
from analysis.pages.svg import Figure, Panel, Scale
from analysis.pages.view import View
from analysis.runs.names import CELL, RACE, label, ordered, size_order
from analysis.stats.hyper_laws import to_log2

LIMIT = 0.06  # nats above the winner that a panel shows


def positions(name: str, values) -> dict:
    """value -> x: the even coordinate of its grid (`to_log2`); words by number; a zero, and what
    has no such coordinate, one step left of the rest."""
    try:
        numbers = {value: float(value) for value in values}
    except (TypeError, ValueError):
        return {value: float(i) for i, value in enumerate(sorted(set(map(str, values))))}
    x = {value: float(to_log2(name, number)) for value, number in numbers.items()}
    finite = [at for at in x.values() if np.isfinite(at)]
    return {v: at if np.isfinite(at) else min(finite, default=0) - 1 for v, at in x.items()}


def valleys(f: View, hyperparameter="learning_rate", optimizers=None, *, races=None) -> Figure:
    """Loss above the winner's against one hyper-parameter, a panel per race.

    Bars: 95 % of a difference of two settings on one seed. Curve: the fitted valley where the sweep
    brackets it, its optimum's interval below. A ring: the best value is the last that was tried.
    """
    table = chosen(f.deviations[f.deviations["hyperparameter"] == hyperparameter], optimizers)
    panels = []
    for size, ratio in races or f.race_keys:
        swept = table[(table["model_size"] == size) & (table["chinchilla_ratio"] == ratio)]
        if swept["value"].nunique() > 1 and swept["delta"].notna().any():
            panels.append(_valleys(f, hyperparameter, swept, size, ratio))
    if not panels:
        raise ValueError(f"no cell tried two values of {hyperparameter}")
    caption = f"Loss above the winner's against {hyperparameter.replace('_', ' ')}."
    columns = [*CELL, "hyperparameter", "value", "loss", "status", "delta", "hash", "seed"]
    names = ordered(table["optimizer"])
    return Figure(f"valley_{hyperparameter}", caption, table[columns], panels, names)


def _valleys(f, name, swept, size, ratio):
    at = positions(name, set(swept["value"]))
    words = {x: f"{value:g}" if isinstance(value, float) else str(value) for value, x in at.items()}
    room, kept = (max(at.values()) - min(at.values())) / 6, []
    for x in sorted(words):
        if not kept or x - kept[-1] >= room - 1e-9:
            kept.append(x)
    top = min(max(swept["delta"].max(), 0.004), LIMIT)
    low = min(0.0, swept["delta"].min())
    x = Scale(at.values(), ticks={x: words[x] for x in kept})
    panel = Panel(f"{size}, {ratio:g}×", x, Scale([low - 0.12 * top, top]), s=size, r=ratio,
                  x_title=name.replace("_", " "), y_title="nats above the winner")  # fmt: skip
    panel.horizontal(0)
    noise = f.spread("residual", size, ratio)
    half = noise.margin(0.025, 1) if noise else np.nan
    for optimizer in ordered(swept["optimizer"]):
        line = swept[swept["optimizer"] == optimizer].sort_values("delta")
        line = line.drop_duplicates("value").assign(x=lambda t: t["value"].map(at)).sort_values("x")
        with panel.of(optimizer):
            fitted = _fitted(f, panel, name, line)
            if not fitted:
                panel.line(line["x"], line["delta"].where(line["delta"] <= top * 1.05))
            for point in line.itertuples():
                _point(panel, point, half, optimizer, name)
            _optimum(f, panel, name, line.iloc[0])
    return panel


def _fitted(f, panel, name, line) -> bool:
    """The valley through the sweep, where there is one."""
    cell = line.iloc[0]
    parts = [
        f.number("valley", part, name, *cell[CELL]) for part in ("curvature", "skew", "bottom")
    ]
    optimum = f.number("optimum", "robust", name, *cell[CELL])
    if None in parts or optimum is None:
        return False
    curvature, skew, bottom = (part.value for part in parts)
    x = np.linspace(line["x"].min(), line["x"].max(), 40)
    centre = float(to_log2(name, optimum.value))
    rise = bottom + curvature * valley(skew, x - centre) - cell["centre_loss"]
    panel.line(x, np.where(rise <= panel.y.high, rise, np.nan), dashes=looks.dashes(cell.optimizer))
    return True


def _point(panel, point, half, optimizer, name):
    tip = f"{label(optimizer)}, {name} {point.value}; run {point.hash}, seed {point.seed}: "
    if not np.isfinite(point.delta):
        x, y = panel.px(point.x), panel.box[1] + 6
        panel.segment(x - 4, y - 4, x + 4, y + 4, "thin")
        panel.segment(x - 4, y + 4, x + 4, y - 4, "thin", "")
        return
    shown = panel.y.holds(point.delta)
    if shown and np.isfinite(half) and point.delta != 0:
        panel.whisker(point.x, point.delta - half, point.delta + half)
    y = point.delta if shown else panel.y.high
    tip += f"{point.loss:.4f}, {point.delta:+.4f}"
    panel.marker(optimizer, point.x, y, tip, radius=3.4, hollow=not shown)


def _optimum(f, panel, name, cell):
    """The interval of the optimum, along the bottom; a ring at an edge."""
    number = f.number("optimum", "robust", name, *cell[CELL])
    if number is None:
        return
    if "edge of its grid" in number.source:
        panel.ring(float(cell["x"]) if cell["delta"] == 0 else _best(cell, panel), 0.0, number.tip)
    ends = [to_log2(name, end) if np.isfinite(end) else end for end in (number.low, number.high)]
    low, high = (float(end) for end in ends)
    panel.whisker(
        panel.y.low + 0.03 * (panel.y.high - panel.y.low), low, high, "thick", across=True
    )


def _best(cell, panel):
    at = positions(cell["hyperparameter"], [cell["centre_value"]])
    return next(iter(at.values()))


def transfer(f: View, hyperparameter="learning_rate") -> Figure:
    """What a row's optimizer loses with the column's best value, in every headline race.

    Read off the row's own sweep: what was tried, else (in brackets) its fitted valley.
    """
    panels, rows = [], []
    for race in f.races:
        size, ratio = race.iloc[0][RACE]
        swept = f.deviations[f.deviations["hyperparameter"] == hyperparameter]
        swept = swept[(swept["model_size"] == size) & (swept["chinchilla_ratio"] == ratio)]
        names = ordered(swept["optimizer"])
        if len(names) > 1:
            found = [_borrowed(f, swept, a, b, hyperparameter) for a in names for b in names]
            panels.append(_matrix(names, found, size, ratio))
            rows += [(a, b, size, ratio, value, how) for a, b, value, how in found]
    if not panels:
        raise ValueError(f"no headline race has sweeps of {hyperparameter} of two optimizers")
    caption = f"What the row's optimizer loses with the column's {hyperparameter.replace('_', ' ')}"
    caption += " (1e-3 nats). In brackets: by the fitted valley. Blank: nobody tried."
    columns = ["optimizer", "with_settings_of", *RACE, "nats", "how"]
    return Figure("transfer", caption, pd.DataFrame(rows, columns=columns), panels)


def _borrowed(f, swept, mine, other, name):
    """(row, column, loss above the row's winner, "tried" or "fitted")."""
    own = swept[swept["optimizer"] == mine]
    value = swept.loc[swept["optimizer"] == other, "centre_value"].iloc[0]
    there = own[own["value"].astype(float).eq(float(value))]
    if len(there):
        diverged = (there["status"] == "diverged").any() and not there["delta"].notna().any()
        return mine, other, np.inf if diverged else float(there["delta"].min()), "tried"
    cell = own.iloc[0]
    parts = [
        f.number("valley", part, name, *cell[CELL]) for part in ("curvature", "skew", "bottom")
    ]
    optimum = f.number("optimum", "robust", name, *cell[CELL])
    tried = own["value"].astype(float)
    if None in parts or not tried.min() <= float(value) <= tried.max():
        return mine, other, np.nan, ""
    curvature, skew, bottom = (part.value for part in parts)
    d = float(to_log2(name, value)) - float(to_log2(name, optimum.value))
    return mine, other, bottom + curvature * float(valley(skew, d)) - cell["centre_loss"], "fitted"


def _matrix(names, found, size, ratio):
    cell, n = 40, len(names)
    x = Scale([0, n - 1], ticks={}, pad=0.5 / max(n - 1, 1))
    panel = Panel(f"{size}, {ratio:g}×", x, x, width=96 + cell * n, height=100 + 24 * n, left=88,
                  top=92, bottom=8, s=size, r=ratio)  # fmt: skip
    for i, name in enumerate(names):
        panel.text(80, panel.py(n - 1 - i) + 4, label(name), "end")
        at = panel.px(i) + 4
        panel.text(at, 84, label(name), "", f'transform="rotate(-50 {at:.1f} 84)"')
    for place, (mine, other, nats, how) in enumerate(found):
        row, column = divmod(place, n)
        left, top = panel.px(column) - cell / 2, panel.py(n - 1 - row) - 12
        if np.isnan(nats):
            continue
        words = "div." if np.isinf(nats) else f"{1e3 * nats:.0f}" if mine != other else "–"
        shade = 0.0 if mine == other else min(max(nats, 0) / LIMIT, 1)
        tip = f"{label(mine)} with {label(other)}'s value: {nats:+.4f} nats ({how})"
        panel.rectangle(left + 1, top + 1, cell - 2, 22, f"heat{round(4 * shade)}", tip)
        words = f"({words})" if how == "fitted" else words
        panel.text(panel.px(column), panel.py(n - 1 - row) + 4, words, "mid")
    return panel


def optima(f: View, hyperparameter="learning_rate", optimizers=None) -> Figure:
    """The best value against tokens with 95 % intervals: a panel per optimizer, a line per law."""
    table = chosen(f.optima[f.optima["hyperparameter"] == hyperparameter], optimizers)
    if table.empty:
        raise ValueError(f"no cell tried two values of {hyperparameter}")
    panels, y_title = [], f"best {hyperparameter.replace('_', ' ')}"
    seen = table[["low", "high", "value"]].to_numpy(float)
    seen = seen[np.isfinite(seen) & (seen > 0)]
    y = Scale(np.clip(seen, *np.quantile(seen, [0.02, 0.98])), log=True)
    for name in ordered(table["optimizer"]):
        mine = table[table["optimizer"] == name]
        ends = size_order(mine)[:1] + size_order(mine)[-1:]
        panel = Panel(label(name), Scale(table["tokens"], log=True), y, width=250, height=200,
                      x_title="tokens", y_title=y_title)  # fmt: skip
        with panel.of(name):
            for size in size_order(mine):
                line = mine[mine["model_size"] == size].sort_values("tokens")
                panel.line(line["tokens"], line["law"])
                for cell in line.itertuples():
                    number = f.number("optimum", "robust", hyperparameter, *cell[1:4])
                    panel.whisker(cell.tokens, cell.low or np.nan, cell.high)
                    if cell.bound == "":
                        panel.marker(name, cell.tokens, cell.value, number.tip, radius=3.4)
                if size not in ends:  # the labels of the sizes between would collide
                    continue
                last = line.iloc[-1]
                panel.text(
                    panel.px(last["tokens"]) - 4, panel.py(last["value"]) - 7, size, "soft end"
                )
        panels.append(panel)
    caption = f"Best {hyperparameter.replace('_', ' ')} by a fitted valley, with 95 % intervals; an"
    caption += " arrow is an end that the sweep does not bound. Lines: a law over size and budget."
    return Figure("optima", caption, table, panels)
