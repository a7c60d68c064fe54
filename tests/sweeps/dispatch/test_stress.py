"""Over 200 short trials on 8 workers, while workers and drivers are killed at random."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
from study_rig import STUDY, kill, process, run, table, trained

pytestmark = pytest.mark.slow


def children(parent):
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    )
    return [int(pid) for pid in found.stdout.split()]


def test_no_trial_is_lost_or_trained_twice(tmp_path):
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    wide = f"{STUDY}:wide"
    assert run(undisturbed, study=wide) == 0
    total = len(trained(undisturbed))
    assert total >= 200
    rng, killed = random.Random(0), {"worker": 0, "driver": 0}
    while True:
        driver = process(disturbed, "--workers=8", study=wide, sleep=0.1)
        stop = len(trained(disturbed)) + rng.randint(40, 80)  # results until this driver dies
        while driver.poll() is None and len(trained(disturbed)) < stop:
            time.sleep(0.2 * rng.random())
            workers = children(driver.pid)
            if workers and len(trained(disturbed)) and rng.random() < 0.7:
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed["worker"] += 1
        if driver.poll() is not None:
            break
        kill(driver)
        killed["driver"] += 1
    output, _ = driver.communicate()
    assert driver.returncode == 0, output
    assert killed["driver"] >= 2 and killed["worker"] >= 4, killed
    results = trained(disturbed)
    assert len(results) == len(set(results)) == total
    assert table(disturbed) == table(undisturbed)


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
