"""Equal effort between optimizers with different numbers of hyper-parameters."""

import random
from itertools import islice

import pytest

from benchmarks.planner import replay
from sweeps.plan import effort
from sweeps.plan.phases import plan
from sweeps.plan.study import Study
from sweeps.plan.trial import freeze


def race(**rule):
    base = replay.synthetic({"mode": "published", **rule})
    entry = base.config["optimizers"]["adamw"]
    few = {**entry, "grids": {"learning_rate": replay.GRIDS["learning_rate"]}}
    phases = {"I": [["a", 1], ["b", 1]], "II": [["b", 2]]}
    return Study({**base.config, "phases": phases, "optimizers": {"adamw": entry, "lion": few}})


def efforts(state):
    counts = {}
    for cell, settled in state.settled.items():
        counts.setdefault(cell[1:], []).append(effort.runs(settled))
    return [max(runs) / min(runs) for runs in counts.values()]


@pytest.mark.parametrize("mode", ["published", "tested"])
def test_effort_is_equal_within_ten_percent_by_default(mode):
    free = race(mode=mode, equal_effort=0.0)
    state, _, _ = replay.play(free, replay.landscape(free, draw=0))
    assert max(efforts(state)) > 1.5
    fair = race(mode=mode)
    state, results, _ = replay.play(fair, replay.landscape(fair, draw=0))
    assert max(efforts(state)) <= 1 / 0.9 and state.finished
    assert len(state.repeats) == len(fair.cells)
    assert any(settled.refined for settled in state.settled.values())
    fair.flops = lambda trial: 1.0
    from sweeps.plan.cost import bound

    assert len(results) <= bound(fair).trials


def test_the_same_trials_in_any_order_of_arrival():
    fair = race()
    trainer = replay.landscape(fair, draw=0)
    _, expected, _ = replay.play(fair, trainer)
    for seed in range(5):
        rng, results = random.Random(seed), {}
        while (state := plan(fair, results)).pending:
            some = rng.sample(state.pending, rng.randint(1, len(state.pending)))
            results |= {trial: trainer.get(trial) for trial in some}
        assert results == expected


def test_refinements_are_new_points_nearest_first():
    fair = race()
    state, _, _ = replay.play(fair, replay.landscape(fair, draw=0))
    for settled in state.settled.values():
        found = list(islice(effort.refinements(settled), 60))
        assert len(found) == len(set(found)) == 60 and not set(found) & set(settled.runs)
    wide = next(s for s in state.settled.values() if len(s.problem.grids) > 1)
    first = dict(next(effort.refinements(wide)))
    assert sum(first[n] != v for n, v in wide.centre) == 1


def test_a_better_half_step_wins():
    fair = race()
    between = {**replay.OPTIMUM, "learning_rate": 8e-3 * 2**0.5}
    trainer = replay.landscape(fair, draw=0, noise=0.0, optimum=between)
    state, _, _ = replay.play(fair, trainer)
    best = [dict(s.best)["learning_rate"] for s in state.settled.values() if s.refined]
    assert best and all(rate == pytest.approx(between["learning_rate"], rel=1e-4) for rate in best)


@pytest.mark.parametrize(
    "a, b, expected",
    [
        (1, 4, 2),
        (2, 3, None),
        (0.1, 0.4, 0.2),
        (0, 0.2, 0.1),
        (True, False, None),
        (0.1, 0.1, None),
    ],
)
def test_halfway(a, b, expected):
    assert effort.halfway(a, b) == expected
    assert freeze({"x": effort.halfway(a, b)})
