"""What a plan costs before it runs: trials, programs, tokens, FLOPs, hours on a named device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lm.config import ConfigError, unknown
from sweeps.phases import upper_bound
from sweeps.trial import Race, Trial, freeze

# Useful FLOP/s of one chip: published dense bf16 peak times the utilisation a run of this kind
# reaches. The CPU figure is measured (docs/LOG.md): a 0.5M-parameter step on one core.
DEVICES = {
    "cpu-core": 5e10,
    "tpu-v5e": 0.4 * 197e12,
    "tpu-v5p": 0.4 * 459e12,
    "tpu-v6e": 0.4 * 918e12,
    "a100": 0.4 * 312e12,
    "h100": 0.4 * 989e12,
}


class Cost(NamedTuple):
    trials: int = 0
    programs: int = 0
    tokens: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def hours(self, device: str) -> float:
        if device not in DEVICES:
            raise ConfigError(unknown("device", device, DEVICES))
        return self.flops / DEVICES[device] / 3600


def of(race: Race, trials: Iterable[Trial]) -> Cost:
    """The cost of exactly these trials."""
    trials = list(trials)
    return Cost(
        len(trials),
        len({race.program(trial) for trial in trials}),
        sum(race.tokens(trial) for trial in trials),
        sum(race.flops(trial) for trial in trials),
    )


def bound(race: Race) -> Cost:
    """An upper bound on the whole race: every cell moves as often as its rule allows.

    One program per cell and batch size; batches change steps, not tokens, so each trial is charged
    like its start.
    """
    total = Cost()
    for cell, trials in upper_bound(race).items():
        start = race.start(cell)
        trial = Trial(cell, freeze(start), race.study["seeds"][0])
        programs = 1 + len(race.study["optimizers"][cell.optimizer]["grids"].get("batch_size", ()))
        total += Cost(trials, programs, trials * race.tokens(trial), trials * race.flops(trial))
    return total


def over_budget(cost: Cost, budget: Mapping[str, float]) -> str | None:
    """The first declared limit that a cost exceeds, in words."""
    for name, limit in budget.items():
        needed = getattr(cost, name)
        if needed > limit:
            return (
                f"budget.{name}={limit:g} is less than the {needed:g} this plan may need; "
                f"raise the budget, or lower rule.max_moves, the grids, the sizes or the ratios"
            )
    return None


def lines(label: str, cost: Cost, device: str) -> str:
    return (
        f"{label:<28} {cost.trials:>7,} trials  {cost.programs:>5,} programs  "
        f"{cost.tokens:>9.3g} tokens  "
        f"{cost.flops:>9.3g} FLOPs  {cost.hours(device):>9.3g} h on {device}"
    )
