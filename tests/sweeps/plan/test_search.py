"""The search of one cell: what it asks for, when it moves, where it stops."""

import dataclasses
import math
import random
from functools import partial
from types import SimpleNamespace

import pytest

from analysis.stats.noise import Noise
from sweeps.plan import rules
from sweeps.plan.certificates import certificate
from sweeps.plan.phases import Plan
from sweeps.plan.search import Problem, between, descend, extension, neighbours, opening
from sweeps.plan.trial import Cell, Outcome, Trial, freeze

CELL = Cell("adamw", "s", 1)
GRIDS = {"learning_rate": [0.004, 0.008, 0.016, 0.032], "beta2": [0.9, 0.95, 0.98]}
START = {"learning_rate": 0.032, "beta2": 0.95}


class Table:
    """A trainer with a formula; counts what it was asked."""

    def __init__(self, loss, spread=0.0):
        self.loss, self.spread, self.results = loss, spread, {}

    def get(self, trial):
        return self.results.get(trial)

    def train(self, trials):
        for trial in trials:
            loss = self.loss(dict(trial.point))
            jitter = random.Random(repr(trial)).gauss(0, self.spread)
            status = "finished" if math.isfinite(loss) else "diverged"
            self.results[trial] = Outcome(status, loss + jitter)


def bowl(point):
    octaves = math.log2(point["learning_rate"] / 0.008)
    return 3 + 0.02 * octaves**2 + 0.2 * abs(point["beta2"] - 0.98)


def problem(rule=None, refusal=lambda point: None, bounds=None, grids=GRIDS, start=START):
    rule = rule or rules.Published()
    return Problem(CELL, start, grids, bounds or {}, refusal, rule, 0, (1, 2))


def settle(this, table):
    rounds = []
    while (state := descend(this, table)).pending:
        assert state.pending and not any(trial in table.results for trial in state.pending)
        rounds.append(state.pending)
        table.train(state.pending)
    return state, rounds


def certified(state, repeats=(), failed=None):
    done = Plan(settled={CELL: state}, repeats={CELL: list(repeats)})
    return certificate(SimpleNamespace(cells={CELL: "I"}, hash=str), done, CELL, failed)


def test_star_launches_the_centre_and_all_its_neighbours_at_once():
    state = descend(problem(), Table(bowl))
    points = [dict(trial.point) for trial in state.pending]
    assert points[0] == START and len(points) == 1 + 3 + 2
    assert all(sum(p[n] != START[n] for n in START) == 1 for p in points[1:])


@pytest.mark.parametrize("order", ["star", "coordinate"])
def test_both_orders_stop_by_the_same_rule(order):
    table = Table(bowl)
    state, _ = settle(problem(rules.Published(order=order)), table)
    star = neighbours(state.problem, state.centre, GRIDS)
    assert dict(state.centre) == {"learning_rate": 0.008, "beta2": 0.98}
    assert all(point in state.runs for point in star) and state.converged
    assert all(state.losses[p] > state.losses[state.centre] - 3e-3 for p in star)


def test_coordinate_descent_trains_fewer():
    few, many = Table(bowl), Table(bowl)
    settle(problem(rules.Published(order="coordinate")), few)
    settle(problem(), many)
    assert len(few.results) < len(many.results)


@pytest.mark.parametrize("order", ["star", "coordinate"])
@pytest.mark.parametrize(
    "make", [rules.Published, partial(rules.Tested, prior_sd=1e-3, prior_df=8)]
)
def test_any_order_of_arrival_gives_the_same_end_and_the_same_trials(make, order):
    rule = make(order=order)
    whole = Table(bowl, spread=2e-3)
    expected, _ = settle(problem(rule), whole)
    for seed in range(10):
        rng, table = random.Random(seed), Table(bowl, spread=2e-3)
        while (state := descend(problem(rule), table)).pending:
            table.train(rng.sample(state.pending, rng.randint(1, len(state.pending))))
        assert table.results == whole.results
        assert (state.centre, state.best, state.runs) == (
            expected.centre,
            expected.best,
            expected.runs,
        )


def test_results_it_did_not_ask_for_change_nothing():
    table = Table(bowl)
    expected, _ = settle(problem(), table)
    stray = freeze({"learning_rate": 0.008, "beta2": 0.97})
    table.results[Trial(CELL, stray, 0)] = Outcome("finished", 1.0)
    state, _ = settle(problem(), table)
    assert state.centre == expected.centre and stray not in state.runs


def test_published_threshold_is_exact():
    for gain, moved in ((0.0029, False), (0.0031, True)):
        table = Table(lambda p, g=gain: 3.0 - g * (p["beta2"] == 0.98))
        state, _ = settle(problem(), table)
        assert bool(state.moves) is moved
        assert dict(state.best)["beta2"] == 0.98  # what is reported is the best run itself


@pytest.mark.parametrize("few, centre", [(10, (1, 0)), (11, (0, 1))])
def test_near_best_with_far_fewer_missing_neighbours_is_preferred(few, centre):
    """(0, 1) is the best and leaves eleven neighbours out, (1, 0) is near it and leaves one."""
    grids = {"a": list(range(12)), "b": [0, 1]}
    loss = {(0, 0): 3.0, (0, 1): 2.8995, (1, 0): 2.9}
    table = Table(lambda p: loss.get((p["a"], p["b"]), 3.1))
    rule = rules.Published(fewer_missing=few)
    state, _ = settle(problem(rule, grids=grids, start={"a": 0, "b": 0}), table)
    assert dict(state.moves[0]) == dict(zip("ab", centre, strict=True))


def test_diverged_neighbours_lose_and_a_diverged_start_is_left():
    table = Table(lambda p: math.inf if p["learning_rate"] > 0.01 else bowl(p))
    state, _ = settle(problem(), table)
    assert dict(state.centre)["learning_rate"] == 0.008
    everything = Table(lambda p: math.inf)
    state, _ = settle(problem(), everything)
    assert state.best is None
    found = certified(state)
    assert not found["complete"] and found["best_loss"] is None


def test_refused_points_are_listed_and_never_trained():
    def refusal(point):
        return "too much" if point["beta2"] == 0.98 else None

    table = Table(bowl)
    state, _ = settle(problem(refusal=refusal), table)
    assert all(dict(trial.point)["beta2"] != 0.98 for trial in table.results)
    found = certified(state)
    assert [(n["value"], n["reason"]) for n in found["refused"]] == [(0.98, "too much")]
    assert found["complete"]


def test_edges_extend_within_bounds_and_are_flagged_beyond():
    table = Table(lambda p: 3 + 0.02 * math.log2(p["learning_rate"] / 0.001) ** 2)
    state, _ = settle(problem(bounds={"learning_rate": (5e-4, 1)}), table)
    assert dict(state.centre)["learning_rate"] == 0.001
    state, _ = settle(problem(bounds={"learning_rate": (2e-3, 1)}), table)
    assert dict(state.centre)["learning_rate"] == 0.002
    edges = certified(state)["edges"]
    assert edges == [
        {"hyperparameter": "learning_rate", "value": 0.002, "side": "low", "bound": True}
    ]
    state, _ = settle(problem(), table)
    assert dict(state.centre)["learning_rate"] == 0.004


def test_a_winner_is_followed_beyond_an_edge_even_where_the_centre_stays():
    """Each of two halvings gains 1e-3, a third of what moves the centre."""
    table = Table(lambda p: 3 + 1e-3 * abs(math.log2(p["learning_rate"] / 0.001)))
    state, _ = settle(
        problem(bounds={"learning_rate": (1e-5, 1)}, start={**START, "learning_rate": 0.004}), table
    )
    assert dict(state.best)["learning_rate"] == 0.001
    assert freeze({**START, "learning_rate": 0.0005}) in state.runs
    assert certified(state)["edges"] == []


@pytest.mark.parametrize(
    "values, value, expected",
    [
        ([0.004, 0.008, 0.016], 0.004, 0.002),
        ([0.004, 0.008, 0.016], 0.016, 0.032),
        ([0.004, 0.008, 0.016], 0.008, None),
        ([0.004, 0.008, 0.016], 0.001, 0.0005),  # found by two steps
        ([0, 0.1, 0.2], 0.4, 0.5),
        ([0, 0.1, 0.2], 0.2, 0.3),
        ([0, 0.1, 0.2], 0, None),
        ([8, 16, 32], 32, 64),
        ([5], 5, None),
    ],
)
def test_extension_continues_the_grid(values, value, expected):
    assert extension(values, value, (0, 100)) == expected


def test_max_moves_stops_and_says_so():
    for moves, converged in ((0, False), (1, False), (2, True)):
        state, _ = settle(problem(rules.Published(max_moves=moves)), Table(bowl))
        assert (len(state.moves), state.converged) == (moves, converged)
        assert certified(state)["complete"] is converged


def test_noise_rule_repeats_contenders_and_the_centre_and_does_not_guess():
    rule = rules.Tested(prior_sd=1e-3, prior_df=20)
    table = Table(lambda p: 3.0 - 0.0025 * (p["beta2"] == 0.98))
    _, rounds = settle(problem(rule), table)
    asked = {}
    for trial in table.results:
        asked.setdefault(trial.point, []).append(trial.seed)
    contender = freeze({**START, "beta2": 0.98})
    assert len(asked[contender]) > 1 and len(asked[freeze(START)]) >= len(asked[contender])
    assert not {1, 2} & {seed for seeds in asked.values() for seed in seeds}  # fresh ones stay so
    assert max(map(len, asked.values())) <= rule.looks[-1] and len(rounds) > 1


def test_noise_rule_moves_on_clear_gains_only():
    rule = rules.Tested(prior_sd=1e-3, prior_df=20)
    state, _ = settle(problem(rule), Table(bowl, spread=1e-3))
    assert dict(state.centre)["learning_rate"] == 0.008
    wrong = 0
    for draw in range(100):
        table = Table(lambda p, draw=draw: 3.0 + 1e-3 * random.Random(f"{draw}{p}").gauss(0, 1))
        table.spread = 0.0
        wrong += bool(
            settle(
                problem(rules.Tested(calibration=1, looks=(1,), prior_sd=1e-3, prior_df=50)),
                table,
            )[0].moves
        )
    assert wrong <= 11  # 5 % stated; P(more than 11 of 100) < 0.5 %


def test_error_rates_are_shared_over_candidates_and_looks():
    """A gain below the margin of all tests together is repeated, not believed."""
    noise = Noise(1e-3, 50)
    rule = rules.Tested(looks=(1, 3, 5), prior_sd=noise.sd, prior_df=noise.df)
    this = problem(rule)
    centre = freeze(START)
    star = neighbours(this, centre, GRIDS)
    for share, verdict in ((0.999, list), (1.001, tuple)):
        gain = share * noise.margin(rule.error_rate / (len(star) * 3), 1)
        table = Table(lambda p, gain=gain: 3.0 - gain * (p["beta2"] == 0.98))
        table.train([Trial(CELL, point, 0) for point in [centre, *star]])
        assert isinstance(rule.judge(opening(this, table), star), verdict)


def test_finer_points_share_the_error_rate():
    noise, rule = Noise(1e-3, 50), rules.Tested()
    points = [freeze({"x": i}) for i in range(10)]
    for share, proven in ((0.999, None), (1.001, points[4])):
        gain = share * noise.margin(rule.error_rate / 10, 1)
        losses = dict.fromkeys([CELL, *points], 3.0) | {points[4]: 3.0 - gain}
        state = SimpleNamespace(losses=losses, noise=noise, centre=CELL)
        assert rule.finer(state, points) == proven


@pytest.mark.parametrize("status", ["unrecorded", "missing", "failed"])
def test_a_cell_that_lacks_a_neighbour_is_not_complete(status):
    state, _ = settle(problem(), Table(bowl))
    assert certified(state)["complete"]
    left_out = neighbours(state.problem, state.centre, GRIDS)[0]
    if status == "unrecorded":
        state.take(left_out, [Outcome("unrecorded", math.inf)])
    else:
        del state.runs[left_out], state.losses[left_out]
    failed = {str(Trial(CELL, left_out, 0)): "it broke"} if status == "failed" else {}
    found = certified(state, failed=failed)
    assert not found["complete"] and [n["status"] for n in found["missing"]] == [status]


def test_certificate_names_what_would_overturn_the_choice():
    state, _ = settle(problem(), Table(bowl))
    found = certified(state, [(1, Outcome("finished", 3.1)), (2, Outcome("finished", 3.3))])
    nearest = min((n for n in found["neighbours"]), key=lambda n: n["loss"] - found["centre_loss"])
    assert found["overturn"]["changes"] == {nearest["hyperparameter"]: nearest["value"]}
    fall = found["overturn"]["fall"]
    assert fall == pytest.approx(nearest["loss"] - found["best_loss"])
    # Lower that run by a little less: the choice stands. By a little more: it falls.
    for extra, chosen in ((-1e-6, False), (1e-6, True)):
        changed = {**dict(state.centre), **found["overturn"]["changes"]}

        def loss(point, changed=changed, extra=extra):
            return bowl(point) - (fall + extra) * (point == changed)

        again, _ = settle(problem(start=dict(state.centre)), Table(loss))
        assert (again.best == freeze(changed)) is chosen
    assert found["noise"]["fresh_mean"] == pytest.approx(3.2)
    assert found["noise"]["fresh_sd"] == pytest.approx(0.2 / math.sqrt(2))
    assert found["trials"] == len(state.runs) + 2


def test_large_seed_effects_do_not_hide_small_gains():
    def train(trials, table):
        for trial in trials:
            shared = random.Random(f"seed{trial.seed}").gauss(0, 0.05)
            own = random.Random(repr(trial)).gauss(0, 5e-4)
            table.results[trial] = Outcome("finished", bowl(dict(trial.point)) + shared + own)

    this = dataclasses.replace(problem(rules.Tested()), calibrate=True)
    table = Table(bowl)
    while (state := descend(this, table)).pending:
        train(state.pending, table)
    assert dict(state.centre) == {"learning_rate": 0.008, "beta2": 0.98}
    assert state.noise.sd < 2e-3  # not the 0.05 of the seeds


def test_a_grid_of_decades_is_refined_by_factors_of_two_around_the_centre():
    decades = [1e-3, 1e-2, 0.1]
    assert between(decades, 0.01) == [0.0025, 0.005, 0.02, 0.04]
    assert between(decades, 0.02) == [0.005, 0.04, 0.08]
    assert not between([1, 2, 4], 2) and not between([0, 1, 10], 1) and not between([1, 10], 1)
