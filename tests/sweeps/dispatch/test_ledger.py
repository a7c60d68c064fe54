"""Results on disk: what counts, what is corrupt, what a full device does, how packs are cut."""

import errno
import json
import os
import random

import fake_trainer
import pytest
import tiny_race

from lm import config as run_config
from lm.storage import open_store, write_json
from sweeps.dispatch import ledger, packs
from sweeps.dispatch.ledger import Ledger
from sweeps.plan import config as study_config
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial, freeze


@pytest.fixture(scope="module")
def race():
    return Study(study_config.complete(tiny_race.get_config()))


def some_trial(race, **changes):
    cell = next(iter(race.cells))
    return Trial(cell, freeze({**race.start(cell), **changes}), 0)


def load(workdir, race):
    return Ledger(open_store(str(workdir)), race).open()


def train(race, workdir, trial):
    path = workdir / "trials" / race.hash(trial)
    path.mkdir(parents=True)
    fake_trainer.write(path, race.run(trial))
    return path


def test_a_trial_survives_the_disk(race, tmp_path):
    trials = [some_trial(race, learning_rate=rate) for rate in (0.004, 0.008, 0.5)]
    for trial in trials:
        train(race, tmp_path, trial)
    found = load(tmp_path, race)
    assert set(found.outcomes) == set(trials) and not found.corrupt and not found.strays
    assert [found.outcomes[t].status for t in trials] == ["finished", "finished", "diverged"]
    assert found.outcomes[trials[0]].loss == fake_trainer.loss_of(race.run(trials[0]))


def test_other_plans_trials_are_strays_not_results(race, tmp_path):
    config = race.run(some_trial(race))
    config["eval"]["points"] = 3
    path = tmp_path / "trials" / run_config.config_hash(config)
    path.mkdir(parents=True)
    fake_trainer.write(path, config)
    found = load(tmp_path, race)
    assert found.strays == [path.name] and not found.outcomes and not found.corrupt


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"status": "finished"}',
        '{"status": "great", "hash": "H"}',
        '{"status": "finished", "hash": "H", "loss": null, "flops": 1, "seconds": 1, "tokens": 1}',
        '{"status": "finished", "hash": "H", "loss": NaN, "flops": 1, "seconds": 1, "tokens": 1}',
        '{"status": "finished", "hash": "other", "loss": 1}',
    ],
)
def test_unusable_results_are_corrupt(race, tmp_path, text):
    path = train(race, tmp_path, some_trial(race))
    (path / "result.json").write_text(text.replace("H", path.name))
    found = load(tmp_path, race)
    assert list(found.corrupt) == [path.name] and not found.outcomes
    found.discard(path.name, "for a test", log=lambda line: None)
    assert (path / "result.json.corrupt").read_text() == text.replace("H", path.name)
    assert load(tmp_path, race).corrupt == {}


def test_binary_garbage_is_corrupt(race, tmp_path):
    path = train(race, tmp_path, some_trial(race))
    (path / "result.json").write_bytes(os.urandom(200))
    assert list(load(tmp_path, race).corrupt) == [path.name]


def test_recorded_results_read_back(race, tmp_path):
    trial = some_trial(race)
    config, found = run_config.what(race.run(trial)), load(tmp_path, race)
    found.record(trial, config, "infeasible", reason="memory: it does not fit")
    written = found.outcomes[trial]
    assert load(tmp_path, race).outcomes == {trial: written}
    assert (written.status, written.hash) == ("infeasible", race.hash(trial))
    assert written.reason == "memory: it does not fit" and written.loss == float("inf")


def test_a_result_that_cannot_be_used_is_set_aside_while_others_go_on(race, tmp_path):
    good, bad = (some_trial(race, learning_rate=rate) for rate in (0.004, 0.008))
    for trial in (good, bad):
        path = train(race, tmp_path, trial)
    (path / "result.json").write_bytes(b"\xff half an obj")
    found, said = Ledger(open_store(str(tmp_path)), race), []
    assert found.take([good, bad], said.append) == [good]
    assert len(said) == 1 and "is unusable and its trial runs again" in said[0]
    assert not (path / "result.json").exists() and (path / "result.json.corrupt").exists()


def test_the_index_spares_reading_and_is_rebuilt_from_the_results(race, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "SEGMENT", 4)
    trials = [some_trial(race, learning_rate=0.001 * (i + 1)) for i in range(10)]
    for trial in trials[:6]:
        train(race, tmp_path, trial)
    first = load(tmp_path, race)
    whole = first.outcomes.copy()
    for trial in trials[6:]:
        train(race, tmp_path, trial)
    assert not first.look()  # nobody has said so yet
    other = load(tmp_path, race)
    assert len(other.outcomes) == 10 and first.look() and first.outcomes == other.outcomes
    read, store = [], open_store(str(tmp_path))
    monkeypatch.setattr(store, "read_all", lambda names: read.extend(names) or [], raising=False)
    assert Ledger(store, race).open().outcomes == other.outcomes and not read
    monkeypatch.undo()
    # A result that was changed or removed by hand is not what the index says.
    (tmp_path / "trials" / race.hash(trials[0]) / "result.json").unlink()
    (tmp_path / "trials" / race.hash(trials[1]) / "result.json").write_text("{")
    found = load(tmp_path, race)
    assert trials[0] not in found.outcomes and list(found.corrupt) == [race.hash(trials[1])]
    for text in ('["cut sho', '["of", "another version"]\n', "5\n"):
        for path in tmp_path.glob("index/*/*/*"):
            path.write_text(text)
        assert set(load(tmp_path, race).outcomes) == set(trials[2:])
    assert set(whole) == set(trials[:6])


def test_a_full_device_says_so_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "study.json"
    write_json(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"no space left on the device for {path}"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["study.json"]


def test_packs_hold_one_program_each_and_every_trial_once():
    rng = random.Random(0)
    trials = [Trial(Cell("o", "s", 1), freeze({"x": i}), 0) for i in range(100)]
    programs = {trial: rng.choice("abc") for trial in trials}
    for width, workers in ((1, 1), (7, 1), (16, 2), (64, 8)):
        most = packs.Widths(width)
        found = packs.packs(trials, programs.get, lambda t: 1.0, width=most, workers=workers)
        assert sorted(t for p in found for t in p.trials) == sorted(trials)
        assert all({programs[t] for t in p.trials} == {p.key} for p in found)
        assert max(len(p.trials) for p in found) <= width
        sizes = [len(p.trials) for p in found]
        assert sizes == sorted(sizes, reverse=True)  # the longest first
    one = packs.packs(trials[:8], lambda t: "a", lambda t: 1.0, width=packs.Widths(16), workers=4)
    assert [len(p.trials) for p in one] == [2, 2, 2, 2]  # no worker is left idle
    some = packs.packs(
        trials, lambda t: "a", lambda t: 1.0, width=packs.Widths(16), alone=trials[:3].__contains__
    )
    assert [pack.trials for pack in some[-3:]] == [(trial,) for trial in trials[:3]]


def test_packs_are_as_wide_as_memory_holds_and_speed_rewards():
    def ran(width, tokens_per_second):
        run = Outcome("finished", 2.0, tokens=100.0, seconds=100.0 / tokens_per_second)
        widths.ran("a", [run] * width)

    widths = packs.Widths(16)
    assert widths("a") == 16
    widths.too_wide("a", 16)
    assert (widths("a"), widths("b")) == (8, 16)
    ran(4, 50.0), ran(8, 52.0)
    assert widths("a") == 8
    ran(4, 60.0)
    assert widths("a") == 4
    ran(2, 61.0)  # not clearly better than 4, but the best against 8
    assert widths("a") == 2
    widths.too_wide("a", 1)
    assert widths("a") == 1
