"""Who may train a trial: leases, places on a cluster, nodes to avoid."""

import json
import multiprocessing
import os
import subprocess
import sys

import pytest

from sweeps.dispatch import lease, resources
from sweeps.dispatch.quarantine import Quarantine


def owner_elsewhere(folder):
    """A lease of a process on another machine."""
    folder.mkdir(exist_ok=True)
    (folder / "lease").write_text(json.dumps({"machine": "far", "process": 1, "token": "x"}))


def test_a_lease_is_released_and_finished_trials_are_skipped(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    folders[1].mkdir()
    (folders[1] / "result.json").write_text("{}")
    with lease.held(folders, heartbeat=0.1) as needed:
        assert needed == [True, False]
        assert all((folder / "lease").exists() for folder in folders)
    assert not list(tmp_path.glob("*/*lease*"))


class Clock:
    """Time that passes only while somebody waits; `tick` is called each time."""

    def __init__(self):
        self.now, self.tick = 0.0, lambda: None

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.tick()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    return clock


def test_a_living_owner_is_waited_for_and_its_result_is_found(tmp_path, clock):
    owner_elsewhere(tmp_path / "a")
    path = tmp_path / "a/lease"

    def work():
        os.utime(path, (clock.now, clock.now))
        if clock.now > 300:  # longer than three heartbeats
            (tmp_path / "a/result.json").write_text("{}")
            path.unlink()

    clock.tick = work
    with lease.held([tmp_path / "a"], heartbeat=60.0) as needed:
        assert needed == [False] and clock.now > 300


def test_a_silent_owner_is_replaced_after_three_heartbeats(tmp_path, clock):
    owner_elsewhere(tmp_path / "a")
    with lease.held([tmp_path / "a"], heartbeat=60.0) as needed:
        assert needed == [True] and 180 < clock.now < 183


def test_a_dead_process_of_this_machine_is_replaced_at_once(tmp_path, clock):
    code = f"""if True:
        import os, pathlib
        from sweeps.dispatch import lease
        lease.take(pathlib.Path({str(tmp_path / "a")!r}), 60.0)
        os._exit(0)"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "a/lease").exists()
    with lease.held([tmp_path / "a"], heartbeat=60.0) as needed:
        assert needed == [True] and clock.now == 0


def test_leases_are_taken_in_one_order_so_that_nobody_waits_in_a_circle(tmp_path, monkeypatch):
    taken, take = [], lease.take
    monkeypatch.setattr(lease, "take", lambda f, beat: (taken.append(f.name), take(f, beat))[1])
    with lease.held([tmp_path / name for name in "bca"], heartbeat=60.0):
        assert taken == ["a", "b", "c"]


def test_a_lease_that_changed_hands_meanwhile_is_put_back(tmp_path):
    owner_elsewhere(tmp_path)
    lease._remove(tmp_path / "lease", "what the slower of two waiters saw")
    assert json.loads((tmp_path / "lease").read_text())["machine"] == "far"
    assert [path.name for path in tmp_path.iterdir()] == ["lease"]


def test_whoever_loses_a_lease_ends(tmp_path):
    code = f"""if True:
        import time
        from sweeps.dispatch import lease
        with lease.held([{str(tmp_path / "a")!r}], heartbeat=0.05):
            print("held", flush=True)
            time.sleep(60)"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    owner_elsewhere(tmp_path / "a")
    assert child.wait(timeout=60) == lease.LOST
    child.stdout.close()


def compete(folder, barrier, out):
    barrier.wait()
    with lease.held([folder], heartbeat=5.0) as needed:
        if needed == [True]:
            out.put(1)
            (folder / "result.json").write_text("{}")


def test_of_many_who_try_one_trains(tmp_path):
    context = multiprocessing.get_context("spawn")  # JAX, once imported here, forbids to fork
    barrier, out = context.Barrier(6), context.SimpleQueue()
    arguments = (tmp_path / "a", barrier, out)
    children = [context.Process(target=compete, args=arguments) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    out.get()
    assert out.empty()


def node(name, alive=True, labels=None, **has):
    return {"NodeID": name, "Alive": alive, "Resources": has, "Labels": labels or {}}


@pytest.mark.parametrize(
    "text, count",
    [
        ("CPU=1", 12),
        ("CPU=3", 3),  # a node of 8 holds two of them
        ("GPU=1", 4),
        ("GPU=4,CPU=8", 1),
        ("GPU=1,label.zone=a", 0),
        ("CPU=1,label.zone=a", 4),
        ("CPU=4,hosts=2", 1),
        ("CPU=2,hosts=2", 2),
        ("CPU=2,hosts=3", 0),
    ],
)
def test_places_are_counted_without_asking_ray(text, count):
    nodes = [
        node("a", CPU=4.0, labels={"zone": "a"}),
        node("b", CPU=8.0, GPU=4.0),
        node("dead", alive=False, CPU=64.0, GPU=8.0),
    ]
    need = resources.parse(text)
    assert resources.places(nodes, need) == count
    if not count:
        said = resources.explain(nodes, need)
        assert f"of 2 nodes {'has' if '1 of' in said else 'have'} that" in said
        assert "CPU=8 GPU=4" in said and "64" not in said


def test_slices_are_whole_or_not_there():
    pytest.importorskip("ray")
    need = resources.parse("slice=v4-2x2x2")
    assert (need.hosts, need.each["TPU"], need.sharded) == (2, 4, True)

    def host(name, rank):
        labels = {**need.labels, resources.SLICE: name, resources.RANK: str(rank)}
        return node(f"{name}{rank}", labels=labels, CPU=8.0, TPU=4.0)

    nodes = [host("s", 1), host("s", 0), host("t", 0), node("cpu", CPU=64.0)]
    assert resources.places(nodes, need) == 1
    assert [n["NodeID"] for n in resources.slices(nodes, need)["s"]] == ["s0", "s1"]
    assert resources.places(nodes[1:], need) == 0
    assert "slice v4-2x2x2: 2 hosts each; 2 of 3 nodes have that" in resources.explain(
        nodes[1:], need
    )


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "names no resource"),
        ("GPU=one", "GPU=one must be a number"),
        ("GPU=0", "GPU=0 must be above 0"),
        ("GPU=1,hosts=1.5", "hosts=1.5 must be a whole number"),
        ("slice=v4-2x2x2,hosts=2", "says how many hosts it has"),
        ("slice=v9-4x4", "slice=v9-4x4"),
    ],
)
def test_mistaken_resources_are_one_line(text, expected):
    if text.startswith("slice"):
        pytest.importorskip("ray")
    with pytest.raises(ValueError, match=expected) as error:
        resources.parse(text)
    assert "\n" not in str(error.value)


def test_a_node_is_bad_when_what_died_there_ran_elsewhere():
    found = Quarantine()
    found.failed(["a"], "pq")
    assert found.finished(["b"], "p") == set() and not found.bad
    assert found.finished(["b"], "q") == set()  # one strike
    found.failed(["a"], "r")
    assert found.finished(["b"], "r") == {"a"} == found.bad


def test_a_bad_trial_is_no_fault_of_its_nodes():
    found = Quarantine(strikes=1)
    found.failed(["a"], "pqrs")
    found.finished(["b"], "rs")
    found.failed(["b"], "pq")  # the half with the bad trial dies there, too
    found.finished(["a"], "q")
    found.failed(["b"], "p")
    assert not found.bad


def test_accidents_on_a_node_that_works_are_forgiven():
    found = Quarantine()
    for trial in "pqrs":
        found.failed(["a"], trial)
        found.finished(["b"], trial)
        found.finished(["a"], "x")
    assert not found.bad
