"""What a loss costs: time, FLOPs, memory and tuning; noise; downstream scores."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.pages import style
from analysis.pages.figures.panels import log_axis, panels, plain_numbers, shared_legend, size_title
from analysis.runs.names import RACE, label, ordered, size_order

RESOURCES = {
    "seconds": "device seconds of the run",
    "flops": "model FLOPs of the run",
    "optimizer_bytes": "optimizer state (bytes)",
}


@style.styled
def pareto(cells: pd.DataFrame, resource: str = "seconds") -> Figure:
    """Loss of the tuned runs against one resource, one panel per size, the efficient ones joined.

    Args:
      cells: CELL, loss and `resource`, one of seconds, flops, optimizer_bytes.
    """
    if resource not in RESOURCES:
        raise ValueError(f"resource: {resource!r} is none of {', '.join(RESOURCES)}")
    known = cells[cells[resource].notna()]
    fig, axes = panels(known, size_order(known), source=cells)
    for size, axis in axes.items():
        at_size = known[known["model_size"] == size]
        front = frontier(at_size, resource)
        axis.step(
            front[resource],
            front["loss"],
            where="post",
            color="#bbbbbb",
            linewidth=4,
            alpha=0.6,
            zorder=1,
            label="efficient",
        )
        for optimizer in ordered(at_size["optimizer"]):
            runs = at_size[at_size["optimizer"] == optimizer].sort_values(resource)
            axis.plot(runs[resource], runs["loss"], **style.of(optimizer))
        axis.set_title(size_title(at_size))
        log_axis(axis)
        axis.set_xlabel(RESOURCES[resource])
    next(iter(axes.values())).set_ylabel("validation loss (nats per token)")
    shared_legend(fig, axes.values())
    return fig


def frontier(cells: pd.DataFrame, resource: str) -> pd.DataFrame:
    """The runs no other run beats in both loss and resource, by growing resource."""
    cells = cells.sort_values([resource, "loss"])
    return cells[cells["loss"] < cells["loss"].cummin().shift(fill_value=float("inf"))]


@style.styled
def tuning_cost(cost: pd.DataFrame) -> Figure:
    """Trials, tokens and seconds spent on tuning each optimizer.

    Args:
      cost: see `runs.winners.cost`.
    """
    known = [name for name in ("trials", "tokens", "seconds") if cost[name].notna().any()]
    fig, axes = panels(cost, known)
    names = ordered(cost["optimizer"])
    table = cost.set_index("optimizer").loc[names[::-1]]
    colours = [style.of(name)["color"] for name in table.index]
    for column, axis in axes.items():
        axis.barh([label(name) for name in table.index], table[column], color=colours)
        axis.grid(axis="y", visible=False)
        plain_numbers(axis.xaxis)
    if "seconds" in axes:
        axes["seconds"].set_title("device seconds (without compilation)")
    return fig


@style.styled
def noise(repeats: pd.DataFrame) -> Figure:
    """Loss of runs that differ only in their seed, around the mean of their setting.

    Args:
      repeats: see `runs.repeats`.
    """
    fig, axes = panels(repeats, ["all"], title="same settings, different seeds")
    axis = axes["all"]
    means = repeats.groupby("setting")["loss"].transform("mean")
    table = repeats.assign(gap=(repeats["loss"] - means) * 1e3)
    races = list(table.groupby(RACE, sort=False).groups)
    names = ordered(table["optimizer"])
    for number, optimizer in enumerate(names):
        runs = table[table["optimizer"] == optimizer]
        keys = zip(runs["model_size"], runs["chinchilla_ratio"], strict=True)
        shift = 0.6 * (number - (len(names) - 1) / 2) / max(len(names), 1)
        x = [races.index(key) + shift for key in keys]
        axis.plot(x, runs["gap"], **style.of(optimizer) | {"linestyle": "none"})
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(races)), [f"{size}\n{ratio:g}×" for size, ratio in races])
    axis.set_ylabel("loss − mean of its seeds (1e-3 nats)")
    shared_legend(fig, axes.values())
    return fig


@style.styled
def downstream(scores: pd.DataFrame) -> Figure:
    """Average downstream accuracy against validation loss of the same run.

    Args:
      scores: optimizer, model_size, loss, average_pct.
    """
    known = scores.dropna(subset=["loss", "average_pct"])
    fig, axes = panels(known, ["all"], source=scores, title="")
    axis = axes["all"]
    for optimizer in ordered(known["optimizer"]):
        runs = known[known["optimizer"] == optimizer]
        axis.plot(runs["loss"], runs["average_pct"], **style.of(optimizer) | {"linestyle": "none"})
    axis.invert_xaxis()
    axis.set_xlabel("validation loss (nats per token; better to the right)")
    axis.set_ylabel("average accuracy of ten tasks (%)")
    shared_legend(fig, axes.values())
    return fig
