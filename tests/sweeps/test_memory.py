"""Trials and packs that a machine's memory does not hold."""

import json
import shutil

import fake_trainer
import pytest
from study_rig import certificate, run, table, trained

from lm.storage import open_store
from lm.storage.store import encode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "w"
    assert run(workdir) == 0
    return workdir


def test_one_trial_that_never_fits_in_memory_is_infeasible(tmp_path, capsys, monkeypatch):
    train = fake_trainer.train_pack

    def limited(configs, folders, **others):
        if any(config["optimizer"]["learning_rate"] == 0.004 for config in configs):
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory while trying to allocate")
        return train(configs, folders, **others)

    monkeypatch.setattr(fake_trainer, "train_pack", limited)
    assert run(tmp_path) == 0
    found = certificate(tmp_path, "adamw-nano-xs-1x")
    (one,) = [n for n in found["infeasible"] if n["changes"] == {"learning_rate": 0.004}]
    assert found["complete"] and "RESOURCE_EXHAUSTED" in one["reason"]
    assert "is infeasible: memory: RuntimeError: RESOURCE_EXHAUSTED" in capsys.readouterr().out
    result = json.loads((tmp_path / "trials" / one["hash"] / "result.json").read_text())
    assert (result["status"], result["loss"]) == ("infeasible", None)


def test_what_a_machine_cannot_hold_is_left_to_larger_ones(
    undisturbed, tmp_path, capsys, monkeypatch
):
    train = fake_trainer.train_pack

    def small(configs, folders, **others):
        if configs[0]["optimizer"]["name"] == "adamw":
            raise MemoryError("the training state takes 90.0 GiB; its devices hold 24.0")
        train(configs, folders, **others)

    monkeypatch.setattr(fake_trainer, "train_pack", small)
    other = {"counter": 1, "heartbeat": 10.0, "machine": "far"}
    open_store(str(tmp_path)).swap("workers/far", encode(other), None)
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "what is left to train does not fit this machine: the training state takes" in error
    assert error.count("\n") == 1 and len(trained(tmp_path)) > 10  # all that fits
    assert not list(tmp_path.glob("attempts/*"))  # nobody is charged
    shutil.rmtree(tmp_path / "workers")
    monkeypatch.setattr(fake_trainer, "train_pack", train)
    assert run(tmp_path) == 0
    assert table(tmp_path) == table(undisturbed)


def test_where_nothing_fits_in_memory_nothing_is_infeasible(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: somebody else has the device")

    monkeypatch.setattr(fake_trainer, "train_pack", full)
    assert run(tmp_path) == 2
    assert "trials all failed; the last: memory" in capsys.readouterr().err
    assert not list((tmp_path / "trials").glob("*/*.json"))


def test_a_pack_too_wide_for_memory_is_halved_and_stays_so(undisturbed, tmp_path, monkeypatch):
    train, widths = fake_trainer.train_pack, []

    def limited(configs, folders, **others):
        widths.append(len(configs))
        if len(configs) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory while trying to allocate")
        return train(configs, folders, **others)

    monkeypatch.setattr(fake_trainer, "train_pack", limited)
    assert run(tmp_path) == 0
    assert table(tmp_path) == table(undisturbed)
    programs = 2 * 2  # two optimizers, two lengths: each finds its limit once
    assert sum(width > 2 for width in widths) <= programs
