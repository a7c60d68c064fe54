"""A study in a bucket: run, watched, read and worked on as one on a disk."""

import errno
import itertools
import json

import fake_bucket
import pytest
from study_rig import command, run, table

from analysis.runs import reader
from lm.storage import open_store
from sweeps import run as run_lib
from sweeps import status, work
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


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_study_in_a_bucket_ends_as_on_a_disk(bucket, tmp_path, capsys, scheme, monkeypatch):
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
    assert work.main(["--workdir=s3://race/half"]) == 2
    assert "cannot be read" in capsys.readouterr().err
