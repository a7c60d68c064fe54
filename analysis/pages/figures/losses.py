"""Losses and speed-ups against budget and size."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.fits.loss_laws import DataLaw
from analysis.pages import style
from analysis.pages.figures.panels import (
    log_axis,
    panels,
    ratio_axis,
    shared_legend,
    size_axis,
    size_title,
)
from analysis.runs.names import BASELINE, RACE, label, ordered, size_order


@style.styled
def loss_against_ratio(
    cells: pd.DataFrame, laws: dict[str, DataLaw] | None = None, *, baseline: str = BASELINE
) -> Figure:
    """Best loss of every optimizer against the Chinchilla ratio, one panel per size.

    Args:
      cells: optimizer, model_size, chinchilla_ratio, loss.
      laws: the baseline's data law of each size where one could be fitted; drawn over its range.
    """
    fig, axes = panels(cells, size_order(cells))
    for size, axis in axes.items():
        at_size = cells[cells["model_size"] == size]
        for optimizer in ordered(at_size["optimizer"]):
            runs = at_size[at_size["optimizer"] == optimizer].sort_values("chinchilla_ratio")
            axis.plot(runs["chinchilla_ratio"], runs["loss"], **style.of(optimizer))
        if laws and size in laws:
            ratios = np.geomspace(*at_size["chinchilla_ratio"].agg(["min", "max"]), 50)
            law = {"color": "black", "label": f"{label(baseline)}'s law", "linestyle": (0, (1, 1))}
            axis.plot(ratios, laws[size].loss(ratios), **law | {"linewidth": 3, "alpha": 0.35})
        ratio_axis(axis, at_size["chinchilla_ratio"])
        axis.set_title(size_title(at_size))
    first = next(iter(axes.values()))
    first.set_ylabel("validation loss (nats per token)")
    shared_legend(fig, axes.values())
    return fig


@style.styled
def speedup_against_ratio(speedups: pd.DataFrame, *, baseline: str = BASELINE) -> Figure:
    """Speed-up over the baseline in tokens against the ratio, one panel per size.

    Lines with bands: the joint model. Points with bars: each cell by its size's own curve; an arrow
    is a lower bound. Dashes: the published formula.

    Args:
      speedups: see `View.speedups`.
    """
    others = speedups[speedups["optimizer"] != baseline]
    fig, axes = panels(others, size_order(speedups), source=speedups)
    for size, axis in axes.items():
        at_size = others[others["model_size"] == size]
        _speedup_lines(axis, at_size, "chinchilla_ratio")
        ratio_axis(axis, at_size["chinchilla_ratio"])
        axis.set_title(size_title(at_size))
    _speedup_label(axes, baseline)
    shared_legend(fig, axes.values())
    return fig


@style.styled
def speedup_against_size(speedups: pd.DataFrame, *, baseline: str = BASELINE) -> Figure:
    """Speed-up over the baseline in tokens against non-embedding parameters, one panel per ratio.

    As `speedup_against_ratio`, with the sizes side by side: does the advantage shrink with scale?
    """
    others = speedups[speedups["optimizer"] != baseline]
    ratios = sorted(others["chinchilla_ratio"].unique())
    fig, axes = panels(others, ratios, source=speedups, title="ratio {:g}")
    for ratio, axis in axes.items():
        _speedup_lines(axis, others[others["chinchilla_ratio"] == ratio], "non_embedding_params")
        size_axis(axis, others)
    _speedup_label(axes, baseline)
    shared_legend(fig, axes.values())
    return fig


@style.styled
def speedup_across_studies(
    mine: pd.DataFrame, theirs: pd.DataFrame, *, baseline: str = BASELINE
) -> Figure:
    """Speed-up against model size in two studies, one panel per ratio of the first one.

    Args:
      mine, theirs: see `View.speedups`; optimizers in both are drawn.
    """
    both = pd.concat([mine.assign(study=0), theirs.assign(study=1)], ignore_index=True)
    shared = (set(mine["optimizer"]) & set(theirs["optimizer"])) - {baseline}
    drawn = both[both["optimizer"].isin(shared) & _known(both)]
    ratios = sorted(set(drawn.loc[drawn["study"] == 0, "chinchilla_ratio"]))
    fig, axes = panels(drawn, ratios, source=both, title="ratio {:g}")
    for ratio, axis in axes.items():
        axis.axhline(1.0, color="black", linewidth=1.0)
        for (optimizer, _), line in drawn[drawn["chinchilla_ratio"] == ratio].groupby(
            ["optimizer", "study"]
        ):
            line, look = line.sort_values("non_embedding_params"), style.of(optimizer)
            x = line["non_embedding_params"]
            axis.fill_between(
                x,
                line["joint_low"],
                line["joint_high"],
                color=look["color"],
                alpha=0.12,
                linewidth=0,
            )
            axis.plot(x, line["joint"], **look)
        log_axis(axis)
        axis.set_xlabel("non-embedding parameters")
    _speedup_label(axes, baseline)
    shared_legend(fig, axes.values())
    return fig


def _speedup_label(axes, baseline):
    words = f"speed-up over {label(baseline)}\n(tokens for the same loss)"
    next(iter(axes.values())).set_ylabel(words)


def _known(table):
    """Cells of which the joint model gives more than a bound."""
    return table["joint"].notna() & (table["joint_bound"] == "")


def _speedup_lines(axis, table, x):
    axis.axhline(1.0, color="black", linewidth=1.0)
    names = ordered(table["optimizer"])
    seen = table[["published", "robust", "joint", "joint_low", "joint_high"]]
    seen = seen.where(np.isfinite(seen))
    bottom, top = min(seen.min().min(), 1.0), max(seen.max().max(), 1.0)
    for number, optimizer in enumerate(names):
        look = style.of(optimizer)
        colour = look["color"]
        line = table[table["optimizer"] == optimizer].sort_values(x)
        joint = line[_known(line)]
        axis.fill_between(
            joint[x], joint["joint_low"], joint["joint_high"], color=colour, alpha=0.13, linewidth=0
        )
        axis.plot(
            joint[x], joint["joint"], color=colour, linestyle=look["linestyle"], linewidth=1.2
        )
        # points of neighbours side by side instead of on top of each other
        line = line.assign(x=line[x] * 2 ** (0.09 * (number - (len(names) - 1) / 2)))
        axis.scatter(line["x"], line["published"], marker="_", color=colour, s=45, linewidth=1.3)
        _robust_points(axis, line.dropna(subset=["robust"]), look)
        axis.plot([], [], **look)  # the legend shows line and marker together
    axis.set_ylim(bottom - 0.1 * (top - bottom) - 0.01, top + 0.1 * (top - bottom) + 0.01)


def _robust_points(axis, line, look):
    colour, bounded = look["color"], line["robust_bound"] == ""
    marker = {key: look[key] for key in ("marker", "markerfacecolor", "markeredgecolor")}
    axis.plot(line["x"], line["robust"], linestyle="none", color=colour, **marker)
    known = line[bounded]
    ends = known[["robust_low", "robust_high"]].clip(0, 10)  # bars may leave the panel
    axis.vlines(
        known["x"], ends["robust_low"], ends["robust_high"], color=colour, linewidth=2, alpha=0.45
    )
    for row in line[line["robust_bound"] == "lower"].itertuples():
        axis.annotate(
            "", (row.x, row.robust), (0, 17), textcoords="offset points",
            arrowprops={"arrowstyle": "<-", "color": colour, "linewidth": 1.4, "shrinkB": 0},
        )  # fmt: skip


@style.styled
def matrix_against_scalar(cells: pd.DataFrame, *, baseline: str = BASELINE) -> Figure:
    """How far the best matrix and scalar methods lie below the baseline, nats per token.

    Args:
      cells: CELL, loss. Cells without the baseline, or with one family only, are left out.
    """
    gaps = family_gaps(cells, baseline)
    fig, axes = panels(gaps, size_order(gaps), source=cells)
    looks = {
        "matrix": ("#d55e00", "D", "-", "best matrix method"),
        "scalar": ("#56b4e9", "s", "--", "best scalar method"),
    }
    for size, axis in axes.items():
        at_size = gaps[gaps["model_size"] == size]
        axis.axhline(0.0, color="black", linewidth=1.0)
        for family, (colour, marker, line, name) in looks.items():
            part = at_size[at_size["family"] == family].sort_values("chinchilla_ratio")
            look = {"marker": marker, "color": colour, "label": name}
            axis.plot(part["chinchilla_ratio"], part["gain"], line, **look)
            for run in part.itertuples():
                axis.annotate(
                    label(run.optimizer),
                    (run.chinchilla_ratio, run.gain),
                    xytext=(0, 5),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                    color=colour,
                )
        ratio_axis(axis, at_size["chinchilla_ratio"])
        axis.set_title(size_title(at_size))
        axis.margins(x=0.15, y=0.15)
    next(iter(axes.values())).set_ylabel(f"loss below {label(baseline)} (nats per token)")
    shared_legend(fig, axes.values())
    return fig


def family_gaps(cells: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Gain over the baseline (nats) of the best matrix and scalar method of each race."""
    rows = []
    for (size, ratio), race in cells.groupby(RACE, sort=False):
        losses = race.set_index("optimizer")["loss"]
        if baseline not in losses:
            continue
        for family in ("matrix", "scalar"):
            others = [n for n in losses.index if n != baseline]
            members = [n for n in others if (n in style.MATRIX) == (family == "matrix")]
            if members:
                best = losses[members].idxmin()
                rows.append((size, ratio, family, best, losses[baseline] - losses[best]))
    columns = ["model_size", "chinchilla_ratio", "family", "optimizer", "gain"]
    gaps = pd.DataFrame(rows, columns=columns)
    if "non_embedding_params" in cells:
        params = cells.groupby("model_size")["non_embedding_params"].first()
        gaps["non_embedding_params"] = gaps["model_size"].map(params)
    return gaps
