"""Corpora in buckets: the batches of a disk, fetched once, checked, and ahead of the step."""

import random

import fake_bucket
import numpy as np
import pytest
from corpora import command, write_jsonl

from lm.data import batches, remote, rows
from lm.data.batches import Batches
from lm.data.corpus import load
from lm.data.readers import CorpusError
from lm.storage import open_store

ADDRESS = "gs://race/web"
T = 64


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A corpus of some fifty records."""
    folder, rng = tmp_path_factory.mktemp("prepared"), random.Random(0)
    texts = ["".join(rng.choices("abcdefgh \n", k=9000)) for _ in range(24)]
    text = write_jsonl(folder / "web.jsonl", texts)
    words = ("prepare", "web", "--train", text, "--validation-fraction", 0.2)
    assert command(*words, "--cache", folder) == 0
    return folder


@pytest.fixture
def bucket(prepared, monkeypatch):
    monkeypatch.setattr(rows, "IN_MEMORY_TOKENS", 20_000)  # validation is read whole, train is not
    monkeypatch.setattr(remote, "OBJECT_RECORDS", 8)
    with fake_bucket.Bucket() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        open_store.cache_clear()
        assert command("upload", "web", ADDRESS, "--cache", prepared) == 0
        yield found
    open_store.cache_clear()


def opened(where, cache):
    return load({"corpus": where}, sequence_length=T, cache=cache)


def settle(records):
    for event in list(records.coming.values()):
        assert event.wait(60)


@pytest.mark.slow
def test_batches_are_those_of_the_disk_and_records_are_fetched_once(
    bucket, prepared, tmp_path, monkeypatch
):
    asked = []
    fetch = remote.Records._fetch
    monkeypatch.setattr(
        remote.Records,
        "_fetch",
        lambda self, first, n: (asked.extend(range(first, first + n)), fetch(self, first, n))[1],
    )
    local, far = opened("web", prepared), opened(ADDRESS, tmp_path)
    assert far.fingerprint == local.fingerprint and far.separator == local.separator
    np.testing.assert_array_equal(far.token_bytes, local.token_bytes)
    ids = np.arange(len(local.validation["validation"]))
    found = far.validation["validation"][ids]
    np.testing.assert_array_equal(found, local.validation["validation"][ids])
    asked.clear()
    # Read by two hosts, by one, and in blocks; through an end of an epoch.
    steps = range(0, len(local.train) // 16 + 3, 7)
    wanted = Batches(local.train, 16, seed=3)
    hosts = [Batches(far.train, 16, seed=3).host_slice(i, 2) for i in range(2)]
    for step in steps:
        np.testing.assert_array_equal(np.concatenate([h(step) for h in hosts]), wanted(step))
    np.testing.assert_array_equal(Batches(far.train, 16, seed=3).block(5, 3), wanted.block(5, 3))
    settle(far.train.records)
    assert len(asked) == len(set(asked)) == len(far.train.records)
    mixed = load({"corpus": f"{ADDRESS}=3,web=1"}, sequence_length=T, cache=prepared)
    both = load({"corpus": "web=3,web2=1"}, sequence_length=T, cache=with_twin(prepared))
    for step in (0, 9):
        ours, theirs = (Batches(corpus.train, 16, seed=1)(step) for corpus in (mixed, both))
        np.testing.assert_array_equal(ours, theirs)
    # The next process reads what this one has fetched.
    asked.clear()
    again = opened(ADDRESS, tmp_path)
    np.testing.assert_array_equal(
        Batches(again.train, 16, seed=4)(0), Batches(local.train, 16, 4)(0)
    )
    settle(again.train.records)
    assert not asked


def with_twin(folder):
    if not (folder / "web2").exists():
        (folder / "web2").symlink_to(folder / "web")
    return folder


def test_what_comes_next_is_here_before_it_is_read(bucket, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "AHEAD", 6 * 8 * T)  # six steps
    local, far = opened("web", prepared), opened(ADDRESS, tmp_path)
    source = Batches(far.train, 8, seed=0)
    source(0)
    settle(far.train.records)
    bucket.objects.clear()
    for step in range(1, 7):
        np.testing.assert_array_equal(source(step), Batches(local.train, 8, seed=0)(step))
    fresh = Batches(opened_without(far, tmp_path / "other", prepared), 8, seed=0)
    with pytest.raises(CorpusError, match=r"^gs://race/web/\w+/train/\d+ is gone$"):
        fresh(0)


def opened_without(corpus, cache, prepared):
    """The same rows with an empty cache."""
    cache.mkdir()
    kept = corpus.train.records
    records = remote.Records(
        *(kept.store, kept.folder, cache / "train"),
        **{"checksums": kept.checksums, "digest": kept.digest, "dtype": kept.dtype},
        **{"tokens": corpus.train.tokens, "record_tokens": corpus.train.record_tokens},
        object_records=kept.object_records,
    )
    return rows.Rows(
        *(records, corpus.train.where, "tokens", corpus.train.tokens),
        *(corpus.train.record_tokens, corpus.train.vocab_size, T),
    )


def test_damage_is_one_line(bucket, prepared, tmp_path):
    def fails(words, cache):
        with pytest.raises(CorpusError, match=words) as error:
            opened(ADDRESS, tmp_path / cache).train[np.arange(3)]
        assert "\n" not in str(error.value)

    kept = dict(bucket.objects)
    for ending, change, words in (
        ("train/00000", lambda data: data[:5] + b"x" + data[6:], "00000 is damaged at record 0"),
        ("train/00000", lambda data: data[:5000], "00000 is damaged at record 0"),
        ("train.crc32", lambda data: data[:-1], "train.crc32 is damaged"),
        ("corpus.json", lambda data: data[:-9], "corpus.json cannot be read"),
        (
            "corpus.json",
            lambda data: data.replace(b'"separator": 256', b'"separator": 1'),
            "damaged",
        ),
    ):
        (name,) = (name for name in kept if name.endswith(ending))
        generation, data = kept[name]
        bucket.objects[name] = (generation, change(data))
        fails(words, words.replace(" ", "-"))
        bucket.objects[name] = kept[name]
    # A cache that was damaged is mended.
    corpus = opened(ADDRESS, tmp_path)
    expected = corpus.train[np.arange(9)]
    settle(corpus.train.records)
    (path,) = tmp_path.glob("remote-*/train")
    path.write_bytes(b"rubbish" + path.read_bytes()[7:])
    np.testing.assert_array_equal(opened(ADDRESS, tmp_path).train[np.arange(9)], expected)


def test_what_an_address_may_be(bucket, prepared, tmp_path, capsys):
    text = write_jsonl(tmp_path / "other.jsonl", [f"another text {i}" for i in range(30)])
    words = ("prepare", "other", "--train", text, "--validation-fraction", 0.2)
    assert command(*words, "--cache", tmp_path) == 0
    capsys.readouterr()
    for words, said in (
        (("upload", "other", ADDRESS), "gs://race/web holds another corpus"),
        (("upload", "other", "there"), "there is no address in a bucket"),
        (("show", "gs://race/nothing"), "no corpus at gs://race/nothing; put one there: python"),
    ):
        assert command(*words, "--cache", tmp_path) == 2
        assert said in capsys.readouterr().err
    before = dict(bucket.objects)
    assert command("upload", "web", ADDRESS, "--cache", prepared) == 0
    assert {n: d for n, (_, d) in bucket.objects.items()} == {n: d for n, (_, d) in before.items()}
    assert command("show", ADDRESS) == 0
    assert "validation" in capsys.readouterr().out
