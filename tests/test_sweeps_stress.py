"""Over 200 short trials on 8 workers, while workers and drivers are killed at random."""

import os
import random
import signal
import subprocess
import time

import pytest
from test_sweeps_run import STUDY, kill, process, run, table, trained

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
