"""The door to the planner: asked, told, certified, without a trainer of ours."""

import json
import math
import random
import subprocess
import sys

import pytest
import tiny_race

import sweeps
from sweeps.dispatch.begun import Refused


def config():
    """Optimizers that nobody here knows, with knobs of their own."""
    entry = {
        "start": {"learning_rate": 0.016, "sharpness": 2.0, "batch_size": 8},
        "grids": {"learning_rate": [0.004, 0.008, 0.016, 0.032], "sharpness": [1.0, 2.0, 4.0]},
        "bounds": {"learning_rate": [1e-4, 1.0]},
    }
    return {**tiny_race.get_config(), "optimizers": {"mine": entry, "yours": entry}}


def loss_of(run):
    optimizer, train = run["optimizer"], run["train"]
    octaves = math.log2(optimizer["learning_rate"] / 0.008)
    residual = random.Random(json.dumps(run, sort_keys=True)).gauss(0, 1e-4)
    level = 3 - 0.1 * math.log(train["chinchilla_ratio"]) - 0.02 * (optimizer["name"] == "mine")
    return level + 0.02 * octaves**2 + 0.004 * math.log2(optimizer["sharpness"]) + residual


def play(race, n=5, accidents=None):
    """Trains until the race is over; `accidents` gives the end of some attempts."""
    while trials := race.ask(n):
        for trial in trials:
            if accidents and (status := accidents(trial)):
                race.tell(trial.hash, status=status, reason="power cut")
            else:
                race.tell(trial.hash, loss=loss_of(trial.config), seconds=1.0)
    return race.certificates()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("race")
    return workdir, play(sweeps.Race(config(), workdir))


def test_a_race_is_asked_told_and_certified(whole):
    workdir, found = whole
    cells = {f"{name}-nano-xs-{ratio}x" for name in ("mine", "yours") for ratio in (1, 2)}
    assert set(found) == cells
    assert all(c["complete"] and c["best"]["learning_rate"] == 0.008 for c in found.values())
    results = [json.loads(path.read_text()) for path in workdir.glob("trials/*/result.json")]
    assert len(results) == sum(c["trials"] for c in found.values())
    assert all(r["tokens"] > 0 and r["flops"] > 0 and r["seconds"] == 1.0 for r in results)


def test_accidents_and_restarts_lead_to_the_same_certificates(whole, tmp_path):
    rng, seen = random.Random(0), set()

    def accident(trial):
        if trial.hash not in seen and rng.random() < 0.3:
            seen.add(trial.hash)
            return rng.choice(["failed", "killed", "memory", "preempted"])

    race = sweeps.Race(config(), tmp_path)
    first = race.ask(3)
    race.tell(first[0].hash, loss=loss_of(first[0].config), seconds=1.0)
    again = sweeps.Race(config(), tmp_path)  # the other two were never told of
    assert {t.hash for t in first[1:]} < {t.hash for t in again.ask(100)}
    assert play(sweeps.Race(config(), tmp_path), accidents=accident) == whole[1] and seen
    for name in whole[1]:
        path = f"certificates/{name}.json"
        assert (tmp_path / path).read_bytes() == (whole[0] / path).read_bytes()


def test_what_fails_for_good_is_named_and_nobody_is_asked_again(tmp_path):
    race = sweeps.Race(config(), tmp_path)
    bad = lambda trial: "failed" if trial.config["optimizer"]["sharpness"] == 4.0 else None  # noqa: E731
    found = play(race, accidents=bad)
    assert set(found) == {"mine-nano-xs-1x", "yours-nano-xs-1x"}
    for one in found.values():
        assert not one["complete"] and "power cut" in one["failed"][0]["reason"]
    found = play(sweeps.Race(config(), tmp_path / "m"), accidents=lambda t: bad(t) and "memory")
    assert len(found) == 4 and all(one["complete"] for one in found.values())
    assert {bool(one["infeasible"]) for one in found.values() if one["phase"] == "I"} == {True}


def test_when_everything_fails_at_first_the_race_stops(tmp_path):
    with pytest.raises(Refused, match=r"the first \d+ trials all failed; the last: failed: power"):
        play(sweeps.Race(config(), tmp_path), accidents=lambda trial: "failed")
    assert not list(tmp_path.glob("trials/*/*"))


def test_mistakes_are_one_line(tmp_path, whole):
    race = sweeps.Race(config(), tmp_path)
    trial, other = race.ask(2)
    for words, expected in (
        ({"hash": "nobody", "loss": 3.0}, "is no trial that was asked for"),
        ({"hash": trial.hash, "status": "done"}, "status='done' is not one of finished"),
        ({"hash": trial.hash, "loss": math.nan}, "loss=nan does not go with status='finished'"),
        ({"hash": trial.hash, "status": "failed", "loss": 1.0}, "does not go with"),
    ):
        with pytest.raises(ValueError, match=expected):
            race.tell(**words)
    race.tell(trial.hash, loss=3.0)
    with pytest.raises(ValueError, match="not yet told of"):
        race.tell(trial.hash, loss=3.0)
    race.tell(other.hash, status="diverged", reason="loss is not finite")
    with pytest.raises(Refused, match="holds a different study: seeds is"):
        sweeps.Race({**config(), "seeds": [7]}, tmp_path)


def test_nothing_of_jax_is_imported(tmp_path):
    code = f"""if True:
        import sys, sweeps
        race = sweeps.Race({config()!r}, {str(tmp_path)!r})
        (trial,) = race.ask()
        race.tell(trial.hash, loss=3.0)
        race.certificates()
        sys.exit('jax' in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_the_report_is_that_of_any_study(whole):
    page = sweeps.Race(config(), whole[0]).report()
    assert page.exists() and "mine" in page.read_text()
