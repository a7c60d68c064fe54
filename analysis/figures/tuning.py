"""What each hyper-parameter does: one-dimensional curves around the tuned centre."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from analysis import style
from analysis.figures.panels import log_axis, panels, shared_legend, size_title

# Hyper-parameters whose grids are geometric; all others are drawn on a linear axis.
LOGARITHMIC = (
    *("learning_rate", "batch_size", "warmup", "block_size", "gamma", "update_prob_flat_start"),
    *("epsilon", "muon_epsilon", "scion_epsilon"),
)
THRESHOLD = 3e-3  # nats: settings closer than this are equal in the study's sweep


@style.styled
def sensitivity(deviations: pd.DataFrame, *, limit: float = 0.1) -> Figure:
    """Loss above the centre's against each swept hyper-parameter, one panel each.

    Args:
      deviations: rows of one (size, ratio), see `tables.deviations`.
      limit: losses further above the centre are drawn at this height (nats) with an arrow; diverged
        runs as a cross on the same line.
    """
    names = _by_spread(deviations)
    fig, axes = panels(deviations, names, per_row=3)
    for name, axis in axes.items():
        swept = deviations[deviations["hyperparameter"] == name]
        positions = positions_of(swept["value"], logarithmic=name in LOGARITHMIC)
        cap = min(limit, max(1.15 * swept["delta"].max(), 4 * THRESHOLD))
        for optimizer in style.ordered(swept["optimizer"]):
            line = swept[swept["optimizer"] == optimizer]
            _deviation_line(axis, line, optimizer, positions, cap)
        _value_axis(axis, positions, name)
        axis.axhline(0.0, color="black", linewidth=0.8)
        axis.set_ylim(top=cap * 1.08)
    for axis in list(axes.values())[::3]:
        axis.set_ylabel("loss above the centre (nats)")
    shared_legend(fig, axes.values())
    return fig


def _deviation_line(axis, line, optimizer, positions, limit):
    line = line.assign(x=line["value"].map(positions)).sort_values("x")
    look = style.of(optimizer)
    finished = line[line["delta"].notna()]
    axis.plot(finished["x"], finished["delta"].clip(upper=limit), **look)
    beyond = finished[finished["delta"] > limit]
    axis.scatter(
        beyond["x"], [limit] * len(beyond), marker="^", color=look["color"], s=60, zorder=3
    )
    diverged = line[line["status"] == "diverged"]
    axis.scatter(
        diverged["x"], [limit] * len(diverged), marker="x", color=look["color"], s=45, zorder=3
    )


def _by_spread(deviations):
    """Hyper-parameters from the most to the least sensitive (largest median deviation)."""
    spread = deviations.groupby("hyperparameter")["delta"].agg(lambda d: d.abs().max())
    return list(spread.sort_values(ascending=False, kind="stable").index)


@style.styled
def learning_rate(deviations: pd.DataFrame, laws: dict, optimizer: str = "adamw") -> Figure:
    """The gain from tuning one number: final loss against the learning rate of a single optimizer.

    Left, the loss of every size and ratio. Right, the share of its data each run still makes use
    of: D_eff(loss) / D by the optimizer's own law over tuned runs, so 0.5 says that tuning this one
    number is worth a factor of 2.

    Args:
      deviations: see `tables.deviations`.
      laws: data law per size, fitted to this optimizer's best losses. Sizes without one appear left
      only.
    """
    swept = deviations[
        (deviations["optimizer"] == optimizer) & (deviations["hyperparameter"] == "learning_rate")
    ]
    swept = swept[swept["delta"].notna()]
    fig, axes = panels(swept, ["loss", "share"], source=deviations)
    cells = list(swept.groupby(["model_size", "chinchilla_ratio"], sort=False))
    shades = np.linspace(0.15, 0.85, max(len(cells), 2))
    colours = _palette(shades)
    for ((size, ratio), line), colour in zip(cells, colours, strict=False):
        line = line.sort_values("value")
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
    axes["loss"].set_title(f"{style.label(optimizer)}: final loss")
    axes["share"].set_title("share of the data put to use")
    axes["share"].set_ylabel("equivalent data / data of the best rate")
    axes["share"].set_ylim(0, 1.05)
    shared_legend(fig, axes.values())
    return fig


def _palette(shades):
    from matplotlib import colormaps

    return colormaps["cividis"](shades)


@style.styled
def weight_decay(deviations: pd.DataFrame) -> Figure:
    """Final loss against weight decay, one panel per (size, ratio), one line per optimizer."""
    swept = deviations[
        (deviations["hyperparameter"] == "weight_decay") & deviations["delta"].notna()
    ]
    races = [
        key
        for key, race in swept.groupby(["model_size", "chinchilla_ratio"], sort=False)
        if race["value"].nunique() > 1
    ]
    fig, axes = panels(swept, races, source=deviations, per_row=3)
    for (size, ratio), axis in axes.items():
        race = swept[(swept["model_size"] == size) & (swept["chinchilla_ratio"] == ratio)]
        for optimizer in style.ordered(race["optimizer"]):
            line = race[race["optimizer"] == optimizer].sort_values("value")
            if len(line) > 1:
                axis.plot(line["value"], line["loss"], **style.of(optimizer))
        axis.set_title(f"{size}, {ratio:g}×")
        axis.set_xlabel("weight decay")
    for axis in list(axes.values())[::3]:
        axis.set_ylabel("validation loss (nats per token)")
    shared_legend(fig, axes.values())
    return fig


@style.styled
def deviation_histogram(deviations: pd.DataFrame, *, threshold: float = THRESHOLD) -> Figure:
    """How much one wrong hyper-parameter costs: the share of deviations above a loss gap.

    One line per optimizer, all cells together; diverged runs count as infinitely worse. The dashed
    line is the threshold below which the sweep takes two settings for equal.
    """
    others = deviations[deviations["value"].astype(str) != deviations["centre_value"].astype(str)]
    fig, axes = panels(others, ["all"], source=deviations, title="")
    axis = axes["all"]
    for optimizer in style.ordered(others["optimizer"]):
        gaps = others.loc[others["optimizer"] == optimizer]
        gaps = np.sort(np.where(gaps["status"] == "diverged", np.inf, gaps["delta"]))
        gaps = np.clip(gaps[~np.isnan(gaps)], 1e-4, None)
        share = 1 - np.arange(len(gaps)) / len(gaps)
        label = f"{style.label(optimizer)} ({len(gaps)})"
        axis.step(gaps, share, where="post", **style.line(optimizer) | {"label": label})
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
def optima_against_scale(
    cells: pd.DataFrame, hyperparameter: str, laws: dict | None = None
) -> Figure:
    """The tuned value of one hyper-parameter against tokens, one panel per size.

    Args:
      cells: CELL, tokens, hp_<hyperparameter>.
      laws: optional optimizer -> function(size, tokens array) -> value, drawn as a thin line.
    """
    column = f"hp_{hyperparameter}"
    known = cells[cells[column].notna()]
    known = known.assign(**{column: known[column].astype(float)})
    fig, axes = panels(known, style.size_order(known), source=cells)
    for size, axis in axes.items():
        at_size = known[known["model_size"] == size]
        for optimizer in style.ordered(at_size["optimizer"]):
            line = at_size[at_size["optimizer"] == optimizer].sort_values("tokens")
            axis.plot(line["tokens"], line[column], **style.of(optimizer))
            if laws and optimizer in laws:
                tokens = np.geomspace(line["tokens"].min(), line["tokens"].max(), 30)
                axis.plot(
                    tokens,
                    laws[optimizer](size, tokens),
                    color=style.of(optimizer)["color"],
                    linewidth=0.8,
                )
        axis.set_title(size_title(at_size))
        log_axis(axis)
        axis.set_xlabel("tokens")
        if hyperparameter in LOGARITHMIC and (known[column] > 0).all():
            axis.set_yscale("log", base=2)
            values = sorted(known[column].unique())
            axis.set_yticks(values, [f"{value:g}" for value in values])
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_ylim(values[0] / 1.3, values[-1] * 1.3)
    next(iter(axes.values())).set_ylabel(f"tuned {hyperparameter.replace('_', ' ')}")
    shared_legend(fig, axes.values())
    return fig


def positions_of(values, *, logarithmic: bool) -> dict:
    """value -> x. Numbers keep their distances (in powers where `logarithmic`); words are numbered,
    and a zero on a logarithmic axis takes a place of its own left of the rest."""
    distinct = sorted({value for value in values}, key=lambda v: (isinstance(v, str), v))
    try:
        numbers = [float(value) for value in distinct]
    except ValueError:
        return {value: float(i) for i, value in enumerate(map(str, distinct))}
    positive = [number for number in numbers if number > 0]
    if not logarithmic or not positive:
        return dict(zip(distinct, numbers, strict=True))
    zero = np.log2(min(positive)) - 1
    return {v: np.log2(n) if n > 0 else zero for v, n in zip(distinct, numbers, strict=True)}


def _value_axis(axis, positions, name):
    labels = [f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in positions]
    axis.set_xticks(list(positions.values()), labels, rotation=45 if len(labels) > 5 else 0)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_title(name.replace("_", " "))
