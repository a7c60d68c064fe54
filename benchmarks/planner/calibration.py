"""Do published numbers hold? Synthetic races told through `sweeps.Race`, and their tables checked.

    python -m benchmarks.planner.calibration --races=1000 --out=docs/coverage_races.csv

The whole way: the planner asks, a known truth (`benchmarks.planner.truth`) answers with accidents
and divergence, files are written and read, and every interval and verdict of the table of
estimates is compared with what it should have said.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

import sweeps
from analysis.estimates.estimate import estimate
from analysis.estimates.table import pick
from analysis.runs import reader
from analysis.runs.names import CELL, RACE
from benchmarks.planner import truth as truths
from benchmarks.planner.truth import START, Truth
from sweeps.plan.forecast import normal

DESIGNS = (  # rule and what is searched; races take turns
    ("published", ("learning_rate",)),
    ("tested", ("learning_rate", "weight_decay")),
)
RATIOS = ("ratio", "ratio_seconds")  # of a speed-up, that are checked one by one
RIGHT = (0.92, 0.97)  # share of 95 % intervals that are right
# What is right at least so often: it holds together, from one side, or by a choice of its own.
AT_LEAST = {
    "report without": 0.95,
    "order,": 0.95,
    "still hyper-parameter": 0.95,
    **dict.fromkeys(("race whose", "headline whose", "regret of the best value"), 0.92),
    "regrets of a report": 0.92,  # always right: no interval
    "gap of the settings found": 0.92,  # an interval for the optimizers
    "noise, residual": 0.92,  # an upper bound where nothing measured it
}
ENDS = ("killed", "preempted", "preempted", "failed")  # of attempts that the machine ended


def play(config: dict, truth: Truth, workdir: Path) -> sweeps.Race:
    """A whole race, told through the door."""
    race, attempts = sweeps.Race(config, workdir), {}
    while trials := race.ask(64):
        for trial in trials:
            attempts[trial.hash] = attempt = attempts.get(trial.hash, 0) + 1
            chance = normal((truth.draw, ("accident", trial.hash, attempt)))
            if chance > truths.UNLUCKY:
                end = {"status": ENDS[int(1e6 * chance) % len(ENDS)], "reason": "power cut"}
            else:
                end = truth.end(trial.config)
            race.tell(trial.hash, **end)
    race.certificates()
    return race


def one_race(seed: int) -> list[dict]:
    """Plays and reports one race.

    Returns:
      one record per number: quantity, race, right (the interval contains the truth; a verdict is
      not false), width (of the interval).
    """
    mode, names = DESIGNS[seed % len(DESIGNS)]
    truth = truths.draw(seed, names)
    with tempfile.TemporaryDirectory() as folder:
        play(truths.config(mode, names), truth, Path(folder))
        numbers = estimate(reader.load(folder), cards=False)
    found = [*_losses(numbers, truth), *_speedups(numbers, truth), *_optima(numbers, truth)]
    found += _noise(numbers, truth)
    return [
        {"quantity": name, "race": seed, "right": bool(ok), "width": w} for name, ok, w in found
    ]


def _inside(row, true) -> tuple[bool, float]:
    """Whether an interval contains the truth, an empty end being open; and its width."""
    low = -math.inf if pd.isna(row.low) else row.low
    high = math.inf if pd.isna(row.high) else row.high
    return low - 1e-12 <= true <= high + 1e-12, high - low


def _cell(row) -> tuple:
    return tuple(getattr(row, name) for name in CELL)


def _losses(numbers, truth) -> Iterator[tuple]:
    """Fair losses, gaps and distances to the best; verdicts by report."""
    rows = pick(numbers, "best", "hyperparameter")
    chosen: dict[tuple, dict] = {}
    for row in rows.itertuples():
        chosen.setdefault(_cell(row), dict(START))[row.quantity] = row.value
    expected = {cell: truth.expected(*cell, point) for cell, point in chosen.items()}
    for row in pick(numbers, "loss", "fair").itertuples():
        yield "fair loss of the settings found", *_inside(row, expected[_cell(row)])
    false = wrong = 0
    for row in pick(numbers, "gap", quantity="nats").itertuples():
        cell = _cell(row)
        base = ("adamw", *cell[1:])
        yield "gap of the settings found", *_inside(row, expected[base] - expected[cell])
        true = truth.lowest(*base) - truth.lowest(*cell)
        yield "gap of the optimizers", *_inside(row, true)
        sign = {"faster": 1, "slower": -1}.get(row.note, 0)
        false += sign * true < 0 or (sign != 0 and true == 0)
    yield "report without a false verdict", not false, math.nan
    for row in pick(numbers, "pair").itertuples():
        cell, other = _cell(row), (row.quantity.removeprefix("below_"), *_cell(row)[1:])
        yield "gap of two optimizers", *_inside(row, truth.lowest(*other) - truth.lowest(*cell))
    together = pick(numbers, "gap", quantity="nats_together")
    for race, rows in together.groupby(RACE):
        base = truth.lowest("adamw", *race)
        inside = [_inside(row, base - truth.lowest(*_cell(row)))[0] for row in rows.itertuples()]
        yield "race whose gaps all hold", all(inside), math.nan
    for row in pick(numbers, "race", quantity="behind_best").itertuples():
        cell = _cell(row)
        rivals = [truth.lowest(*c) for c in chosen if c[1:] == cell[1:] and c != cell]
        behind = truth.lowest(*cell) - min(rivals)
        wrong += (row.low > 0 and behind <= 0) or (row.high < 0 and behind >= 0)
    yield "report without a false best", not wrong, math.nan
    for row in pick(numbers, "order").itertuples():
        if row.value >= 0.95 and row.quantity.startswith("p_faster_than_"):
            other = row.quantity.removeprefix("p_faster_than_")
            ratio = row.chinchilla_ratio
            ratio = 1.0 if pd.isna(ratio) else ratio
            rho = [truth.rho(name, row.model_size, ratio) for name in (row.optimizer, other)]
            if rho[0] != rho[1]:
                yield f"order, {row.procedure}", rho[0] > rho[1], math.nan


def _speedups(numbers, truth) -> Iterator[tuple]:
    middle = float(np.exp(np.mean(np.log(truths.RATIOS))))
    for row in pick(numbers, "speedup").itertuples():
        if not row.procedure.startswith("robust") or row.quantity not in RATIOS:
            continue
        at_size = pd.isna(row.chinchilla_ratio)
        ratio = middle if at_size else row.chinchilla_ratio
        true = truth.rho(row.optimizer, row.model_size, ratio)
        name = f"speedup{' at a size' * at_size}, {row.procedure}"
        if row.quantity == "ratio_seconds":
            pair = (row.optimizer, "adamw")  # two more runs, each on a machine as slow as it is
            of = ("more", row.procedure, *_cell(row))
            true /= np.divide(*(truth.token(one, (one, *of)) for one in pair))
            name += ", equal seconds of two runs"
        name += {"lower": " (lower bounds)", "none": " (nothing known)"}.get(row.bound, "")
        yield name, *_inside(row, true)
    joint = pick(numbers, "speedup", "robust_joint", "ratio_together")
    for _, rows in joint.groupby(RACE):
        inside = [_inside(row, truth.rho(*_cell(row)))[0] for row in rows.itertuples()]
        yield "headline whose speed-ups all hold, robust_joint", all(inside), math.nan
    for row in pick(numbers, "decline", quantity="per_doubling").itertuples():
        yield "decline per doubling, robust_joint", *_inside(row, truth.decline(row.optimizer))
    for row in pick(numbers, "joint_law", "robust_joint", "exponent").itertuples():
        yield "exponent, robust_joint", *_inside(row, truth.exponent)


def _optima(numbers, truth) -> Iterator[tuple]:
    for row in pick(numbers, "optimum").itertuples():
        true = truth.optimum(*_cell(row), row.quantity)
        kind = "optimum (one-sided)" if row.bound else "optimum"
        kind += ", law" * (row.procedure == "law")
        inside, _ = _inside(row, true)
        yield kind, inside, math.log2(row.high / row.low) if row.low > 0 else math.nan
    tried = pick(numbers, "best", "hyperparameter").set_index([*CELL, "quantity"]).value
    for row in pick(numbers, "sensitive", "robust").itertuples():
        if truth.drift[row.optimizer, row.quantity] == (0, 0):
            yield "still hyper-parameter not called sensitive", not row.value, math.nan
    regrets = []
    for row in pick(numbers, "regret").itertuples():
        value = tried[*_cell(row), row.quantity]
        spent = truth.rise(*_cell(row), row.quantity, value)
        yield "regret of the best value", *_inside(row, spent)
        regrets.append((spent, row.value))
    if regrets:
        spent, stated = np.sum(regrets, axis=0)
        yield "regrets of a report; width is their sum over that stated", True, spent / stated


def _noise(numbers, truth) -> Iterator[tuple]:
    """The spreads, where they are for one size and ratio."""
    cells = [(size, ratio) for size in truths.SIZES for ratio in truths.RATIOS]
    for what in ("total", "paired", "residual"):
        for row in pick(numbers, "noise", quantity=what).itertuples():
            at = [c for c in cells if row.model_size in ("", c[0])]
            at = [c for c in at if pd.isna(row.chinchilla_ratio) or c[1] == row.chinchilla_ratio]
            true = math.sqrt(np.mean([truth.spread(what, *c) ** 2 for c in at]))
            yield f"noise, {what}{', by race' * (row.model_size != '')}", *_inside(row, true)

    for row in pick(numbers, "noise", quantity="carried").itertuples():
        true = 1 - (truth.spread("paired", *cells[0]) / truth.spread("total", *cells[0])) ** 2
        yield "share of the noise that seeds carry over", *_inside(row, true)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of published numbers that are right, by quantity.

    Args:
      table: records of `one_race`.

    Returns:
      quantity, right, error (standard error over races), numbers, median_width, races.
    """
    rows = []
    for quantity, group in table.groupby("quantity", sort=False):
        by_race = group.groupby("race").right.agg(["mean", "size"])
        share = float(group.right.mean())
        spread = np.sqrt((by_race["size"] ** 2 * (by_race["mean"] - share) ** 2).sum())
        error = float(spread / len(group))
        width = float(group.width.replace(np.inf, np.nan).median())
        rows.append((quantity, share, error, len(group), width, len(by_race)))
    columns = ["quantity", "right", "error", "numbers", "median_width", "races"]
    return pd.DataFrame(rows, columns=columns)


def wrong(table: pd.DataFrame, errors: float = 2.0) -> list[str]:
    """A sentence for each row of `summary` whose share is out of bounds by so many errors."""
    found = []
    for row in table.itertuples():
        low, high = RIGHT
        if row.quantity.endswith((" bounds)", "(one-sided)", "(nothing known)")):
            high = 1.0
        for start, least in AT_LEAST.items():
            if row.quantity.startswith(start):
                low, high = least, 1.0
        error = errors * max(row.error, (0.95 * 0.05 / row.numbers) ** 0.5)
        if not low - error <= row.right <= high + error:
            found.append(f"{row.quantity}: right {row.right:.3f}, not {low:g} to {high:g}")
    return found


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planner.calibration", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--races", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first race")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", default="docs/coverage_races.csv")
    arguments = parser.parse_args(argv)
    began, seeds = time.time(), range(arguments.first, arguments.first + arguments.races)
    with ProcessPoolExecutor(arguments.workers) as pool:
        records = [record for race in pool.map(one_race, seeds) for record in race]
    table = summary(pd.DataFrame(records))
    table.to_csv(arguments.out, index=False, float_format="%.6g", lineterminator="\n")
    print(table.to_string(index=False))
    print(f"{arguments.races} races in {time.time() - began:.0f} s -> {arguments.out}")
    out_of_bounds = wrong(table)
    print(*out_of_bounds, sep="\n")
    return int(bool(out_of_bounds))


if __name__ == "__main__":
    raise SystemExit(main())
