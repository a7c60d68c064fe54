"""What a study will probably take: its own planner, played against typical losses."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Mapping
from typing import Any

from scipy import special

from sweeps.plan.phases import plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial

# Rise of the loss one octave from an optimum, in nats: the median of arXiv 2509.02046's own cells.
CURVATURE, OF_THE_REST = {"learning_rate": 0.012, "weight_decay": 0.008}, 0.003
OFF = 0.7  # standard deviation of an optimum around its start, in octaves
NOISE = 2e-3  # of a run's residual


def forecast(
    study: Study, outcomes: Mapping[Trial, Outcome], failed: Container[Trial] = ()
) -> list[Trial]:
    """The trials that are still to come if losses are typical; what is known is taken as it is.

    Args:
      failed: trials that are not tried again; what waits for them does not come.
    """
    results, made_up, state = dict(outcomes), [], None
    while True:
        state = plan(study, results, state)
        pending = [trial for trial in state.pending if trial not in failed]
        if not pending:
            return made_up
        made_up += pending
        results |= {trial: _typical(study, trial) for trial in pending}


def _typical(study: Study, trial: Trial) -> Outcome:
    start = study.start(trial.cell)
    known = ((name, value) for name, value in trial.point if name in start)
    rises = (_rise(trial.cell, name, value, start[name]) for name, value in known)
    return Outcome("finished", 3.0 + math.fsum(rises) + NOISE * normal(trial))


def _rise(cell: Cell, name: str, value: Any, start: Any) -> float:
    """What a value costs above the best; what has no octaves is flat."""
    numbers = all(isinstance(v, (int, float)) and v > 0 for v in (value, start))
    if not numbers or isinstance(value, bool):
        return 0.0
    octaves = math.log2(value / start) - OFF * normal((cell.optimizer, cell.size, name))
    return CURVATURE.get(name, OF_THE_REST) * octaves**2


def normal(of: Any) -> float:
    """A standard normal number that depends on nothing but its argument."""
    digest = hashlib.blake2b(repr(of).encode(), digest_size=8).digest()
    return float(special.ndtri((int.from_bytes(digest, "big") + 0.5) / 2**64))
