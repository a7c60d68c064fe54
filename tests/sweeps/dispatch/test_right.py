"""Who may train a trial: lives, claims, and what becomes of them; places on a cluster."""

import json
import multiprocessing
import subprocess
import sys

import pytest

from lm.storage import open_store
from sweeps.dispatch import resources, right
from sweeps.dispatch.right import Lost, Pulse, Right


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(right, "time", clock)
    return clock


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def worker(store, **about):
    """A right whose heartbeat is the test's to give; `machine="far"` is a process elsewhere."""
    found = Right(store, {}, stop=pytest.fail)
    found.about |= about
    found.renew()
    return found


def test_claims_are_taken_without_waiting_and_given_back(store):
    a, b = worker(store), worker(store)
    assert a.claim(["p", "q"]) == (["p", "q"], [])
    assert b.claim(["q", "r"]) == (["r"], [])  # what it can get
    del b.claims["r"]  # its put was done, and taken for failed
    assert b.claim(["r"]) == (["r"], [])
    a.release(["q"])
    a.release(["p"], over=True)
    assert sorted(store.list("claims")) == ["q", "r"]
    assert b.claim(["q"]) == (["q"], [])
    b.__exit__(None)
    assert not store.list("workers").keys() - {a.token}
    assert a.claim(["q", "r"]) == (["q", "r"], [])


def test_a_silent_worker_is_replaced_after_three_heartbeats_and_stops(store, clock):
    lost, other = worker(store, machine="far"), worker(store)
    assert lost.claim(["p"]) == (["p"], [])
    for _ in range(4):  # it lives: each look finds another counter
        clock.now += 29
        lost.renew()
        assert other.claim(["p"]) == ([], [])
    clock.now += 29
    assert other.claim(["p"]) == ([], [])
    clock.now += 2
    assert other.claim(["p"]) == (["p"], ["p"])
    with pytest.raises(Lost):
        lost.renew()
    with pytest.raises(Lost):
        lost.finish("p", {"loss": 1.0})
    lost.release(["p"])  # does not disturb the new owner
    assert store.get("claims/p").content.decode() == other.token
    assert store.read("trials/p/result.json") is None
    other.finish("p", {"loss": 2.0})
    assert json.loads(store.read("trials/p/result.json"))["token"] == other.token


def test_who_moves_while_it_is_being_ended_stays(store, clock, monkeypatch):
    slow, other = worker(store, machine="far"), worker(store)
    slow.claim(["p"])
    assert other.claim(["p"]) == ([], [])
    clock.now += 31
    swap = store.swap

    def late(name, content, version):
        if content == right.ENDED:
            slow.renew()  # just now
        return swap(name, content, version)

    monkeypatch.setattr(store, "swap", late, raising=False)
    assert other.claim(["p"]) == ([], [])
    slow.renew()


def test_a_result_is_put_once(store):
    first, second = worker(store), worker(store)
    first.finish("p", {"loss": 1.0})
    second.finish("p", {"loss": 2.0})
    assert json.loads(store.read("trials/p/result.json"))["token"] == first.token
    assert list(first.put) == ["p"] and not second.put


def test_a_dead_process_of_this_machine_is_replaced_at_once(store):
    code = f"""if True:
        import os
        from lm.storage import open_store
        from sweeps.dispatch.right import Right
        mine = Right(open_store({store.address!r}), {{}}, print)
        mine.renew()
        mine.claim(["p"])
        os._exit(0)"""
    subprocess.run([sys.executable, "-c", code], check=True)
    other = worker(store)
    assert other.claim(["p"]) == (["p"], ["p"])
    assert list(store.list("workers")) == [other.token]


def test_who_cannot_renew_twice_stops_by_itself(store, monkeypatch):
    said = []
    mine = Right(store, {}, said.append)
    mine.every = 0.01
    mine.renew()

    def stalled(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store, "swap", stalled, raising=False)
    mine._beat()
    assert len(said) == 1 and "could not be renewed twice" in said[0]


def test_a_hung_trainer_loses_its_right(store, clock):
    said = []
    mine = Right(store, {}, said.append)
    mine.every, mine.pulse = 0.001, Pulse(60.0)
    clock.now = 59.0
    assert not mine.pulse.silent()
    mine.hear()  # a step took 59 s: five of them are not too long
    clock.now += 5 * 59
    assert not mine.pulse.silent()
    clock.now += 1
    mine._beat()
    assert said == ["training shows no sign of life"]


def test_a_life_written_by_a_program_of_the_future_is_no_error(store, clock):
    store.swap("workers/future", b'{"beats": [1, 2]}', None)
    store.swap("claims/p", b"future", None)
    mine = worker(store)
    assert mine.claim(["p"]) == ([], [])
    clock.now += 31
    assert mine.claim(["p"]) == (["p"], ["p"])


def compete(address, barrier, out):
    mine = worker(open_store(address))
    barrier.wait()
    out.put(len(mine.claim(["p"])[0]))


def test_of_many_who_try_one_trains(store):
    context = multiprocessing.get_context("spawn")  # JAX, once imported here, forbids to fork
    barrier, out = context.Barrier(4), context.SimpleQueue()
    children = [
        context.Process(target=compete, args=(store.address, barrier, out)) for _ in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=100)
        assert child.exitcode == 0
    assert sorted(out.get() for _ in children) == [0, 0, 0, 1]


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
