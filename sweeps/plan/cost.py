"""What a plan costs before it runs: trials, programs, tokens, FLOPs, hours on a named device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lm.config import ConfigError, unknown
from sweeps.plan.phases import upper_bound
from sweeps.plan.trial import Outcome, Race, Trial, freeze

# Useful FLOP/s of one chip: published dense bf16 peak times the utilisation a run of this kind
# reaches. The CPU figure is one core at the nano sizes, measured (docs/LOG.md).
DEVICES = {
    "cpu-core": 2.5e10,
    "tpu-v5e": 0.4 * 197e12,
    "tpu-v5p": 0.4 * 459e12,
    "tpu-v6e": 0.4 * 918e12,
    "a100": 0.4 * 312e12,
    "h100": 0.4 * 989e12,
}
HERE = "here"  # the rate of the trials that have finished in this workdir


def rate(device: str, outcomes: Iterable[Outcome] = ()) -> float:
    """FLOP/s of a device by name, or of the finished trials; before there are any, of a CPU core.

    Raises:
      ConfigError: no such device; names the nearest.
    """
    if device == HERE:
        done = [run for run in outcomes if run.seconds > 0]
        seconds = sum(run.seconds for run in done)
        return sum(run.flops for run in done) / seconds if done else DEVICES["cpu-core"]
    if device not in DEVICES:
        raise ConfigError(unknown("device", device, [HERE, *DEVICES]))
    return DEVICES[device]


class Cost(NamedTuple):
    trials: int = 0
    programs: int = 0
    tokens: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


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

    Programs are those of each start's own star. Batches change steps, not tokens, so each trial is
    charged like its start.
    """
    total, seed = Cost(), race.study["seeds"][0]
    for cell, trials in upper_bound(race).items():
        start = race.start(cell)
        points = [start] + [
            {**start, name: value}
            for name, values in race.study["optimizers"][cell.optimizer]["grids"].items()
            for value in values
        ]
        star = [Trial(cell, freeze(p), seed) for p in points if race.refusal(cell, p) is None]
        programs = len({race.program(trial) for trial in star})
        total += Cost(trials, programs, trials * race.tokens(star[0]), trials * race.flops(star[0]))
    return total


def over_budget(cost: Cost, budget: Mapping[str, float], rate: float) -> str | None:
    """The first declared limit that a cost exceeds, in words; hours at `rate` FLOP/s."""
    for name, limit in budget.items():
        needed = cost.flops / rate / 3600 if name == "hours" else getattr(cost, name)
        if needed > limit:
            return (
                f"budget.{name}={limit:g} is less than the {needed:.4g} this plan may need; "
                f"raise the budget, or lower rule.max_moves, the grids, the sizes or the ratios"
            )
    return None


def line(label: str, cost: Cost, rate: float) -> str:
    return (
        f"{label:<28} {cost.trials:>7,} trials  {cost.programs:>5,} programs  "
        f"{cost.tokens:>9.3g} tokens  {cost.flops:>9.3g} FLOPs  "
        f"{cost.flops / rate / 3600:>9.3g} chip-hours"
    )
