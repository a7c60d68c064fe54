"""Rules that raise, give NaN, change or hoard their state, alone and among good ones."""

import json

import pytest
from cluster_rig import Rig
from study_rig import ROOT

from lm import train
from lm.config import ConfigError
from optim import plugins
from sweeps import run as run_lib
from sweeps.dispatch.local import TRAINER

MODULE = """
import jax
import jax.numpy as jnp
import optax


def tx(rate, init, update=None):
    def plain(u, s, p=None):
        return jax.tree.map(lambda g: -rate * g, u), s

    return optax.GradientTransformation(init, update or plain)


def raises(learning_rate):
    raise RuntimeError("out of luck")


def holds(learning_rate):
    return tx(learning_rate, lambda p: jnp.zeros(2_500_000_000))


def nan(learning_rate):
    def update(u, s, p=None):
        return jax.tree.map(lambda g: g * jnp.nan, u), s

    return tx(learning_rate, lambda p: (), update)


def lies(learning_rate):
    def update(u, s, p=None):
        return jax.tree.map(lambda g: -learning_rate * g, u), s.astype(jnp.bfloat16)

    return tx(learning_rate, lambda p: jnp.zeros(1), update)
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Import paths of the module's rules."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "FOLDERS", [])
    plugins.load.cache_clear()
    module = f"hostile_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    return lambda name: f"{module}:{name}"


RACE = """
from configs import study


def get_config(optimizers=()):
    race = study.get_config("smoke", optimizers)
    with race.unlocked():
        race.phases, race.seeds = {"I": [["nano-xs", 0.125]], "II": []}, [0]
        for name in optimizers:
            entry = {**race.optimizers[name].to_dict(), "bounds": {}}
            race.optimizers[name] = entry | {"grids": {"learning_rate": [0.01, 0.1]}}
    return race
"""
GOOD = ("optax:adafactor", "optax.contrib:schedule_free_adamw")
BAD = {  # what becomes of the trials of each
    "raises": "RuntimeError: out of luck (",
    "lies": "body function carry input and carry output must have equal types",
    "holds": "GiB, ",
}


@pytest.fixture
def race(hostile, tmp_path):
    """The words of the smallest race of them all, and two of optax's."""
    (tmp_path / "race.py").write_text(RACE)
    names = ",".join([*map(hostile, BAD), hostile("nan"), *GOOD])
    return [f"--config={tmp_path}/race.py", f"--optimizers={names}", f"--workdir={tmp_path}/w"]


def harmed_their_own_trials_only(hostile, workdir):
    reasons = {}
    for path in (workdir / "attempts").glob("*.json"):
        config = json.loads((workdir / "trials" / path.stem / "config.json").read_text())
        found = reasons.setdefault(config["optimizer"]["name"], set())
        found |= {attempt["reason"] for attempt in json.loads(path.read_text())}
    assert set(reasons) == set(map(hostile, BAD))
    for name, reason in BAD.items():
        assert all(reason in line and "\n" not in line for line in reasons[hostile(name)])

    def best(name):
        path = workdir / f"certificates/{name}-nano-xs-0.125x.json"
        return json.loads(path.read_text())["best_loss"]

    assert all(1.5 < best(name) < 6 for name in GOOD) and best(hostile("nan")) is None


@pytest.mark.slow
def test_in_a_race_they_harm_their_own_trials_only(hostile, race, tmp_path, capsys):
    assert run_lib.main([*race, "--workers=2"]) == 2
    said = capsys.readouterr()
    harmed_their_own_trials_only(hostile, tmp_path / "w")
    assert "trials failed for good and hold 3 cells up; the first: " in said.err
    assert said.err.count("\n") == 1


@pytest.mark.stress
def test_on_a_cluster_too(hostile, race, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    rig = Rig(2, num_cpus=2)
    try:
        child = rig.drive(tmp_path / "w", *race, trainer=TRAINER)
        said, _ = child.communicate(timeout=600)
    finally:
        rig.close()
    assert child.returncode == 2, said
    harmed_their_own_trials_only(hostile, tmp_path / "w")


def test_one_run_is_one_line(hostile, tmp_path, capsys):
    for name, reason in {"raises": "out of luck (", "holds": "state_sharding says"}.items():
        path = hostile(name)
        words = [f"--config={ROOT}/configs/run.py:nano-xs,0.05x,{path}", f"--workdir={tmp_path}"]
        assert train.main([*words, "--config.optimizer.learning_rate=0.1"]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: optimizer {path}: ") and line.count("\n") == 1
        assert reason in line and f"python -m optim.check {path}" in line


def test_errors_that_are_not_the_optimizers_stay_what_they_are():
    mine, theirs = {"name": "adamw"}, {"name": "a:b", "source": "0"}
    with pytest.raises(KeyError), train.blamed(mine):
        raise KeyError("ours")
    with pytest.raises(OSError), train.blamed(theirs):
        raise OSError("disk")
    with pytest.raises(ConfigError, match="optimizer a:b: KeyError"), train.blamed(theirs):
        raise KeyError("theirs")
