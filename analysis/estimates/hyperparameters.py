"""Hyper-parameters as rows of the long table: optima, laws through them, which need retuning."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.estimates.table import Rows
from analysis.fits.optima import law, optima
from analysis.fits.sensitivity import sensitivity_test
from analysis.runs.names import CELL, at, settings
from analysis.runs.study import Study
from analysis.stats.hyper_laws import from_log2
from analysis.stats.noise import Levels


class Tuning(NamedTuple):
    """The searched runs of every cell, on the seed it was searched with, and their optima."""

    runs: pd.DataFrame
    found: pd.DataFrame  # `fits.optima.optima`
    sigma: Callable  # of a race: what settings are compared with, nats


def tuning(study: Study, winners: pd.DataFrame, noise: Levels) -> Tuning:
    """What the searches of a study say about the optimum of each hyper-parameter."""
    names = settings(study.finished)
    runs = study.finished.merge(winners[[*CELL, "seed"]], on=[*CELL, "seed"])
    runs = runs[[*CELL, "loss", "non_embedding_params", *names]]
    sigma = lambda *race: noise.at(*race).residual.sd  # noqa: E731
    return Tuning(runs, optima(runs, sigma), sigma)


def put_hyperparameters(rows: Rows, tuning: Tuning) -> None:
    """Optima of every swept hyper-parameter, the laws through them, and the sensitive ones."""
    for o in tuning.found.itertuples():
        _put_optimum(rows, o)
    _put_laws(rows, tuning.found, tuning.runs)
    _put_together(rows, tuning.runs)
    for t in sensitivity_test(*tuning).itertuples():
        note = f"one value for {t.cells} cells costs {t.cost:.2g} nats; noise alone"
        note += f" {t.threshold:.2g}; p = {t.p_value:.2g}"
        where = {"note": note, "optimizer": t.optimizer}
        rows.put("sensitive", "robust", t.hyperparameter, float(t.sensitive), **where)


def _put_together(rows, runs):
    """Where learning rate and batch size were searched, but not together: a ridge stays unseen."""
    pair = ["hp_learning_rate", "hp_batch_size"]
    if not set(pair) <= set(runs):
        return
    both = seen = 0
    for _, cell in runs.groupby(CELL):
        rest = [cell[name].astype(str) for name in settings(runs) if name not in pair]
        groups = [
            group[pair].drop_duplicates() for _, group in cell.groupby(rest or [0] * len(cell))
        ]
        both += bool((cell[pair].nunique() > 1).all())
        # a star around a centre has no two runs that differ in both
        seen += any(len(group) >= sum(group.nunique()) > 3 for group in groups)
    if both > seen:
        note = (
            f"in {both - seen} of {both} cells no run moved learning rate and batch size together:"
        )
        note += " each optimum is for the other as it was, and no joint optimum is stated"
        rows.put("input", "optimum", "no_joint_optimum", both - seen, note=note)


def _put_optimum(rows, o):
    """An optimum with its interval, or the bound that its sweep gives, if any."""
    words = [f"best of the grid {o.best:.6g}"]
    words += [f"at the {o.edge} edge of its grid"] if o.edge else []
    words += [f"sweeps lie {o.misfit:.2g} times the noise off a valley"] if o.misfit > 1.5 else []
    bound = {1: "lower", -1: "upper"}.get(o.side, "")
    value = {"lower": o.low, "upper": o.high}.get(bound, o.value)
    ends = (o.low if np.isfinite(o.x_low) else None, o.high if np.isfinite(o.x_high) else None)
    rows.put("optimum", "robust", o.hyperparameter, value, *ends, "; ".join(words), bound, **at(o))
    for part in ("curvature", "skew", "bottom"):  # of the fitted valley, where it is bracketed
        rows.put("valley", part, o.hyperparameter, getattr(o, part), **at(o))
    note = f"expected excess of {o.best:.6g}, nats"
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
