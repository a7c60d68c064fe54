"""Synthetic races with a known truth, for the whole way from a trial to a published number.

Every optimizer follows one curve, faster or slower (`analysis.fits.joint`'s form); every
hyper-parameter has an asymmetric valley around an optimum that drifts with size and ratio. A loss
is that, plus what a seed does to all optimizers of a race alike, plus what it does to this one,
plus what remains; all of it larger for small models. Trials diverge and machines fail at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fits.valley import valley
from lm.config import non_embedding_params
from sweeps.plan.forecast import normal

NAMES = ("adamw", "nadamw", "lion", "muon")
SIZES = {
    name: {**{"hidden": 16 * k, "layers": 2, "heads": k, "mlp": 64 * k}}
    | {"vocab_size": 257, "sequence_length": 128}
    for name, k in (("small", 2), ("large", 5))
}
PARAMS = {name: non_embedding_params(size) for name, size in SIZES.items()}
RATIOS = (0.5, 1, 2, 4)
START = {"learning_rate": 8e-3, "weight_decay": 0.1}
GRIDS = {"learning_rate": [2e-3, 4e-3, 8e-3, 16e-3, 32e-3], "weight_decay": [0.05, 0.1, 0.2]}
UNLUCKY, DIVERGED = 1.881, 2.326  # of a standard normal: 3 % of attempts, 1 % of trials
WOBBLE = 0.1  # octaves by which a cell's optimum lies off its law
CLIFF = 3.0  # octaves of learning rate above its optimum that diverge


def config(mode: str, names: Sequence[str]) -> dict[str, Any]:
    """A race of the quick start's shape.

    Args:
      mode: of `sweeps.plan.rules`.
      names: hyper-parameters that are searched.
    """
    entry = {
        "start": {**START, "batch_size": 8},
        "grids": {name: GRIDS[name] for name in names},
        "bounds": {name: [GRIDS[name][0] / 64, GRIDS[name][-1] * 64] for name in names},
    }
    cells = [[size, ratio] for size in SIZES for ratio in RATIOS]
    first = [cell for cell in cells if cell[1] == 1]
    return {
        **{"name": "truth", "sizes": SIZES, "ratios": list(RATIOS)},
        "phases": {"I": first, "II": [cell for cell in cells if cell[1] != 1]},
        "optimizers": dict.fromkeys(NAMES, entry),
        "rule": {"mode": mode, "max_moves": 4, "extend": ["I", "II"]},
        "seeds": list(range(6)),
    }


@dataclass(frozen=True)
class Truth:
    """What one race's numbers should be. Losses and spreads in nats."""

    draw: int
    exponent: float
    level: Mapping[str, tuple[float, float]]  # floor and amplitude by size
    log_rho: Mapping[str, tuple[float, float, float]]  # at ratio 1 and the middle size, and trends
    best: Mapping[tuple, float]  # log2 of (optimizer, name)'s optimum over the start, same place
    drift: Mapping[tuple, tuple[float, float]]  # of it per factor of two in size and ratio
    curvature: Mapping[str, float]
    asymmetry: Mapping[tuple, float]
    seconds: Mapping[str, float]  # per token, over the baseline's
    residual: float = 3e-3  # at the small size, ratio 1
    seed: float = 15e-3
    carried: float = 0.5  # share of a seed's variance that all optimizers have in common
    quieter: tuple[float, float] = (0.4, 0.2)  # powers of size and ratio by which noise falls

    def rho(self, optimizer: str, size: str, ratio: float) -> float:
        """The true speed-up over the baseline."""
        u, v, w = self.log_rho[optimizer]
        return math.exp(u + v * octaves(size) + w * math.log2(ratio))

    def decline(self, optimizer: str) -> float:
        return math.exp(self.log_rho[optimizer][1])

    def optimum(self, optimizer: str, size: str, ratio: float, name: str) -> float:
        """The best value of a hyper-parameter."""
        by_size, by_ratio = self.drift[optimizer, name]
        x = self.best[optimizer, name] + by_size * octaves(size) + by_ratio * math.log2(ratio)
        if by_size:  # what moves does not lie on its law exactly
            x += WOBBLE * normal((self.draw, ("wobble", optimizer, size, float(ratio), name)))
        return START[name] * 2**x

    def rise(self, optimizer: str, size: str, ratio: float, name: str, value: float) -> float:
        """What a value costs above the optimum."""
        x = math.log2(value / self.optimum(optimizer, size, ratio, name))
        return self.curvature[name] * float(valley(self.asymmetry[optimizer, name], x))

    def lowest(self, optimizer: str, size: str, ratio: float) -> float:
        """Expected loss at the optimum."""
        floor, amplitude = self.level[size]
        return floor + amplitude * (ratio * self.rho(optimizer, size, ratio)) ** -self.exponent

    def expected(self, optimizer: str, size: str, ratio: float, point: Mapping) -> float:
        """Expected loss of a setting."""
        rises = (self.rise(optimizer, size, ratio, name, point[name]) for name in START)
        return self.lowest(optimizer, size, ratio) + math.fsum(rises)

    def scale(self, size: str, ratio: float) -> float:
        """How much noisier than the small size at ratio 1."""
        by_size, by_ratio = self.quieter
        return (PARAMS[size] / PARAMS["small"]) ** -by_size * ratio**-by_ratio

    def spread(self, what: str, size: str, ratio: float) -> float:
        """Standard deviation of `total`, `paired` or `residual` (`analysis.stats.noise.Levels`)."""
        seed = {"residual": 0.0, "paired": 1 - self.carried, "total": 1.0}[what]
        return self.scale(size, ratio) * math.hypot(self.residual, self.seed * seed**0.5)

    def end(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """How a trial ends, as `sweeps.Race.tell` takes it; the same whenever it is asked."""
        optimizer, train = run["optimizer"], run["train"]
        name, size, ratio = optimizer["name"], run["model"]["name"], train["chinchilla_ratio"]
        point = {key: optimizer[key] for key in START}
        trial, race = (name, size, ratio, *point.values()), (size, ratio, train["seed"])
        z = [normal((self.draw, of)) for of in (race, (name, *race), (*trial, train["seed"]))]
        above = math.log2(point["learning_rate"] / self.optimum(name, size, ratio, "learning_rate"))
        if above > CLIFF or normal((self.draw, ("lost", *trial, train["seed"]))) > DIVERGED:
            return {"status": "diverged", "reason": "loss is not finite"}
        seed = self.seed * (self.carried**0.5 * z[0] + (1 - self.carried) ** 0.5 * z[1])
        noise = self.scale(size, ratio) * (seed + self.residual * z[2])
        seconds = 20 * PARAMS[size] * ratio * self.token(name, ("clock", *trial, train["seed"]))
        return {"loss": self.expected(name, size, ratio, point) + noise, "seconds": seconds}

    def token(self, optimizer: str, of: Any) -> float:
        """Seconds of a token in one run, on a machine that is slow at times."""
        return 1e-4 * self.seconds[optimizer] * math.exp(0.1 * normal((self.draw, of)))


def octaves(size: str) -> float:
    """Factors of two between a size and the middle of them."""
    return math.log2(PARAMS[size]) - np.mean([math.log2(n) for n in PARAMS.values()])


def draw(seed: int, names: Sequence[str], *, equal: float = 0.4) -> Truth:
    """A race's truth.

    Args:
      names: hyper-parameters that matter.
      equal: chance that a rival is the baseline in all but name (its valleys are its own); every
        fourth race has nothing else, so that false verdicts can be counted.
    """
    rng = np.random.default_rng(seed)
    others = [name for name in NAMES if name != "adamw"]
    same = {name: seed % 4 == 0 or rng.random() < equal for name in others}
    rho = {
        name: (rng.uniform(-0.2, 0.5), rng.normal(0, 0.04), rng.normal(0, 0.04)) for name in others
    }
    rho |= {name: (0.0, 0.0, 0.0) for name in NAMES if same.get(name, True)}
    pairs = [(name, parameter) for name in NAMES for parameter in START]
    spread = {"learning_rate": 0.8, "weight_decay": 0.5}
    curvature = {"learning_rate": rng.uniform(0.008, 0.02), "weight_decay": 0.004}
    return Truth(
        draw=seed,
        exponent=rng.uniform(0.3, 0.6),
        level={"small": (1.9, rng.uniform(0.3, 0.5)), "large": (1.6, rng.uniform(0.25, 0.45))},
        log_rho=rho,
        best={pair: rng.normal(0, spread[pair[1]]) for pair in pairs},
        drift={
            pair: (rng.normal(-0.15, 0.1), rng.normal(-0.1, 0.1)) if rng.random() < 0.7 else (0, 0)
            for pair in pairs
        },
        curvature={name: curvature[name] * (name in names) for name in START},
        asymmetry={pair: rng.normal(0, 0.6) for pair in pairs},
        seconds={name: 1.0 if name == "adamw" else rng.uniform(0.9, 1.5) for name in NAMES},
        residual=float(np.exp(rng.uniform(*np.log((1e-3, 6e-3))))),
        seed=float(np.exp(rng.uniform(*np.log((3e-3, 25e-3))))),
        carried=rng.uniform(0, 1),
        quieter=(rng.uniform(0, 0.5), rng.uniform(0, 0.3)),
    )
