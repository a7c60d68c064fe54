"""Hyper-parameters as rows of the long table: optima, laws through them, which need retuning."""

import numpy as np
import pandas as pd

from analysis.estimates.table import Rows
from analysis.fits.optima import law, optima
from analysis.fits.sensitivity import sensitivity_test
from analysis.runs.names import CELL, at, settings
from analysis.runs.study import Study
from analysis.stats.hyper_laws import from_log2
from analysis.stats.noise import Levels


def put_hyperparameters(rows: Rows, study: Study, winners: pd.DataFrame, noise: Levels) -> None:
    """Optima of every swept hyper-parameter, the laws through them, and the sensitive ones."""
    names = settings(study.finished)
    if not names:
        return
    # points are compared on the seed that the cell was searched with
    searched = study.finished.merge(winners[[*CELL, "seed"]], on=[*CELL, "seed"])
    searched = searched[[*CELL, "loss", "non_embedding_params", *names]]
    found = optima(searched, noise.residual.sd)
    for o in found.itertuples():
        _put_optimum(rows, o)
    _put_laws(rows, found, searched)
    for t in sensitivity_test(searched, noise.residual.sd, found).itertuples():
        note = f"one value for {t.cells} cells costs {t.cost:.2g} nats; noise alone"
        note += f" {t.threshold:.2g}; p = {t.p_value:.2g}"
        where = {"note": note, "optimizer": t.optimizer}
        rows.put("sensitive", "robust", t.hyperparameter, float(t.sensitive), **where)


def _put_optimum(rows, o):
    """An optimum with its interval, or the bound that its sweep gives, if any."""
    words = [f"best of the grid {o.best:.6g}"]
    words += [f"at the {o.edge} edge of its grid"] if o.edge else []
    words += [f"regret {o.regret:.1g} nats"] if np.isfinite(o.regret) else []
    words += [f"sweeps lie {o.misfit:.2g} times the noise off a valley"] if o.misfit > 1.5 else []
    bound = {1: "lower", -1: "upper"}.get(o.side, "")
    value = {"lower": o.low, "upper": o.high}.get(bound, o.value)
    ends = (o.low if np.isfinite(o.x_low) else None, o.high if np.isfinite(o.x_high) else None)
    rows.put("optimum", "robust", o.hyperparameter, value, *ends, "; ".join(words), bound, **at(o))
    for part in ("curvature", "skew", "bottom"):  # of the fitted valley, where it is bracketed
        rows.put("valley", part, o.hyperparameter, getattr(o, part), **at(o))


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
