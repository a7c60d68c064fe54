"""Figures of a fitted loss law: fit, residuals and bands; IsoFLOP curves and the best sizes."""

import numpy as np
import pandas as pd

from analysis.pages.looks import HUES
from analysis.pages.svg import Figure, Panel, Scale

COLOURS = [hue for hue in HUES if hue != "ink"]


def law_fit(predicted: pd.DataFrame) -> Figure:
    """Measured against predicted loss with the bootstrap's band, and residuals along each x.

    Args:
      predicted: `analysis.laws.fit_table`'s: procedure, x columns, loss, prediction, low, high.
    """
    names = [c for c in predicted if c not in ("procedure", "loss", "prediction", "low", "high")]
    both = Scale([*predicted.loss, *predicted.prediction])
    ends = [predicted.loss.min(), predicted.loss.max()]
    words = {"x_title": "predicted loss (95 % band)", "y_title": "loss (nats)"}
    panels = [Panel("fit", both, both, **words)]
    panels[0].line(ends, ends)
    rest = Scale([0.0, *(predicted.loss - predicted.prediction)])
    for name in names:
        words = {"x_title": name, "y_title": "loss − predicted (nats)"}
        panels.append(Panel(f"residuals by {name}", _axis(predicted[name]), rest, **words))
        panels[-1].horizontal(0)
    keys = []
    for hue, (label, fit) in zip(COLOURS, predicted.groupby("procedure"), strict=False):
        keys.append(f"{hue}: {label}")
        for panel in panels:
            with panel.coloured(hue):
                for row in fit.to_dict("records"):
                    off = row["loss"] - row["prediction"]
                    if panel is panels[0]:
                        panel.whisker(row["loss"], row["low"], row["high"], across=True)
                        panel.dot(row["prediction"], row["loss"], f"{label}: {off:+.4f}")
                    else:
                        panel.dot(row[names[panels.index(panel) - 1]], off, f"{label}: {off:+.4f}")
    return Figure("law_fit", f"The law against the losses. {'; '.join(keys)}.", predicted, panels)


def _axis(values) -> Scale:
    return Scale(values, log=bool((np.asarray(values) > 0).all()))


def isoflop(numbers: pd.DataFrame, predicted: pd.DataFrame) -> Figure:
    """Losses of each budget against model size, and the best sizes against the budget.

    Args:
      numbers, predicted: of `analysis.laws.fit_table`.
    """
    bottoms = numbers[numbers.table == "isoflop"].reset_index(drop=True)
    flops = bottoms.quantity.str.extract(r"at (\S+) FLOPs")[0].astype(float)
    runs = predicted[predicted.procedure == predicted.procedure.iloc[0]]
    spent = np.log(6 * runs.params * runs.tokens)
    asked = numbers[
        (numbers.table == "compute_optimal") & numbers.quantity.str.startswith("params")
    ]
    asked = asked.assign(flops=asked.quantity.str.extract(r"at (\S+) FLOPs")[0].astype(float))
    words = {"x_title": "parameters", "y_title": "loss (nats)"}
    curves = Panel("IsoFLOP curves", _axis(runs.params), Scale(runs.loss), **words)
    words = {"x_title": "FLOPs (6 N D)", "y_title": "parameters"}
    sizes = [*bottoms.value, *asked.value]
    best = Panel("best size", _axis([*flops, *asked.flops]), _axis(sizes), **words)
    for i, (row, budget) in enumerate(zip(bottoms.itertuples(), flops, strict=True)):
        hue = COLOURS[i % len(COLOURS)]
        at = runs[np.abs(spent - np.log(budget)) < 0.04].sort_values("params")
        with curves.coloured(hue):
            curves.line(at.params, at.loss)
            for run in at.itertuples():
                curves.dot(run.params, run.loss, f"{budget:.3g} FLOPs: {run.loss:.4f}")
        with best.coloured(hue):
            ends = (row.low, row.high)
            ends = {"lower": (row.value, np.inf), "upper": (-np.inf, row.value)}.get(
                row.bound, ends
            )
            best.whisker(budget, *ends)
            best.dot(budget, row.value, f"{budget:.3g} FLOPs: {row.value:.4g} parameters")
    keys = []
    for hue, (label, line) in zip(COLOURS, asked.groupby("procedure"), strict=False):
        line = line.sort_values("flops")
        keys.append(f"{hue}: {label}")
        with best.coloured(hue):
            known = line[np.isfinite(line.low) & np.isfinite(line.high)]
            best.band(known.flops, known.low, known.high)
            best.line(line.flops, line.value)
    caption = f"Losses at equal FLOPs, and the best size. Laws: {'; '.join(keys) or 'none'}."
    return Figure("isoflop", caption, bottoms, [curves, best])
