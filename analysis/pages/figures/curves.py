"""What happens during training: curves, crossings, early stops, norms."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.pages import style
from analysis.pages.figures.panels import log_axis, panels, plain_numbers, shared_legend
from analysis.runs.curves import validation_at
from analysis.runs.names import BASELINE, CELL, RACE, label, ordered, size_order
from analysis.runs.reader import ROLES


@style.styled
def training_curves(
    curves: pd.DataFrame, crossings: pd.DataFrame | None = None, *, zoom: float = 0.4
) -> Figure:
    """Validation loss of the winners over training, one panel per (size, ratio).

    The panel shows the range of losses from `zoom` of the run onwards, since a start at
    ln(vocabulary) would hide every difference. Where an optimizer overtakes the baseline, or falls
    behind, a ring marks it.

    Args:
      curves: CELL, tokens, fraction, validation_loss; one run per cell.
      crossings: see `runs.curves.crossings`.
    """
    evaluated = curves[curves["validation_loss"].notna()]
    races = list(evaluated.groupby(RACE, sort=False).groups)
    races.sort(key=lambda key: (size_order(evaluated).index(key[0]), key[1]))
    fig, axes = panels(evaluated, races, source=curves, per_row=4)
    for (size, ratio), axis in axes.items():
        race = evaluated[
            (evaluated["model_size"] == size) & (evaluated["chinchilla_ratio"] == ratio)
        ]
        for optimizer in ordered(race["optimizer"]):
            run = race[race["optimizer"] == optimizer].sort_values("tokens")
            axis.plot(run["tokens"], run["validation_loss"], **style.line(optimizer))
            if crossings is not None:
                _mark(axis, run, crossings, (optimizer, size, ratio))
        late = race.loc[race["fraction"] >= zoom, "validation_loss"]
        if late.max() > late.min():
            margin = 0.05 * (late.max() - late.min())
            axis.set_ylim(late.min() - margin, late.max() + margin)
            axis.set_xlim(left=0.8 * zoom * race["tokens"].max())
        axis.set_title(f"{size}, {ratio:g}×")
        axis.set_xlabel("tokens")
        plain_numbers(axis.xaxis)
    for axis in axes.values():
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("validation loss (nats per token)")
    shared_legend(fig, axes.values())
    return fig


def _mark(axis, run, crossings, cell):
    found = crossings[(crossings[CELL] == list(cell)).all(axis=1)]
    for fraction in found["fraction"]:
        nearest = (run["fraction"] - fraction).abs().idxmin()
        axis.plot(
            run.loc[nearest, "tokens"],
            run.loc[nearest, "validation_loss"],
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=style.of(cell[0])["color"],
            linestyle="none",
        )


@style.styled
def lead_over_training(
    curves: pd.DataFrame, baseline: str = BASELINE, *, limit: float = 0.06
) -> Figure:
    """Lead over the baseline at the same point of training (nats), one panel per (size, ratio).

    A line that crosses zero is a ranking that flips before the end.

    Args:
      curves: as in `training_curves`.
      limit: panels show at most this lead and lag, nats.
    """
    at = validation_at(curves, np.linspace(0.1, 1.0, 91))
    races = {}
    for key, race in at.groupby(RACE, sort=False):
        losses = race.pivot_table(index="fraction", columns="optimizer", values="loss")
        if baseline in losses and losses.shape[1] > 1:
            races[key] = losses.sub(losses[baseline], axis=0).mul(-1).drop(columns=baseline)
    order = size_order(curves)
    keys = sorted(races, key=lambda key: (order.index(key[0]), key[1]))
    fig, axes = panels(at, keys, source=curves, per_row=4)
    for (size, ratio), axis in axes.items():
        leads = races[size, ratio]
        for optimizer in ordered(leads):
            axis.plot(leads.index, leads[optimizer], **style.line(optimizer))
        axis.axhline(0.0, color=style.of(baseline)["color"], linewidth=1.2)
        late = leads[leads.index >= 0.3].to_numpy()
        low, high = min(np.nanmin(late), -0.005), max(np.nanmax(late), 0.005)
        axis.set_ylim(max(-limit, 1.1 * low), min(limit, 1.1 * high))
        axis.set_title(f"{size}, {ratio:g}×")
        axis.set_xlabel("fraction of training")
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(f"loss below {label(baseline)} (nats)")
    shared_legend(fig, axes.values())
    return fig


@style.styled
def early_stop(table: pd.DataFrame) -> Figure:
    """How often a race stopped at a fraction of training is decided wrongly, and what that costs.

    Args:
      table: see `View.early_stop`.
    """
    fig, axes = panels(table, ["errors", "regret"])
    looks = [
        ("costly", "#000000", "^", ":", "wrong by over 0.003 nats"),
        ("wrong_winner", "#d55e00", "o", "-", "wrong winner"),
        ("wrong_pairs", "#0072b2", "s", "--", "pairs in the wrong order"),
    ]
    for column, colour, marker, line, name in looks:
        look = {"marker": marker, "color": colour, "label": name}
        axes["errors"].plot(table["fraction"], table[column], line, **look)
    axes["errors"].set_ylabel("share of races or pairs")
    axes["errors"].set_ylim(-0.03, 1.03)
    axes["errors"].set_title(f"errors of an early stop ({table['races'].max()} races)")
    axes["regret"].plot(table["fraction"], table["regret"], "-D", color="black")
    axes["regret"].set_ylabel("final loss given away (nats per token)")
    axes["regret"].set_title("cost of trusting the early leader")
    for axis in axes.values():
        axis.set_xlabel("fraction of training at the stop")
    shared_legend(fig, axes.values())
    return fig


@style.styled
def norms(curves: pd.DataFrame) -> Figure:
    """Norms of the parameters and of the gradient before clipping over training, in all and per
    role where the curves have them (the study's Figure 6); one run per optimizer.
    """
    logged = curves[curves["param_norm"].notna()]
    known = logged.columns[logged.notna().all()]
    roles = [role for role in ROLES if f"param_norm{role}" in known]
    keys = [f"{what}{role}" for what in ("param_norm", "grad_norm") for role in roles]
    fig, axes = panels(logged, keys, source=curves, per_row=max(2, len(roles)))
    for column, axis in axes.items():
        what, role = column.split("_norm")
        for optimizer in ordered(logged["optimizer"]):
            run = logged[logged["optimizer"] == optimizer].sort_values("fraction")
            axis.plot(run["fraction"], run[column], **style.line(optimizer))
        name = {"param": "parameters", "grad": "gradient"}[what]
        axis.set_title(f"{name}: {ROLES[role]}")
        axis.set_xlabel("fraction of training")
        if what == "grad" and (logged[column] > 0).all():
            log_axis(axis, "y")
    for what in ("param_norm", "grad_norm"):
        axes[what].set_ylabel("Euclidean norm")
    shared_legend(fig, axes.values())
    return fig
