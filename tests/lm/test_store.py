"""The store of a study: the same promises on a disk, in S3, in Google's storage and in Azure's."""

import errno
import os
import threading

import azurite
import fake_bucket
import pytest

from lm.storage import open_store


@pytest.fixture(scope="module")
def bucket():
    with fake_bucket.Bucket() as found:
        yield found


@pytest.fixture(scope="module")
def azure():
    with azurite.azurite() as environment:
        yield environment


@pytest.fixture(params=["disk", "s3", "gs", "az"])
def store(request, tmp_path, bucket, monkeypatch):
    if request.param == "disk":
        return open_store(str(tmp_path))
    far = bucket.environment
    if request.param == "az":
        far = request.getfixturevalue("azure")
    for name, value in far.items():
        monkeypatch.setenv(name, value)
    bucket.objects.clear()
    return open_store.__wrapped__(f"{request.param}://race/{tmp_path.name}")


def test_files_are_put_read_listed_and_removed(store):
    assert store.read("trials/a/result.json") is None
    store.write("trials/a/result.json", b"1")
    store.write("trials/a/result.json", b"2")
    store.write("tokens/00000", bytes(range(100)))
    assert store.read_part("tokens/00000", 10, 5) == bytes(range(10, 15))
    assert store.read_part("tokens/00001", 10, 5) is None
    first = store.create("trials/b/result.json", b"3")
    assert first and store.create("trials/b/result.json", b"4") is None
    assert store.read_all(["trials/a/result.json", "trials/b/result.json"]) == [b"2", b"3"]
    store.write("trials/a/curve.jsonl", b"")
    found = store.find("trials", "result.json")
    assert list(found) == ["a", "b"] and found["b"] == first
    store.write("trials/b/result.json", b"longer")
    assert store.find("trials", "result.json")["b"] != first
    for name in "cab":
        store.write(f"certificates/{name}.json", b"{}")
    assert list(store.list("certificates")) == ["a.json", "b.json", "c.json"]
    assert list(store.list("certificates", since="a.json")) == ["b.json", "c.json"]
    store.delete("certificates/a.json")
    store.delete("certificates/a.json")
    assert list(store.list("certificates")) == ["b.json", "c.json"]
    assert store.list("nothing") == {} == store.find("nothing", "x")


def test_a_register_is_replaced_by_who_knows_its_version_only(store):
    first = store.swap("leases/a", b"mine", None)
    assert first and store.swap("leases/a", b"yours", None) is None
    second = store.swap("leases/a", b"theirs", first)
    assert second and store.swap("leases/a", b"again", first) is None
    assert store.get("leases/a") == (b"theirs", second)
    before = store.list("leases")
    for i in range(8):
        second = store.swap("leases/a", f"theirs {i}".encode(), second)
    assert store.swap("leases/a", b"from long ago", first) is None
    assert list(before) == ["a"] and store.list("leases") != before
    store.delete("leases/a")
    assert store.get("leases/a") is None and store.swap("leases/a", b"", second) is None
    assert store.list("leases") == {}


def test_of_many_who_try_one_replaces_a_register(store):
    barrier, wins = threading.Barrier(4), []
    store.swap("r/counter", b"0", None)

    def compete(name):
        barrier.wait()
        for _ in range(20):
            kept = store.get("r/counter")
            count = int(kept.content.split()[0])
            if store.swap("r/counter", b"%d by %d" % (count + 1, name), kept.version):
                wins.append(count + 1)

    threads = [threading.Thread(target=compete, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == len(set(wins)) <= int(store.get("r/counter").content.split()[0])
    assert len(wins) >= 20  # a success makes at most one try of each of the others fail


def test_what_does_not_answer_or_is_not_there_is_one_line(bucket, monkeypatch, tmp_path):
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    for address in ("s3://nowhere/x", "gs://nowhere/x"):
        with pytest.raises(OSError, match="cannot be written: there is no such bucket") as error:
            open_store(address).write("study.json", b"{}")
        assert "\n" not in str(error.value) and error.value.filename == f"{address}/study.json"
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as error:
        open_store(str(tmp_path / "file")).write("study.json", b"{}")
    assert error.value.errno in (errno.ENOTDIR, errno.EEXIST)


def test_a_lost_answer_to_a_put_is_asked_for_again(bucket, monkeypatch):
    """The put was done, its answer lost, and the library's second try finds the first."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    answers = iter([(0.0, False, True)])
    monkeypatch.setattr(bucket, "fault", lambda: next(answers, (0.0, False, False)))
    store = open_store.__wrapped__("s3://race/lost")
    assert store.swap("claims/a", b"token", None)
    assert store.swap("claims/a", b"another", None) is None


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, unnamed):
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE")  # as on NFS
    store = open_store(str(tmp_path))
    assert store.create("a", b"1") and store.create("a", b"2") is None and store.read("a") == b"1"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for put in (store.write, store.create):
        with pytest.raises(OSError, match=f"no space left on the device for {tmp_path}/b"):
            put("b", b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
