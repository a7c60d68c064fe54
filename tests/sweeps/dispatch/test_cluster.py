"""Studies on a simulated Ray cluster end as they do on one machine, whatever dies on the way."""

import json
import os
import signal
import time

import pytest
from cluster_rig import STUDY, Rig, table, trained, until, workers

from sweeps import run as run_lib
from sweeps.dispatch import resources
from sweeps.dispatch.executor import Report

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


def once(workdir):
    """No trial trained twice, none without its training."""
    names = trained(workdir)
    return len(names) == len(set(names)) == len(list((workdir / "trials").iterdir()))


class Scripted:
    """A gang of one seat without Ray: `node` is where it sits, `report` how its pack ended."""

    def __init__(self, name, *_):
        self.name, self.node, self.report, self.killed = name, None, None, False
        self.packs, self.whole, self.idle_since = [], True, time.monotonic()

    def nodes(self):
        return {self.node} - {None}

    def placed(self):
        return self.node is not None

    def send(self, pack):
        self.packs.append(pack["name"])
        self.report = None

    def poll(self, alive):
        return self.report

    def kill(self):
        self.killed = True


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """(executor, nodes, start): two nodes of one CPU, gangs that do what a test tells them."""
    from sweeps.dispatch import cluster

    nodes = [{"NodeID": name, "Alive": True, "Resources": {"CPU": 1}} for name in "ab"]
    monkeypatch.setattr(cluster.gangs, "connect", lambda *_: None)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster.Gang, "gather", Scripted)
    executor = cluster.Ray("auto", resources.parse("CPU=1"), workdir=tmp_path)

    def start(name):
        return executor.start([{}], [tmp_path / name], timeout=60.0)

    return executor, nodes, start


def test_a_seat_that_lost_its_place_with_a_node_gives_way_to_an_idle_one(scripted):
    executor, nodes, start = scripted
    first, second = start("first"), start("second")
    seat, stranded = first.gang, second.gang
    seat.node = "a"
    assert executor.poll(first) is None and executor.poll(second) is None
    seat.report = Report()
    assert executor.poll(first).cause is None
    assert executor.poll(second) is None and not stranded.killed  # it may be starting
    nodes[1]["Alive"], executor.looked = False, 0.0
    assert executor.poll(second) is None and stranded.killed and second.gang is seat
    assert seat.packs == [first.pack["name"], second.pack["name"]] and executor.capacity() == 0


def test_idle_seats_give_their_place_back_while_others_train(scripted):
    executor, _, start = scripted
    first, second = start("first"), start("second")
    idle, busy = first.gang, second.gang
    idle.node, busy.node, idle.report = "a", "b", Report()
    assert executor.poll(first).cause is None
    assert executor.poll(second) is None and not idle.killed
    idle.idle_since -= 31.0
    assert executor.poll(second) is None and idle.killed and not busy.killed


@pytest.mark.slow
def test_the_table_is_that_of_one_machine(rig, undisturbed, tmp_path):
    finish(rig.drive(tmp_path))
    assert once(tmp_path)
    assert table(tmp_path) == table(undisturbed)
    assert finish(rig.drive(tmp_path)).count("trials are finished already") == 1
    assert once(tmp_path)


@stress
def test_packs_outlive_their_driver_and_the_next_takes_them_over(rig, undisturbed, tmp_path):
    child = rig.drive(tmp_path, sleep=4.0)
    until(lambda: len(trained(tmp_path)) >= 1)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    before = len(trained(tmp_path))
    until(lambda: len(trained(tmp_path)) > before)  # they go on without a driver
    output = finish(rig.drive(tmp_path))
    assert "is running already" in output
    assert once(tmp_path)
    assert table(tmp_path) == table(undisturbed)


@stress
def test_a_lost_node_and_killed_workers_cost_their_packs_only(rig, undisturbed, tmp_path):
    node = rig.add(num_cpus=2)
    rig.nodes.append(node)
    child = rig.drive(tmp_path, sleep=0.3)
    until(lambda: len(workers(tmp_path)) >= 4 and len(trained(tmp_path)) >= 2)
    for process in workers(tmp_path)[:1]:
        os.kill(process, signal.SIGKILL)
    rig.kill(node)
    output = finish(child)
    assert "(preempted): node" in output or "(killed)" in output
    assert once(tmp_path)
    assert table(tmp_path) == table(undisturbed)


@stress
@pytest.mark.parametrize("accident", ["crash", "hang"])
def test_one_bad_trial_among_many_fails_alone(rig, tmp_path, accident):
    words = ("--timeout=5", "--config.pack.width=16")
    child = rig.drive(tmp_path, *words, **{accident: 0.032})
    output, _ = child.communicate(timeout=LONG)
    assert child.returncode == 2 and "trials failed for good" in output, output
    results = [json.loads(path.read_text()) for path in tmp_path.glob("trials/*/result.json")]
    assert {result["status"] for result in results} == {"finished"} and len(results) >= 15
    for path in tmp_path.glob("trials/*/attempts.json"):
        config = json.loads((path.parent / "config.json").read_text())
        assert config["optimizer"]["learning_rate"] == 0.032


@pytest.mark.slow
def test_what_no_node_has_is_refused_with_the_arithmetic(rig, tmp_path):
    child = rig.drive(tmp_path, "--resources=GPU=2,CPU=1")
    output, _ = child.communicate(timeout=LONG)
    assert child.returncode == 2 and output.count("\n") == 1
    assert "a pack needs GPU=2 CPU=1 on one host; 0 of 3 nodes have that" in output
    assert "2 x (CPU=2)" in output


@stress
def test_a_node_on_which_everything_dies_gets_no_more_packs(rig, undisturbed, tmp_path):
    node = rig.add(num_cpus=2, env_vars={"TEST_BAD_NODE": "1"})
    rig.nodes.append(node)
    child = rig.drive(tmp_path, trainer="cluster_trainers:picky", sleep=0.2)
    output = finish(child)
    rig.kill(node)
    attempts = (tmp_path / "attempts").read_text().split()
    assert "gets no more packs" in output
    assert 2 <= attempts.count("bad") < attempts.count("good")
    assert table(tmp_path) == table(undisturbed)


def told(workdir):
    """What each gang process was told: by trial, lists of (rank, count, coordinator)."""
    packs = {}
    for line in (workdir / "gang").read_text().splitlines():
        name, *words = line.split()
        packs.setdefault(name, []).append(tuple(words))
    return packs


@pytest.mark.slow
def test_a_gang_has_one_process_on_each_host(rig, undisturbed, tmp_path):
    finish(rig.drive(tmp_path, "--resources=CPU=1,hosts=2", trainer="cluster_trainers:gang"))
    for words in told(tmp_path).values():
        assert sorted(rank for rank, _, _ in words) == ["0", "1"]
        assert len({(count, address) for _, count, address in words}) == 1
    assert table(tmp_path) == table(undisturbed)


@stress
def test_a_slice_that_loses_a_host_starts_its_run_again_once(rig, undisturbed, tmp_path):
    text = "slice=v4-2x2x2"
    need = resources.parse(text)

    def host(rank):
        labels = {**need.labels, resources.SLICE: "s", resources.RANK: str(rank)}
        rig.nodes.append(rig.add(num_cpus=1, resources={"TPU": 4}, labels=labels))
        return rig.nodes[-1]

    hosts = [host(0), host(1)]
    words = {"trainer": "cluster_trainers:gang", "sleep": 0.5}
    child = rig.drive(tmp_path, f"--resources={text}", **words)
    until(lambda: len(trained(tmp_path)) >= 3)
    rig.kill(hosts[1])  # while it trains: the others' part of a trial takes most of its time
    hosts[1] = host(1)
    output = finish(child)
    for node in hosts:
        rig.kill(node)
    assert output.count("lost 1 trials (preempted)") == 1
    gangs = [{address for _, _, address in words} for words in told(tmp_path).values()]
    assert sorted(map(len, gangs))[-2:] == [1, 2] and len(set.union(*gangs)) == 2
    assert once(tmp_path)
    assert table(tmp_path) == table(undisturbed)


@stress
def test_a_killed_pack_goes_on_from_its_checkpoints(rig, tmp_path):
    study = f"{STUDY}:real"
    finish(rig.drive(tmp_path / "whole", study=study, trainer="lm.train:train_pack"))
    finish(rig.drive(tmp_path / "cut", study=study, trainer="cluster_trainers:mortal"))
    assert "going on from the checkpoint at step" in (tmp_path / "cut/resumed").read_text()
    (_, whole), (_, cut) = table(tmp_path / "whole"), table(tmp_path / "cut")
    assert {k: json.loads(v)["loss"] for k, v in whole.items()} == {
        k: json.loads(v)["loss"] for k, v in cut.items()
    }
