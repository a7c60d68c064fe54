"""Every figure of a study: a function from a table to a matplotlib Figure, usable in a notebook.

Each figure carries the hash of its input table in the corner and in the file's metadata;
`style.save` writes it as SVG and PNG. A table with nothing to draw raises ValueError.
"""

from analysis.pages.figures.costs import downstream, noise, pareto, tuning_cost
from analysis.pages.figures.curves import early_stop, lead_over_training, norms, training_curves
from analysis.pages.figures.losses import (
    loss_against_ratio,
    matrix_against_scalar,
    speedup_across_studies,
    speedup_against_ratio,
    speedup_against_size,
)
from analysis.pages.figures.tuning import (
    deviation_histogram,
    learning_rate,
    optima_against_scale,
    sensitivity,
    weight_decay,
)

__all__ = [
    "deviation_histogram",
    "downstream",
    "early_stop",
    "lead_over_training",
    "learning_rate",
    "loss_against_ratio",
    "matrix_against_scalar",
    "noise",
    "norms",
    "optima_against_scale",
    "pareto",
    "sensitivity",
    "speedup_across_studies",
    "speedup_against_ratio",
    "speedup_against_size",
    "training_curves",
    "tuning_cost",
    "weight_decay",
]
