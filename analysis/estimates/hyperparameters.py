"""Hyper-parameters as rows of the long table: optima, laws through them, which need retuning."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.estimates.table import Rows
from analysis.fits.optima import law, optima, told_by_sweeps
from analysis.fits.sensitivity import sensitivity_test
from analysis.runs.names import CELL, at, settings
from analysis.runs.study import Study
from analysis.stats.hyper_laws import PAIR, from_log2
from analysis.stats.noise import Levels


class Tuning(NamedTuple):
    """The searched runs of every cell, on the seed it was searched with, and their optima."""

    runs: pd.DataFrame
    found: pd.DataFrame  # `fits.optima.optima`
    sigma: Callable  # of a race: what settings are compared with, nats


def tuning(study: Study, winners: pd.DataFrame, noise: Levels) -> tuple[Tuning, Levels]:
    """What the searches of a study say about the optimum of each hyper-parameter, and the noise."""
    names = settings(study.finished)
    runs = study.finished.merge(winners[[*CELL, "seed"]], on=[*CELL, "seed"])
    runs = runs[[*CELL, "loss", "non_embedding_params", *names]]
    noise = told_by_sweeps(noise, runs)
    sigma = lambda *race: noise.at(*race).residual.sd  # noqa: E731
    return Tuning(runs, optima(runs, sigma, winners), sigma), noise


def put_hyperparameters(rows: Rows, tuning: Tuning) -> None:
    """Optima of every swept hyper-parameter, the laws through them, and the sensitive ones."""
    for o in tuning.found.itertuples():
        _put_optimum(rows, o)
    _put_laws(rows, tuning.found, tuning.runs)
    _put_together(rows, tuning)
    for t in sensitivity_test(*tuning).itertuples():
        note = f"one value for {t.cells} cells costs {t.cost:.2g} nats; noise alone"
        note += f" {t.threshold:.2g}; p = {t.p_value:.2g}"
        where = {"note": note, "optimizer": t.optimizer}
        rows.put("sensitive", "robust", t.hyperparameter, float(t.sensitive), **where)


def _put_together(rows, tuning):
    """Where learning rate and batch size were searched, but not together: a ridge stays unseen."""
    pair = [f"hp_{name}" for name in PAIR]
    if not set(pair) <= set(tuning.runs):
        return
    both = int((tuning.runs.groupby(CELL)[pair].nunique() > 1).all(axis=1).sum())
    unseen = both - int(tuning.found.slope.notna().sum())
    if unseen:
        note = (
            f"in {unseen} of {both} cells too few runs moved learning rate and batch size together:"
        )
        note += " each optimum is for the other as it was, and no joint optimum is stated"
        rows.put("input", "optimum", "no_joint_optimum", unseen, note=note)


def _put_optimum(rows, o):
    """An optimum with its interval, or the bound that its sweep gives, if any."""
    words = [f"best of the grid {o.best:.6g}"]
    words += [f"at the {o.edge} edge of its grid"] if o.edge else []
    words += [f"sweeps lie {o.misfit:.2g} times the noise off a valley"] if o.misfit > 1.5 else []
    bound = {1: "lower", -1: "upper"}.get(o.side, "")
    value = {"lower": o.low, "upper": o.high}.get(bound, o.value)
    ends = (o.low if np.isfinite(o.x_low) else None, o.high if np.isfinite(o.x_high) else None)
    rows.put("optimum", "robust", o.hyperparameter, value, *ends, "; ".join(words), bound, **at(o))
    if isinstance(o.slope, tuple):
        note = "power of the batch size by which the best learning rate grows"
        rows.put("ridge", "robust", "slope", *o.slope, note, **at(o))
    for part in ("curvature", "skew", "bottom"):  # of the fitted valley, where it is bracketed
        rows.put("valley", part, o.hyperparameter, getattr(o, part), **at(o))
    note = f"expected excess of {o.chosen:.6g}, nats"
    rows.put("regret", "robust", o.hyperparameter, o.regret, 0.0, o.regret_high, note, **at(o))


def _put_laws(rows, found, runs):
    """What the law through an optimizer's optima says in each of its cells."""
    params = runs.groupby("model_size").non_embedding_params.first()
    for (_, name), cells in found.groupby(["optimizer", "hyperparameter"], sort=False):
        sizes = cells.model_size.map(params)
        through = law(cells, sizes)
        note = f"{len(cells)} cells, {(cells.side == 0).sum()} of them bracketed"
        for cell, size in zip(cells.itertuples(), sizes, strict=True) if through else ():
            x, variance = through.predict(size, cell.chinchilla_ratio)
            half = through.half_width(variance)
            ends = from_log2(name, np.array([x, x - half, x + half]))
            rows.put("optimum", "law", name, *ends, note, **at(cell))
