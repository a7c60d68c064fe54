"""The shipped grids are the study's; what is carried to the CPU ladder keeps their proportions."""

import json
from itertools import pairwise

import pytest

from benchmarks.planner import recorded
from configs import grids, ladder, study
from sweeps.plan import config as studies
from sweeps.plan.study import Study

PHASE_ONE = [
    ("130m", "1"),
    ("130m", "2"),
    ("130m", "4"),
    ("130m", "8"),
    ("300m", "1"),
    ("520m", "1"),
]
# Held fixed by the study's presets, so no part of a race.
FIXED = {
    *("min_lr_ratio", "nesterov", "lr_schedule", "partition_grads_into_blocks"),
    "preconditioner_init_scale",
}


def recorded_grids():
    for row in recorded.rows("grids.csv"):
        setting = (row["model_size"], row["chinchilla_ratio"])
        name = row["hyperparameter"]
        scheduled = (
            row["optimizer"] in ("muon", "scion") and name == "warmup"
        )  # off: constant start
        if row["phase"] == "I" and name not in FIXED and not scheduled:
            values = [recorded.value(json.dumps(v)) for v in json.loads(row["grid"])]
            yield row["optimizer"], setting, name, values, recorded.value(row["start"])


def test_grids_and_starts_are_the_published_ones():
    checked = 0
    for optimizer, setting, name, values, start in recorded_grids():
        entry = grids.published(optimizer)
        mine = entry["start"] | entry["starts"].get(f"{setting[0]},{setting[1]}x", {})
        assert mine[name] == start, (optimizer, setting, name)
        if setting == ("130m", "1"):
            assert [float(v) for v in entry["grids"].get(name, [])] == [float(v) for v in values]
        checked += 1
    assert checked > 500 and set(grids.GRIDS) == set(grids.STARTS)


def test_recentred_keeps_proportions():
    base = grids.recentred("adamw", "micro-xs", 0.1)
    assert base["grids"]["warmup"] == [50, 100, 200, 400] and base["start"]["warmup"] == 200
    assert base["grids"]["batch_size"] == [8, 16, 32, 64] and base["start"]["batch_size"] == 8
    assert base["grids"]["beta2"] == grids.GRIDS["adamw"]["beta2"]
    rates = base["grids"]["learning_rate"]
    assert len(rates) == 4 and base["start"]["learning_rate"] == rates[2] == 0.032
    assert [b / a for a, b in pairwise(rates)] == [2, 2, 2]
    soap = grids.recentred("soap", "micro-xs", 0.1)
    assert soap["grids"]["block_size"] == [16, 32, 64]
    lion = grids.recentred("lion", "micro-xs", 0.1)
    assert lion["grids"]["weight_decay"] == [0.1, 0.4, 0.7, 1]
    only = grids.recentred("muon", "micro-xs", 0.1, only=study.CORE)
    assert set(only["grids"]) == {"learning_rate", "momentum", "weight_decay", "decay", "beta2"}


@pytest.mark.parametrize("name", sorted(study.RACES))
def test_every_race_builds(name):
    race = Study(studies.complete(study.get_config(name)))
    race.config["data"]["fingerprint"] = "any"
    race.check()
    assert race.cells
    if name == "published":
        counts = {size: race.params(size) for size in race.config["sizes"]}
        assert counts == recorded.PARAMS
        assert race.steps(next(iter(race.cells)), 128) == grids.PUBLISHED_STEPS
    else:
        plain = {size.removesuffix("-modern") for size in race.config["sizes"]}
        assert plain <= set(ladder.SIZES)


def test_unknown_race_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'nano'"):
        study.get_config("nanno")
