"""A challenge: designs that fit a time, a race from check to verdict, one that is joined."""

import json

import pytest
import study_rig

from configs import challenge as races
from optim import plugins
from sweeps import challenge
from sweeps.plan import design
from sweeps.plan.config import complete

OWN = "def make(learning_rate, beta2: float = 0.95): ...\n"


@pytest.fixture
def name(tmp_path, monkeypatch):
    """An optimizer that lies in the current folder; the fake trainer does not build it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{study_rig.ROOT}:{study_rig.ROOT}/tests/support")
    monkeypatch.chdir(tmp_path)
    plugins.load.cache_clear()
    module = f"own_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(OWN)
    return f"{module}:make"


def run(*words):
    fake = ["--trainer=fake_trainer:train_pack", "--size=nano-xs", "--ratios=0.5x,1x"]
    return challenge.main([*words, *fake])


def row(quantity, value, low="", high="", note="", ratio=1):
    cell = {"optimizer": "mine", "model_size": "nano-s", "chinchilla_ratio": ratio}
    numbers = {"value": value, "low": low, "high": high, "note": note}
    return {"table": "gap", "quantity": quantity, **cell, **numbers}


@pytest.mark.slow
def test_from_the_first_speed_to_the_verdict(name, tmp_path, capfd, monkeypatch):
    """The check and the report are commands of their own: tests/test_your_optimizer.py has them."""
    do = challenge._do

    def others_only(words, **how):
        if words[0] == "sweeps.run":
            return do(words, **how)
        if words[0] == "analysis.report":
            out = tmp_path / words[-1].removeprefix("--out=")
            out.mkdir()
            found = row("nats", "-0.02", "-0.03", "-0.01", "slower") | {"optimizer": name}
            lines = [",".join(map(str, part)) for part in (found, found.values())]
            (out / "numbers.csv").write_text("\n".join(lines))
        return 0

    monkeypatch.setattr(challenge, "_do", others_only)
    assert run(name, "--against=adamw", "--seeds=4") == 0
    said = capfd.readouterr().out
    assert "measuring: 0.5x with one seed" in said
    assert f"the race: adamw against {name} at nano-xs 0.5x, nano-xs 1x" in said
    assert "4 seeds, " in said and "4 of 4 cells are certified" in said
    assert f"nano-s 1x: {name} is 0.0200 nats above adamw" in said
    workdir = next((tmp_path / "runs").iterdir())
    study = json.loads((workdir / "study.json").read_text())
    assert study["seeds"] == [0, 1, 2, 3] and study["baseline"] == "adamw"
    before = study_rig.trained(workdir)
    assert run("nadamw", "--against=adamw", f"--extend={workdir}", "--dry_run") == 0
    assert f"adamw against nadamw against {name} at nano-xs 0.5x" in capfd.readouterr().out
    assert run(name, "--against=adamw", "--hours=0.0001", "--seeds=9") == 2
    assert "--hours=0.0001 is too short: " in capfd.readouterr().err
    assert study_rig.trained(workdir) == before


def test_designs_take_all_budgets_first_and_then_seeds(name, capsys):
    found = {}
    for hours in (0.009, 0.02, 0.03, 20):
        assert run("nadamw", "--against=adamw", f"--hours={hours}", "--dry_run") == 0
        found[hours] = capsys.readouterr().out
    assert "nano-xs 0.5x\n" in found[0.009] and "nano-xs 0.5x, nano-xs 1x\n" in found[0.02]
    assert f"  {design.SEEDS[0]} seeds" in found[20]
    seeds = [int(said.split(" seeds")[0].split()[-1]) for said in found.values()]
    assert seeds[1:] == sorted(seeds[1:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["muno"], "did you mean 'muon'"),
        (["muon", "--against=muon"], "is the challenger itself"),
        (["muon", "--size=nano"], "did you mean 'nano-"),
        (["muon", "--ratios=fast"], "ratio 'fast' is not a positive number"),
        (["muon", "--hours=0.00001", "--seeds=3", "--ratios=1x"], "too short"),
        (["muon", "--extend=nowhere"], "--extend=nowhere holds no study"),
    ],
)
def test_what_cannot_be_raced_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert challenge.main([*words, "--dry_run"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_cannot_even_be_measured_in_time_is_not_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert challenge.main(["muon", "--size=micro-l", "--hours=0.5"]) == 2
    assert "1x with one seed alone takes about " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_optimizer_whose_properties_fail_races_only_by_force(name, monkeypatch):
    monkeypatch.setattr(challenge, "_do", lambda words, allowed: 3)
    with pytest.raises(challenge.Refused, match="3 of its properties fail; mend them, or race it"):
        challenge._check(name, force=False)
    challenge._check(name, force=True)


def test_a_joined_race_stays_as_it_is_but_for_the_newcomer(name):
    race = complete({"name": "old", **races.duel("nano-xs", [0.5, 1.0], ["lion", "muon"])})
    joined = races.joined(race, ["muon", name, "nadamw"])
    assert list(joined["optimizers"]) == ["lion", "muon", name, "nadamw"]
    assert {**joined, "optimizers": race["optimizers"]} == race | {"optimizers": race["optimizers"]}
    assert list(joined["optimizers"][name]["grids"]) == ["learning_rate"]
    with pytest.raises(ValueError, match="trained elsewhere"):
        races.joined({**race, "told": True}, [name])


def test_the_verdict_says_what_the_table_says():
    numbers = [
        row("nats", "-0.02", "-0.03", "-0.01", "slower"),
        row("detectable", "0.012"),
        row("nats", "0.004", "-0.002", "0.01", "not resolvable", ratio=2),
        row("detectable", "0.008", ratio=2),
        row("seeds_to_settle", "17", ratio=2),
        row("nats", "0.001", "-0.02", "0.022", "not resolvable", ratio=4),
        row("nats", "0.5", ratio=8, note="noise unknown"),
        {"table": "doubt", "optimizer": "", "note": "One size only."},
    ]
    assert challenge.verdict(numbers, "mine", "muon")[1:] == [
        "nano-s 1x: mine is 0.0200 nats above muon (0.0100 to 0.0300): slower; 0.0120 would have "
        "been found",
        "nano-s 2x: mine is 0.0040 nats below muon (-0.0020 to 0.0100): not resolvable; 0.0080 "
        "would have been found; 17 fresh seeds would settle it (--seeds=18)",
        "nano-s 4x: mine is 0.0010 nats below muon (-0.0200 to 0.0220): not resolvable; no more "
        "seeds of these cells would settle it",
        "nano-s 8x: mine is 0.5000 nats below muon",
        "doubt: One size only.",
    ]
    assert challenge.verdict([], "mine", "muon") == [
        "",
        "no cell of mine and muon can be compared",
    ]
