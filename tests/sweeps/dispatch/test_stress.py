"""Over 200 short trials on 8 workers, while workers and drivers are killed; real trials resumed."""

import json

import pytest
from study_rig import STUDY, process, run, table, trained

pytestmark = pytest.mark.slow


def test_no_trial_is_lost_or_trained_twice(tmp_path):
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    wide = f"{STUDY}:wide"
    assert run(undisturbed, study=wide) == 0
    total, codes = len(trained(undisturbed)), []
    assert total >= 200
    while not codes or codes[-1]:
        accidents = {"kill_worker": 15, "kill_driver": 60}
        driver = process(disturbed, "--workers=8", study=wide, **accidents)
        output, _ = driver.communicate(timeout=300)
        codes.append(driver.returncode)
        assert codes[-1] in (0, -9), output
    assert codes.count(-9) == total // 60
    assert len(list(disturbed.glob("kill_worker-*"))) == total // 15
    results = trained(disturbed)
    assert len(results) == len(set(results)) == total
    assert table(disturbed) == table(undisturbed)
    assert not list(disturbed.rglob(".*"))  # nothing that a killed writer left


def losses(workdir):
    paths = (workdir / "trials").glob("*/result.json")
    return {path.parent.name: json.loads(path.read_text())["loss"] for path in paths}


def test_a_killed_worker_goes_on_from_its_checkpoints(tmp_path):
    for name, trainer in (("whole", "lm.train:train_pack"), ("cut", "cluster_trainers:mortal")):
        words = ("--workers=1", f"--trainer={trainer}")
        child = process(tmp_path / name, *words, study=f"{STUDY}:real")
        output, _ = child.communicate()
        assert child.returncode == 0, output
    assert "going on from the checkpoint at step" in (tmp_path / "cut/resumed").read_text()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole") != {}
