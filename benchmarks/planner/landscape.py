"""Synthetic races with a known answer: an instant, repeatable fake trainer.

Losses are quadratic in the logarithm of each hyper-parameter around an optimum that drifts with
size and ratio as a power law, plus interactions, plus Gaussian noise that is a pure function of the
trial. A learning rate too far above its optimum diverges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeps.plan.forecast import normal
from sweeps.plan.trial import Cell, Outcome, Trial


@dataclass(frozen=True)
class Landscape:
    """A table of all trials that could ever be asked for.

    `optimum` holds each hyper-parameter's best value at the smallest size and ratio 1, `curvature`
    the loss one octave away from it in nats (absent: flat), `drift` its exponents of size and
    ratio, `interaction` the mixed second-order term of a pair in nats per octave squared.
    """

    params: Callable[[str], float]
    optimum: Mapping[str, float]
    curvature: Mapping[str, float]
    drift: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    interaction: Mapping[tuple[str, str], float] = field(default_factory=dict)
    noise: float = 1e-3  # of each run by itself
    seed_noise: float = 0.0  # of a seed, the same for all points of a cell
    cliff: float = 3.0  # octaves of learning rate above the optimum that diverge
    reference: float = 1.0  # N at which `optimum` holds
    draw: int = 0

    def best(self, cell: Cell, name: str) -> float:
        """The optimum of one hyper-parameter in one cell."""
        by_size, by_ratio = self.drift.get(name, (0.0, 0.0))
        scale = (self.params(cell.size) / self.reference) ** by_size * cell.ratio**by_ratio
        return self.optimum[name] * scale

    def loss(self, cell: Cell, point: Mapping[str, Any]) -> float:
        """The noiseless loss, in nats; infinite where it diverges."""
        octaves = {name: math.log2(point[name] / self.best(cell, name)) for name in self.optimum}
        if octaves.get("learning_rate", 0.0) > self.cliff:
            return math.inf
        floor = 2.0 + 6.0 * (self.params(cell.size) / self.reference) ** -0.1 * cell.ratio**-0.15
        bowl = sum(c * octaves[name] ** 2 for name, c in self.curvature.items())
        mixed = sum(c * octaves[a] * octaves[b] for (a, b), c in self.interaction.items())
        return floor + bowl + mixed

    def get(self, trial: Trial) -> Outcome:
        loss = self.loss(trial.cell, dict(trial.point))
        if not math.isfinite(loss):
            return Outcome("diverged", math.inf)
        own = self.noise * normal((self.draw, trial))
        shared = self.seed_noise * normal((self.draw, (trial.cell, trial.seed)))
        return Outcome("finished", loss + own + shared)
