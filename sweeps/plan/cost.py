"""What a plan costs before it runs: trials, programs, tokens, FLOPs, hours on a named device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from analysis.stats.hyper_laws import PAIR
from lm.config import ConfigError, unknown
from sweeps.plan.forecast import forecast
from sweeps.plan.phases import ALWAYS_MOVE
from sweeps.plan.rules import Tested
from sweeps.plan.search import extension, in_decades
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
    """The most trials each cell can take: for every allowed move a full star and all the repeats
    that the rule may ask for, then all fresh seeds.
    """
    rule, fresh, bound = study.rule, len(study.config["seeds"]) - 1, {}
    for cell, phase in study.cells.items():
        names = _searched(study, phase, cell.optimizer)
        stars = [_values(study, cell, name) for name in names]
        stars = [sum(stars)] if rule.order == "star" else stars
        stars += [4] * (rule.pairs and set(PAIR) <= set(names))
        rounds = 1 + rule.max_moves if names else 0
        calibration = 3 * (rule.calibration - 1) if isinstance(rule, Tested) else 0
        outward = sum(_outward(study, cell, name) for name in names)
        bound[cell] = (
            1 + outward + calibration + rounds * (sum(stars) + rule.most_repeats(stars)) + fresh
        ) + _carried(study, cell)
    if rule.equal_effort:
        most = {cell[1:]: max(bound[c] for c in bound if c[1:] == cell[1:]) for cell in bound}
        return {cell: most[cell[1:]] for cell in bound}
    return bound


def _carried(study: Study, cell: Cell) -> int:
    """Runs of the base's winners in a cell, by each rule of the study's `transfer`."""
    given = study.config.get("transfer")
    if not given or cell.size == given["base"]:
        return 0
    return (1 + len(given["rules"].get(cell.optimizer, ()))) * (len(study.config["seeds"]) - 1)


def _searched(study: Study, phase: str, optimizer: str) -> list[str]:
    """The hyper-parameters that may be searched in a phase."""
    entry = study.config["optimizers"][optimizer]
    if phase == "III" and not study.rule.verify:
        return []
    return [name for name in entry["grids"] if phase != "II" or name not in entry["phase_two"]]


def _values(study: Study, cell: Cell, name: str) -> int:
    """The most neighbours that one hyper-parameter gives a centre."""
    entry, rule = study.config["optimizers"][cell.optimizer], study.rule
    phase, moves = study.cells[cell], rule.max_moves + 1
    grows = 0
    if name in entry["bounds"] and phase in rule.extend:
        grows = 2 + 4 * in_decades(entry["grids"][name])  # beyond each edge; between decades
    first = [other for other, p in study.cells.items() if p == "I" and other[0] == cell[0]]
    starts = {study.start(other)[name] for other in [cell, *first]}
    values = len({*entry["grids"][name], *starts})
    if phase == "II" and name in ALWAYS_MOVE:
        values = 2
    elif phase == "II" and name in entry["bounds"] and "I" in rule.extend:
        values += moves * len(first)  # what Phase I found beyond its grid
    return values - 1 + grows


def _outward(study: Study, cell: Cell, name: str) -> int:
    """How often the best run may be followed beyond the edges of a grid."""
    entry, steps = study.config["optimizers"][cell.optimizer], 0
    if name not in entry["bounds"] or study.cells[cell] not in study.rule.extend:
        return 0
    for edge in (min(entry["grids"][name]), max(entry["grids"][name])):
        while (edge := extension(entry["grids"][name], edge, entry["bounds"][name])) is not None:
            steps += 1
    return steps


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


def spent(outcomes: Iterable[Outcome]) -> Cost:
    """What finished trials took; how many programs is not known."""
    runs = list(outcomes)
    return Cost(len(runs), 0, sum(r.tokens for r in runs), sum(r.flops for r in runs))


def expected(study: Study, outcomes: Mapping[Trial, Outcome]) -> Cost:
    """What the whole study will probably take, finished trials included."""
    return spent(outcomes.values()) + of(study, forecast(study, outcomes))


def over_budget(cost: Cost, budget: Mapping[str, float], rate: float) -> str | None:
    """The first declared limit that a cost exceeds, in words; hours at `rate` FLOP/s."""
    for name, limit in budget.items():
        needed = cost.flops / rate / 3600 if name == "hours" else getattr(cost, name)
        if limit and needed > limit:
            return f"budget.{name}={limit:g} is less than {needed:.4g}"
    return None


def line(label: str, cost: Cost, rate: float) -> str:
    return (
        f"{label:<28} {cost.trials:>7,} trials  {cost.programs:>5,} programs  "
        f"{cost.tokens:>9.3g} tokens  {cost.flops:>9.3g} FLOPs  "
        f"{cost.flops / rate / 3600:>9.3g} chip-hours"
    )
