"""A study in a bucket: run, watched, read and worked on as one on a disk."""

import errno
import itertools
import json

import azurite
import fake_bucket
import pytest
from study_rig import command, run, table

from analysis.runs import reader
from lm.storage import open_store
from sweeps import run as run_lib
from sweeps import status, work
from sweeps.dispatch.local import keep_sources, sources
from sweeps.dispatch.worker import Worker


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    with fake_bucket.Bucket() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("BESTIARY_JOURNAL", str(tmp_path))
        open_store.cache_clear()
        yield found
    open_store.cache_clear()


@pytest.fixture
def azure(bucket, monkeypatch):
    with azurite.azurite() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
@pytest.mark.slow
def test_a_study_in_a_bucket_ends_as_on_a_disk(
    bucket, tmp_path, capsys, scheme, monkeypatch, request
):
    if scheme == "az":
        request.getfixturevalue("azure")
    address, words = f"{scheme}://race/studies/tiny", ["--config.phases.II=[]"]
    assert run_lib.main([*command(address), *words]) == 0
    assert work.main([f"--workdir={address}", "--trainer=fake_trainer:train_pack"]) == 0
    assert run_lib.main([*command(address), *words, "--config.seeds=[7]"]) == 2
    assert "holds a different study: seeds is" in capsys.readouterr().err
    assert status.main([address]) == 0
    assert "2 of 2 cells certified" in capsys.readouterr().out
    monkeypatch.delenv("BESTIARY_JOURNAL")
    assert run(tmp_path / "disk", *words) == 0
    store = open_store(address)
    certificates, names = table(tmp_path / "disk")
    assert {n: store.read(f"certificates/{n}") for n in store.list("certificates")} == certificates
    assert list(store.find("trials", "result.json")) == names
    assert not store.list("claims") and not store.list("workers")
    there, here = reader.load(address).runs, reader.load(tmp_path / "disk").runs
    assert there["loss"].tolist() == here["loss"].tolist()


@pytest.mark.slow
def test_a_bucket_that_fails_for_a_while_costs_nothing(bucket, capsys, monkeypatch):
    step, calls = Worker.step, itertools.count()

    def failing(self):
        over = step(self)
        if over is None and next(calls) % 4 == 2:
            raise OSError(errno.EACCES, "cannot be listed: slow down", "s3://race/x/attempts")
        return over

    monkeypatch.setattr(Worker, "step", failing)
    monkeypatch.setattr("sweeps.dispatch.worker.LOOK", (0.01, 0.01))
    assert run_lib.main([*command("s3://race/flaky"), "--config.phases.II=[]"]) == 0
    output = capsys.readouterr().out
    assert "the store does not answer" in output and "2 of 2 cells are certified" in output


def test_what_a_bucket_does_not_hold_is_one_line(bucket, capsys):
    for main, words, expected in (
        (run_lib.main, command("s3://nowhere/x"), "there is no such bucket"),
        (work.main, ["--workdir=s3://race/empty"], "holds no study"),
        (status.main, ["gs://race/empty"], "holds no study"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    bucket.objects["half/study.json"] = (1, json.dumps({"name": "x"})[:5].encode())
    for main, words in (
        (work.main, ["--workdir=s3://race/half"]),
        (status.main, ["s3://race/half"]),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "study.json cannot be read" in error and error.count("\n") == 1


@pytest.mark.slow
def test_who_has_no_rights_is_told_in_a_line_and_nothing_is_lost(bucket, capsys):
    address, words = "s3://race/mine", ["--config.phases.II=[]"]
    worker = [f"--workdir={address}", "--trainer=fake_trainer:train_pack"]
    assert run_lib.main([*command(address), *words]) == 0
    kept = dict(bucket.objects)
    bucket.denied = ("PUT", "POST", "DELETE")
    assert status.main([address]) == 0  # who may read may look
    assert "2 of 2 cells certified" in capsys.readouterr().out
    extended = [*command(address), *words, "--config.seeds=[0,1,2,3]", "--extend"]
    assert run_lib.main([*extended, "--dry_run"]) == 0
    for main, arguments in ((run_lib.main, extended), (work.main, worker)):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "cannot be written: Access Denied" in error and error.count("\n") == 1
    bucket.denied += ("GET",)
    for main, arguments in ((work.main, worker), (status.main, [address])):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "study.json: cannot be read: Access Denied" in error and error.count("\n") == 1
    assert bucket.objects == kept


def test_own_optimizers_travel_with_the_study(bucket, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "def make(learning_rate, beta2: float = 0.95): ...\n"
    (tmp_path / "own_far.py").write_text(text)
    store = open_store("s3://race/own")
    keep_sources(store, ["own_far:make"])
    assert (sources(store) / "own_far.py").read_text() == text
    assert not sources(open_store("s3://race/none")).is_dir()
