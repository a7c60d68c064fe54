"""The planners against trainers that answer at once: recorded runs, synthetic landscapes.

python -m benchmarks.planner.replay recorded      # 150 cells of arXiv 2509.02046
python -m benchmarks.planner.replay landscapes    # false alarms, power, effort; answer known
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.stats import near_best
from benchmarks.planner import recorded as records
from benchmarks.planner.landscape import Landscape
from sweeps.plan import config as study_config
from sweeps.plan.phases import Plan, plan
from sweeps.plan.rules import Published, Rule
from sweeps.plan.search import descend
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial

DELTAS = (5e-3, 6e-3, 6.4e-3, 7e-3)  # the near-best thresholds the study names in different places


def play(race: Study, trainer: Any) -> tuple[Plan, dict[Trial, Outcome], int]:
    """Runs a whole race on a trainer with a `get`; returns last plan, results, rounds."""
    results: dict[Trial, Outcome] = {}
    rounds, state = 0, None
    while (state := plan(race, results, state)).pending:
        results |= {trial: trainer.get(trial) for trial in state.pending}
        rounds += 1
    return state, results, rounds


def recorded_cells(recorded: records.Recorded, rule: Rule) -> dict[Cell, tuple[float, float]]:
    """By cell: the settled centre and the reported best, above the best recorded loss."""
    gaps = {}
    for cell, record in recorded.cells.items():
        settled = descend(recorded.problem(cell, rule), recorded)
        losses = settled.losses
        centre, best = losses[settled.centre], losses[settled.best]
        gaps[cell] = (centre - record.best, best - record.best)
    return gaps


def recorded_sensitive(recorded: records.Recorded, delta: float) -> dict[str, set[str]]:
    """The scaling-sensitive hyper-parameters by the study's rule at one of its thresholds."""
    found = {}
    for optimizer in records.SENSITIVE:
        near = records.near_best(recorded, optimizer, delta)
        found[optimizer] = set(
            near_best.sensitive(near, {name for points in near for p in points for name in p})
        )
    return found


# A ladder like the study's Phase I: three sizes a factor 4 apart in all, ratios at the smallest.
SIZES = {
    name: {
        **{"hidden": 16 * k, "layers": 2, "heads": k, "mlp": 64 * k},
        **{"vocab_size": 257, "sequence_length": 128},
    }
    for name, k in (("a", 4), ("b", 6), ("c", 8))
}
PHASES = {
    "I": [["a", 1], ["a", 2], ["a", 4], ["a", 8], ["b", 1], ["c", 1]],
    "II": [["b", 2], ["c", 4]],
}
# Octave costs of the study's own cells (median rise of a recorded doubling): the synthetic default.
CURVATURE = {"learning_rate": 0.012, "weight_decay": 0.008, "warmup": 0.004, "beta2": 0.002}
OPTIMUM = {"learning_rate": 8e-3, "weight_decay": 0.1, "warmup": 40, "beta2": 0.95}
GRIDS = {
    "learning_rate": [2e-3, 4e-3, 8e-3, 16e-3, 32e-3],
    "weight_decay": [0.05, 0.1, 0.2],
    "warmup": [20, 40, 80, 160],
    "beta2": [0.9, 0.95, 0.98],
}


def synthetic(rule: Mapping[str, Any], *, start: Mapping[str, Any] = OPTIMUM) -> Study:
    """A race on synthetic sizes, for landscapes to answer."""
    entry = {"start": {**start, "batch_size": 8}, "grids": GRIDS}
    return Study(
        study_config.complete(
            {
                **{"name": "synthetic", "sizes": SIZES, "ratios": [1, 2, 4, 8], "phases": PHASES},
                **{"optimizers": {"adamw": entry}, "rule": rule, "seeds": [0, 1, 2]},
            }
        )
    )


def landscape(race: Study, *, draw: int, noise: float = 1e-3, **others: Any) -> Landscape:
    """The study-like landscape of `synthetic`; `others` replace its fields.

    Seeds matter 20 times as much as anything else, as on the CPU ladder (docs/LOG.md).
    """
    fields = {"optimum": OPTIMUM, "curvature": CURVATURE, "reference": race.params("a")}
    fields |= {"seed_noise": 20 * noise, **others}
    return Landscape(params=race.params, noise=noise, draw=draw, **fields)


def flat_alarms(rule: Mapping[str, Any], draws: int) -> float:
    """Share of hyper-parameters called sensitive on landscapes where nothing matters."""
    race = synthetic(rule)
    found = [play(race, landscape(race, draw=i, curvature={}))[0].sensitive for i in range(draws)]
    return sum(len(names["adamw"]) for names in found) / (draws * len(GRIDS))


def drift_power(rule: Mapping[str, Any], draws: int) -> tuple[float, float, float]:
    """A learning rate whose optimum halves with 4x size, everything else still.

    Returns:
      the shares of races that call the learning rate sensitive, that call anything else so, and
      the mean number of trials.
    """
    race, hits, alarms, trials = synthetic(rule), 0, 0, 0
    for i in range(draws):
        state, results, _ = play(race, landscape(race, draw=i, drift={"learning_rate": (-0.5, 0)}))
        hits += "learning_rate" in state.sensitive["adamw"]
        alarms += bool(set(state.sensitive["adamw"]) - {"learning_rate"})
        trials += len(results)
    return hits / draws, alarms / draws, trials / draws


def regret(rule: Mapping[str, Any], draws: int, noise: float = 1e-3) -> tuple[float, float, float]:
    """Tuning from two octaves too high a learning rate, with an interaction to follow.

    Returns:
      mean and largest true loss of the winners above the best grid point, over all cells, in nats,
      and the mean number of trials.
    """
    race, excess, trials = synthetic(rule, start={**OPTIMUM, "learning_rate": 32e-3}), [], 0
    mixed = {("learning_rate", "weight_decay"): 0.004}
    for i in range(draws):
        truth = landscape(race, draw=i, noise=noise, interaction=mixed)
        state, results, _ = play(race, truth)
        for cell, settled in state.settled.items():
            best = truth.loss(cell, OPTIMUM)
            excess.append(truth.loss(cell, dict(settled.best)) - best)
        trials += len(results)
    return sum(excess) / len(excess), max(excess), trials / draws


def replan_seconds(trials: int = 10_000) -> tuple[int, float, float]:
    """Finished trials of a race that large, and CPU seconds, best of five, of planning it once more
    after one of them came in: with the plan before it, and from nothing.
    """
    base = synthetic({"mode": "published", "max_moves": 8})
    for count in range(16, 1000, 32):
        entry = base.config["optimizers"]["adamw"]
        names = [f"optimizer{i}" for i in range(count)]
        race = Study({**base.config, "optimizers": dict.fromkeys(names, entry)})
        _, results, _ = play(race, landscape(race, draw=0, drift={"learning_rate": (-0.5, 0.1)}))
        if len(results) >= trials:
            break
    last = next(reversed(results))
    before = plan(race, {trial: run for trial, run in results.items() if trial != last})
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for again in [True, False] * 5:
        begin = time.process_time()
        plan(race, results, before if again else None)
        seconds[again].append(time.process_time() - begin)
    return len(results), min(seconds[True]), min(seconds[False])


def show_recorded(config: str) -> None:
    recorded = records.Recorded()
    race = records.race(recorded, study_config.load(config))
    state, results, _ = play(race, recorded)
    above = [s.losses[s.best] - recorded.cells[cell].best for cell, s in state.settled.items()]
    known = sum(outcome.status != "unrecorded" for outcome in results.values())
    print(
        f"Phases I and II of {len(race.config['optimizers'])} optimizers, recorded centres: "
        f"{len(above)} cells, {len(results)} trials asked for, {known} on record;\n"
        f"  reported best above the best recorded run: at most {max(above):.1e} nats, "
        f"equal in {sum(gap == 0 for gap in above)}"
    )
    right = [n for n, names in state.sensitive.items() if set(names) == records.SENSITIVE[n]]
    print(f"  sensitive sets at 6e-3 as published: {len(right)}/10: {', '.join(right)}")
    noise = records.null_noise(recorded)
    gaps = recorded_cells(recorded, Published())
    print(f"noise of a recorded run, from null changes: {noise:.2e} nats")
    within = sum(best <= noise for _, best in gaps.values())
    exact = sum(best == 0 for _, best in gaps.values())
    print(f"reported best within it of the best recorded run: {within}/{len(gaps)}, equal: {exact}")
    worst = max(centre for centre, _ in gaps.values())
    print(f"settled centre above the best recorded run: at most {worst:.2e} nats (rule: 3e-3)")
    kills = records.divergence_kills()
    false = [key for key, final in kills.items() if final < 5]
    print(
        f"divergence rule: ends {len(kills)} of the recorded curves, {len(false)} of them falsely"
    )
    for delta in DELTAS:
        found = recorded_sensitive(recorded, delta)
        right = [name for name, names in found.items() if names == records.SENSITIVE[name]]
        wrong = {n: sorted(found[n] ^ records.SENSITIVE[n]) for n in found if n not in right}
        print(f"sensitive sets at {delta:g}: {len(right)}/10 as published; differ in {wrong}")


def show_landscapes(draws: int) -> None:
    for mode in ("published", "tested"):
        for order in ("star", "coordinate"):
            rule = {"mode": mode, "order": order}
            print(f"{mode}, {order}, {draws} draws at noise 1e-3:")
            print(f"  flat: {flat_alarms(rule, draws):.1%} of hyper-parameters called sensitive")
            power, alarms, trials = drift_power(rule, draws)
            print(
                f"  drift of 2x per 4x size: found {power:.0%}, others {alarms:.1%}, "
                f"{trials:.0f} trials"
            )
            average, worst, trials = regret(rule, draws)
            print(f"  regret: mean {average:.1e}, worst {worst:.1e} nats, {trials:.0f} trials")
    count, again, anew = replan_seconds()
    print(f"planning {count} finished trials: {1e3 * again:.0f} ms again, {1e3 * anew:.0f} ms anew")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner.replay", allow_abbrev=False)
    parser.add_argument("what", choices=("recorded", "landscapes"))
    parser.add_argument("--config", default="configs/study.py:published")
    parser.add_argument("--draws", type=int, default=40, help="synthetic races per line")
    arguments = parser.parse_args(argv)
    try:
        if arguments.what == "recorded":
            show_recorded(arguments.config)
        else:
            show_landscapes(arguments.draws)
    except FileNotFoundError as error:
        print(f"error: the recorded study is not here: {error.filename}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
