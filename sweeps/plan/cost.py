"""What a plan costs before it runs: trials, programs, tokens, FLOPs, hours on a named device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lm.config import ConfigError, unknown
from sweeps.plan.phases import ALWAYS_MOVE
from sweeps.plan.rules import Tested
from sweeps.plan.search import in_decades
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial, freeze

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
        raise ConfigError(unknown("device", device, known()))
    return DEVICES[device]


def known() -> list[str]:
    """What `rate` has an answer for."""
    return [HERE, *DEVICES]


class Cost(NamedTuple):
    trials: int = 0
    programs: int = 0
    tokens: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


def of(study: Study, trials: Iterable[Trial]) -> Cost:
    """The cost of exactly these trials."""
    trials = list(trials)
    return Cost(
        len(trials),
        len({study.program(trial) for trial in trials}),
        sum(study.tokens(trial) for trial in trials),
        sum(study.flops(trial) for trial in trials),
    )


def most_trials(study: Study) -> dict[Cell, int]:
    """The most trials each cell can take: a full star for every allowed move, all repeats, all
    fresh seeds.
    """
    rule, fresh, bound = study.rule, len(study.config["seeds"]) - 1, {}
    for cell, phase in study.cells.items():
        entry = study.config["optimizers"][cell.optimizer]
        grids = dict(entry["grids"])
        if phase == "II":
            grids = {n: [0, 1] if n in ALWAYS_MOVE else g for n, g in grids.items()}
        if phase == "III" and not rule.verify:
            grids = {}
        grows = entry.get("bounds", {}) if phase in rule.extend else ()
        finer = {name: 5 if in_decades(grids[name]) else 1 for name in grows if name in grids}
        star = sum(len(grid) - 1 + finer.get(name, 0) for name, grid in grids.items())
        rounds = 1 + (rule.max_moves if star else 0)
        calibration = 3 * (rule.calibration - 1) if isinstance(rule, Tested) and phase == "I" else 0
        bound[cell] = 1 + calibration + rounds * (star + rule.most_repeats(star)) + fresh
    if rule.equal_effort:
        most = {cell[1:]: max(bound[c] for c in bound if c[1:] == cell[1:]) for cell in bound}
        return {cell: most[cell[1:]] for cell in bound}
    return bound


def bound(study: Study) -> Cost:
    """An upper bound on the whole study: every cell moves as often as its rule allows.

    Programs are those of each start's own star. Batches change steps, not tokens, so each trial is
    charged like its start.
    """
    total, seed = Cost(), study.config["seeds"][0]
    for cell, trials in most_trials(study).items():
        start = study.start(cell)
        points = [start] + [
            {**start, name: value}
            for name, values in study.config["optimizers"][cell.optimizer]["grids"].items()
            for value in values
        ]
        star = [Trial(cell, freeze(p), seed) for p in points if study.refusal(cell, p) is None]
        programs = len({study.program(trial) for trial in star})
        tokens, flops = study.tokens(star[0]), study.flops(star[0])
        total += Cost(trials, programs, trials * tokens, trials * flops)
    return total


def over_budget(cost: Cost, budget: Mapping[str, float], rate: float) -> str | None:
    """The first declared limit that a cost exceeds, in words; hours at `rate` FLOP/s."""
    for name, limit in budget.items():
        needed = cost.flops / rate / 3600 if name == "hours" else getattr(cost, name)
        if limit and needed > limit:
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
