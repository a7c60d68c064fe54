"""Over 200 trials on 8 workers while drivers, workers, their actors and nodes are killed at random.

    make stress

No result twice, no finished trial lost, the table that of an undisturbed run, to the byte. Prints
what was killed. BESTIARY_STRESS_SEED chooses another order of accidents.
"""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from cluster_rig import ROOT, Rig, table, trained, workers

from sweeps import run as run_lib

STUDY = str(ROOT / "tests/support/wide_race.py")
ACCIDENTS = {"driver": 5, "worker": 10, "actor": 5, "node": 2}


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def parent(process):
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.stress
@pytest.mark.timeout(3000)
def test_random_kills_leave_the_same_table(tmp_path):
    pytest.importorskip("ray")
    still, stormy = tmp_path / "still", tmp_path / "stormy"
    words = [f"--config={STUDY}", f"--workdir={still}", "--trainer=fake_trainer:train_pack"]
    assert run_lib.main(words) == 0
    total = len(trained(still))
    assert total >= 200
    seed = int(os.environ.get("BESTIARY_STRESS_SEED", "0"))
    rng, done, began = random.Random(seed), [], time.monotonic()
    plan = [name for name, count in ACCIDENTS.items() for _ in range(count)]
    rng.shuffle(plan)
    rig, drivers, output = Rig(2, num_cpus=4), 1, ""
    try:
        child = rig.drive(stormy, study=STUDY, sleep=0.5)
        while plan:
            due = (len(done) + rng.random()) / (len(done) + len(plan) + 1) * total * 0.9
            while len(trained(stormy)) < due:
                assert time.monotonic() - began < 2400, f"stuck after {done}"
                assert child.poll() is None, child.communicate()[0]
                time.sleep(0.05)
            what, here = plan.pop(), workers(stormy)
            if what == "driver":
                child.send_signal(signal.SIGKILL)
                output += child.communicate()[0]
                child, drivers = rig.drive(stormy, study=STUDY, sleep=0.5), drivers + 1
            elif what == "node":
                rig.kill(rng.choice(rig.nodes))
                rig.nodes.append(rig.add())
            elif here:
                victim = rng.choice(here)
                kill(victim if what == "worker" else parent(victim) or victim)
            done.append(what)
            print(f"{time.monotonic() - began:5.0f} s, {len(trained(stormy))} trained: {what}")
        last, _ = child.communicate(timeout=2400)
    finally:
        rig.close()
    assert child.returncode == 0, last
    names = trained(stormy)
    again = len(names) - len(set(names))
    print(
        f"{len(names)} trials, {drivers} drivers, {len(done)} accidents: {again} trained twice, "
        f"{len(set(trained(still)) - set(names))} lost, in {time.monotonic() - began:.0f} s"
    )
    assert again == 0 and set(names) == set(trained(still))
    assert table(stormy) == table(still)
