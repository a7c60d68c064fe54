"""What each hyper-parameter does: one-dimensional curves around the tuned centre."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.pages import style
from analysis.pages.figures.panels import log_axis, panels, shared_legend
from analysis.runs.curves import COSTLY
from analysis.runs.names import BASELINE, RACE, label, ordered, size_order
from analysis.stats.hyper_laws import MEMORY

# Hyper-parameters whose grids are geometric; all others are drawn on a linear axis.
LOGARITHMIC = (
    *("learning_rate", "batch_size", "warmup", "block_size", "gamma", "update_prob_flat_start"),
    *("epsilon", "muon_epsilon", "scion_epsilon"),
)


@style.styled
def sensitivity(deviations: pd.DataFrame, *, limit: float = 0.1) -> Figure:
    """Loss above the centre's against each swept hyper-parameter, one panel each.

    Args:
      deviations: rows of one (size, ratio), see `runs.winners.deviations`.
      limit: losses further above the centre are drawn at this height (nats) with an arrow; diverged
        runs as a cross on the same line.
    """
    names = _by_spread(deviations)
    fig, axes = panels(deviations, names, per_row=4 if len(names) > 6 else 3)
    for name, axis in axes.items():
        swept = deviations[deviations["hyperparameter"] == name]
        positions = positions_of(name, swept["value"])
        cap = min(limit, max(1.15 * swept["delta"].max(), 4 * COSTLY))
        for number, optimizer in enumerate(ordered(swept["optimizer"])):
            line = swept[swept["optimizer"] == optimizer]
            _deviation_line(axis, line, optimizer, positions, cap, number)
        _value_axis(axis, positions, name)
        axis.axhline(0.0, color="black", linewidth=0.8)
        axis.set_ylim(top=cap * 1.08)
    for axis in axes.values():
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("loss above the centre (nats)")
    shared_legend(fig, axes.values())
    return fig


def _deviation_line(axis, line, optimizer, positions, cap, number):
    """The best run at each value; what lies above the panel is stacked along its upper edge."""
    line = line.assign(x=line["value"].map(positions)).sort_values(["x", "delta"])
    line = line.drop_duplicates("x")
    look, edge = style.of(optimizer), cap * (1 - 0.03 * number)
    finished = line[line["delta"].notna()]
    axis.plot(finished["x"], finished["delta"].where(finished["delta"] <= cap), **look)
    colour = {"color": look["color"], "zorder": 3}
    beyond = finished[finished["delta"] > cap]
    axis.scatter(beyond["x"], [edge] * len(beyond), marker="^", s=40, **colour)
    diverged = line[line["status"] == "diverged"]
    axis.scatter(diverged["x"], [edge] * len(diverged), marker="x", s=35, **colour)


def _by_spread(deviations):
    """Hyper-parameters from the most to the least sensitive (largest median deviation)."""
    spread = deviations.groupby("hyperparameter")["delta"].agg(lambda d: d.abs().max())
    return list(spread.sort_values(ascending=False, kind="stable").index)


@style.styled
def learning_rate(deviations: pd.DataFrame, laws: dict, optimizer: str = BASELINE) -> Figure:
    """The gain from tuning one number: final loss against the learning rate of a single optimizer.

    Left, the loss of every size and ratio. Right, the share of its data each run still makes use
    of: D_eff(loss) / D by the optimizer's own law over tuned runs, so 0.5 says that tuning this one
    number is worth a factor of 2.

    Args:
      deviations: see `runs.winners.deviations`.
      laws: data law per size, fitted to this optimizer's best losses. Sizes without one appear left
      only.
    """
    swept = deviations[
        (deviations["optimizer"] == optimizer) & (deviations["hyperparameter"] == "learning_rate")
    ]
    swept = swept[swept["delta"].notna()]
    fig, axes = panels(swept, ["loss", "share"], source=deviations)
    cells = list(swept.groupby(RACE, sort=False))
    shades = np.linspace(0.15, 0.85, max(len(cells), 2))
    colours = _palette(shades)
    for ((size, ratio), line), colour in zip(cells, colours, strict=False):
        line = line.sort_values(["value", "loss"]).drop_duplicates("value")
        look = {"color": colour, "marker": "o", "label": f"{size} {ratio:g}×"}
        axes["loss"].plot(line["value"], line["loss"], **look)
        if size in laws:
            share = laws[size].data_for(line["loss"]) / laws[size].data_for(line["loss"].min())
            axes["share"].plot(line["value"], np.where(np.isfinite(share), share, np.nan), **look)
    for axis in axes.values():
        axis.set_xscale("log", base=2)
        values = sorted(swept["value"].astype(float).unique())
        axis.set_xticks(values, [f"{value:g}" for value in values], rotation=45)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("learning rate")
    axes["loss"].set_ylabel("validation loss (nats per token)")
    axes["loss"].set_title(f"{label(optimizer)}: final loss")
    axes["share"].set_title("share of the data put to use")
    axes["share"].set_ylabel("equivalent data / data of the best rate")
    axes["share"].set_ylim(0, 1.05)
    shared_legend(fig, axes.values())
    return fig


def _palette(shades):
    from matplotlib import colormaps

    return colormaps["cividis"](shades)


@style.styled
def weight_decay(deviations: pd.DataFrame, *, limit: float = 0.12) -> Figure:
    """Final loss against weight decay, one panel per (size, ratio) with three values or more.

    Panels show at most `limit` nats above the lowest loss."""
    swept = deviations[
        (deviations["hyperparameter"] == "weight_decay") & deviations["delta"].notna()
    ]
    races = [key for key, race in swept.groupby(RACE, sort=False) if race["value"].nunique() > 2]
    fig, axes = panels(swept, races, source=deviations, per_row=4)
    for (size, ratio), axis in axes.items():
        race = swept[(swept["model_size"] == size) & (swept["chinchilla_ratio"] == ratio)]
        for optimizer in ordered(race["optimizer"]):
            line = race[race["optimizer"] == optimizer].sort_values(["value", "loss"])
            line = line.drop_duplicates("value")
            if len(line) > 1:
                axis.plot(line["value"], line["loss"], **style.of(optimizer))
        bottom, top = race["loss"].min(), min(race["loss"].max(), race["loss"].min() + limit)
        axis.set_ylim(bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom))
        axis.set_title(f"{size}, {ratio:g}×")
        axis.set_xlabel("weight decay")
    for axis in axes.values():
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("validation loss (nats per token)")
    shared_legend(fig, axes.values())
    return fig


@style.styled
def deviation_histogram(deviations: pd.DataFrame, *, threshold: float = COSTLY) -> Figure:
    """How much one wrong hyper-parameter costs: the share of deviations above a loss gap.

    One line per optimizer, all cells together; diverged runs count as infinitely worse. The dashed
    line is the threshold below which the sweep takes two settings for equal.
    """
    others = deviations[deviations["value"].astype(str) != deviations["centre_value"].astype(str)]
    fig, axes = panels(others, ["all"], source=deviations, title="")
    axis = axes["all"]
    for optimizer in ordered(others["optimizer"]):
        gaps = others.loc[others["optimizer"] == optimizer]
        gaps = np.sort(np.where(gaps["status"] == "diverged", np.inf, gaps["delta"]))
        gaps = np.clip(gaps[~np.isnan(gaps)], 1e-4, None)
        share = 1 - np.arange(len(gaps)) / len(gaps)
        look = style.line(optimizer) | {"label": f"{label(optimizer)} ({len(gaps)})"}
        axis.step(gaps, share, where="post", **look)
    axis.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axis.annotate(f"{threshold:g}", (threshold, 1.01), ha="center", fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(1e-4, 1.0)
    axis.set_ylim(0, 1.08)
    axis.set_xlabel("loss above the centre (nats per token)")
    axis.set_ylabel("share of deviations at least this costly")
    shared_legend(fig, axes.values())
    return fig


@style.styled
def optima_against_scale(optima: pd.DataFrame, hyperparameter: str) -> Figure:
    """The best value of one hyper-parameter against tokens: a panel per optimizer, a shade per
    size.

    Args:
      optima: see `View.optima`; an optimizer's law is drawn as a thin line per size.
    """
    swept = optima[optima["hyperparameter"] == hyperparameter]
    sizes = size_order(swept)
    shades = dict(zip(sizes, _palette(np.linspace(0.1, 0.85, max(len(sizes), 2))), strict=False))
    fig, axes = panels(swept, ordered(swept["optimizer"]), source=optima)
    for size, shade in shades.items():  # the legend, in order of size
        next(iter(axes.values())).plot([], [], "o", color=shade, label=size)
    for optimizer, axis in axes.items():
        mine = swept[swept["optimizer"] == optimizer]
        bottom, top = mine["value"].min() / 2.5, mine["value"].max() * 2.5
        for size in size_order(mine):
            line = mine[mine["model_size"] == size].sort_values("tokens")
            look = {"color": shades[size], "marker": "o"}
            known = line[line["bound"] == ""]
            axis.plot(known["tokens"], known["value"], linestyle="none", **look)
            low, high = line["low"].fillna(bottom / 2), line["high"].fillna(top * 2)
            axis.vlines(line["tokens"], low, high, color=shades[size], linewidth=1.6, alpha=0.5)
            axis.plot(line["tokens"], line["law"], color=shades[size], linewidth=0.9)
        log_axis(axis)
        axis.set_yscale("log", base=2)
        axis.set_ylim(bottom, top)
        steps = np.arange(np.ceil(np.log2(bottom / 1e-3)), np.log2(top / 1e-3))
        axis.set_yticks(1e-3 * 2**steps, [f"{1e-3 * 2**step:.2g}" for step in steps])
        axis.yaxis.set_minor_locator(NullLocator())
        axis.set_title(label(optimizer))
        axis.set_xlabel("tokens")
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(f"best {hyperparameter.replace('_', ' ')}")
    shared_legend(fig, axes.values())
    return fig


def positions_of(name: str, values) -> dict:
    """value -> x: powers of two where the grid is geometric, memory 1/(1 - beta) for momenta, words
    by number. A zero on a logarithmic axis takes a place of its own left of the rest."""
    distinct = sorted(set(values), key=lambda v: (_number(v) is None, _number(v) or 0.0, str(v)))
    numbers = [_number(value) for value in distinct]
    if None in numbers:
        return {value: float(place) for place, value in enumerate(distinct)}
    if name in MEMORY:
        numbers = [1 / (1 - number) if number < 1 else np.inf for number in numbers]
    positive = [number for number in numbers if 0 < number < np.inf]
    if name not in (*LOGARITHMIC, *MEMORY) or not positive:
        return dict(zip(distinct, numbers, strict=True))
    logs = [np.log2(n) if 0 < n < np.inf else np.log2(min(positive)) - 1 for n in numbers]
    return dict(zip(distinct, logs, strict=True))


def _number(value) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _value_axis(axis, positions, name):
    """A tick at every value, thinned where labels would collide."""
    spots = sorted((x, _number(value), value) for value, x in positions.items())
    room, kept = (spots[-1][0] - spots[0][0]) / 9 if len(spots) > 1 else 0, []
    for x, number, value in spots:
        if not kept or x - kept[-1][0] >= room:
            kept.append((x, f"{number:g}" if number is not None else str(value)))
    axis.set_xticks(*zip(*kept, strict=True), rotation=45 if len(kept) > 5 else 0)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_title(name.replace("_", " "))
