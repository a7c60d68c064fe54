"""Every picture of a study: a function from a `View` to a `svg.Figure`, usable in a notebook.

A study with nothing to draw raises ValueError. `optimizers` draws only those.
"""

from analysis.pages.figures.answer import forest, noise, tornado
from analysis.pages.figures.costs import best_so_far, downstream, pareto, profile, tuning_cost
from analysis.pages.figures.curves import early_stop, lead, norms, training
from analysis.pages.figures.losses import losses, losses_by_size, speedups, speedups_by_size
from analysis.pages.figures.tuning import optima, transfer, valleys

__all__ = [
    "best_so_far",
    "downstream",
    "early_stop",
    "forest",
    "lead",
    "losses",
    "losses_by_size",
    "noise",
    "norms",
    "optima",
    "pareto",
    "profile",
    "speedups",
    "speedups_by_size",
    "tornado",
    "training",
    "transfer",
    "tuning_cost",
    "valleys",
]
