"""Studies on a simulated Ray cluster end as they do on one machine, whatever dies on the way."""

import json
import os
import signal

import pytest
from cluster_rig import STUDY, Rig, workers
from study_rig import table, trained, until

from sweeps import run as run_lib

pytest.importorskip("ray")
stress = pytest.mark.stress
LONG = 400  # seconds for a study on a busy machine


@pytest.fixture(scope="module")
def rig():
    rig = Rig(2, num_cpus=2)
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("local") / "w"
    words = [f"--config={STUDY}", f"--workdir={workdir}", "--trainer=fake_trainer:train_pack"]
    assert run_lib.main(words) == 0
    return workdir


def finish(child):
    output, _ = child.communicate(timeout=LONG)
    assert child.returncode == 0, output
    noise = ("INFO", "WARNING", "Warning", "dashboard", "usage")
    assert not any(word in output for word in noise), output
    return output


@stress
def test_the_table_is_that_of_one_machine(rig, undisturbed, tmp_path):
    finish(rig.drive(tmp_path))
    assert len(trained(tmp_path)) == len(set(trained(tmp_path)))
    assert table(tmp_path) == table(undisturbed)
    assert finish(rig.drive(tmp_path)).count("trials are finished already") == 1
    assert table(tmp_path) == table(undisturbed)


@pytest.mark.slow
def test_what_no_node_has_is_refused_with_the_arithmetic(rig, tmp_path):
    child = rig.drive(tmp_path, "--resources=GPU=2,CPU=1")
    output, _ = child.communicate(timeout=LONG)
    assert child.returncode == 2 and output.count("\n") == 1
    assert "a worker needs GPU=2 CPU=1 on one host; 0 of 3 nodes have that" in output
    assert "2 x (CPU=2)" in output


@stress
def test_workers_outlive_their_driver(rig, undisturbed, tmp_path):
    child = rig.drive(tmp_path, sleep=0.5)
    until(lambda: trained(tmp_path))
    child.send_signal(signal.SIGKILL)
    child.communicate()
    until(lambda: len(trained(tmp_path)) == len(trained(undisturbed)), LONG)  # without a driver
    finish(rig.drive(tmp_path))
    assert len(trained(tmp_path)) == len(set(trained(tmp_path)))
    assert table(tmp_path) == table(undisturbed)


@stress
def test_ctrl_c_stops_all_workers_and_the_next_driver_goes_on(rig, undisturbed, tmp_path):
    child = rig.drive(tmp_path, sleep=0.5)
    until(lambda: trained(tmp_path))
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=LONG)
    assert child.returncode == 130 and "running packs save and stop" in output, output
    assert not workers(tmp_path) and not list(tmp_path.glob("workers/*"))
    finish(rig.drive(tmp_path))
    assert table(tmp_path) == table(undisturbed)


@stress
def test_a_lost_node_and_killed_processes_cost_their_packs_only(rig, undisturbed, tmp_path):
    node = rig.add(num_cpus=2)
    rig.nodes.append(node)
    child = rig.drive(tmp_path, sleep=0.3)
    until(lambda: len(workers(tmp_path)) >= 4 and len(trained(tmp_path)) >= 2)
    for process in workers(tmp_path)[:1]:
        os.kill(process, signal.SIGKILL)
    rig.kill(node)
    finish(child)
    assert table(tmp_path) == table(undisturbed)


@stress
def test_a_node_on_which_everything_dies_is_left(rig, undisturbed, tmp_path):
    node = rig.add(num_cpus=2, env_vars={"TEST_BAD_NODE": "1"})
    rig.nodes.append(node)
    child = rig.drive(tmp_path, trainer="cluster_trainers:picky", sleep=0.2)
    finish(child)
    rig.kill(node)
    attempts = (tmp_path / "attempts-made").read_text().split()
    assert 1 <= attempts.count("bad") < attempts.count("good")
    assert table(tmp_path) == table(undisturbed)
    strikes = [json.loads(path.read_text())["strikes"] for path in tmp_path.glob("nodes/*")]
    assert sorted(strikes)[-1] >= 2 and sorted(strikes)[0] == 0
