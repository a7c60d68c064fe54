"""Bad input to the corpus: one clear error each, exit code 2, nothing half-written."""

import errno
import gzip
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from corpora import TEXTS, command, make_dataset, texts_of, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.data import readers, tokenizer
from lm.data.cache import build, key_of, read_meta
from lm.data.corpus import load
from lm.data.readers import CorpusError


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.txt", b"", "has no text"),
        ("empty.jsonl", b"\n\n", "has no text"),
        ("blank.jsonl", b'{"text": ""}\n', "has no text"),
        ("invalid.txt", b"good \xff\xfe bad", "document 1 is not UTF-8 (invalid start"),
        ("invalid.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "document 2 is not UTF-8"),
        ("half.jsonl", rb'{"text": "\ud800"}', "not UTF-8 (surrogates not allowed"),
        ("cut.jsonl", b'{"text": "a"}\n{"text": "b', "line 2 is no JSON object with 'text'"),
        ("other.jsonl", b'{"body": "a"}\n', "line 1 is no JSON object with 'text'"),
        ("list.jsonl", b"[1, 2]\n", "line 1 is no JSON object with 'text'"),
        ("number.jsonl", b'{"text": 3}\n', "line 1: 'text' is int, not text"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 99, mtime=0)[:-9], "ended before"),
        ("no.jsonl.gz", b"not gzip at all", "Not a gzipped file"),
        ("no.jsonl.zst", b"not zstandard at all", "Unknown frame descriptor"),
        ("no.parquet", b"not parquet at all", "cannot read as parquet"),
    ],
)  # fmt: skip
def test_bad_files_give_one_line(tmp_path, cache, capsys, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    code = command(
        "prepare", "bad", "--train", path, "--cache", cache, "--validation-fraction", 0.5
    )
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err
    assert [p.name for p in cache.iterdir() if p.name[0] != "."] == []


VALID = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:8]).encode()


def packed(suffix):
    """A valid file of that suffix."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    if suffix == ".parquet":
        parquet.write_table(arrow.table({"text": TEXTS[:8]}), out)
        return out.getvalue()
    if suffix == ".jsonl.zst":
        return arrow.compress(VALID, "zstd", asbytes=True)
    return gzip.compress(VALID, mtime=0) if suffix == ".jsonl.gz" else VALID


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_damaged_files_raise_nothing_else(tmp_path_factory, suffix):
    """Any bytes at all, and a valid file with some bytes changed or its end missing."""
    path, valid = tmp_path_factory.mktemp("fuzz") / f"a{suffix}", packed(suffix)
    places = st.integers(0, len(valid) - 1)
    changes = st.lists(st.tuples(places, st.integers(0, 255)), max_size=3)

    def changed(changes, end):
        out = bytearray(valid)
        for place, value in changes:
            out[place] = value
        return bytes(out[:end])

    @settings(max_examples=60, deadline=None)
    @given(st.binary() | st.builds(changed, changes, places))
    def read(content):
        path.write_bytes(content)
        try:
            assert all(text and isinstance(text, str) for _, text in texts_of(str(path)))
        except CorpusError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)

    read()


def test_cut_zstandard_is_noticed(tmp_path, cache):
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.jsonl.zst"
    with arrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(
            "".join(json.dumps({"text": os.urandom(99).hex()}) + "\n" for _ in TEXTS).encode()
        )
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CorpusError, match=r"a.jsonl.zst: .*(Truncated|line \d+ is no JSON)"):
        build("bad", texts_of(str(path)), tokenizer.Bytes(), cache)


def test_invalid_documents_can_be_left_out(tmp_path, cache):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n' + pathlib.Path(write_jsonl(path, TEXTS)).read_bytes())
    folder = build("most", texts_of(str(path), skip_invalid=True), tokenizer.Bytes(), cache)
    meta = read_meta(folder)
    assert meta["skipped"] == 1
    assert sum(split["documents"] for split in meta["splits"].values()) == len(TEXTS)


def test_deduplication_keeps_the_first(tmp_path):
    texts = texts_of(write_jsonl(tmp_path / "a.jsonl", [*TEXTS, *TEXTS[:5]]), deduplicate=True)
    assert [text for _, text in texts] == TEXTS


def test_one_byte_documents(tmp_path, cache):
    train = write_jsonl(tmp_path / "a.jsonl", ["x"])
    assert (
        command("prepare", "tiny", "--train", train, "--validation", f"v={train}", "--cache", cache)
        == 0
    )
    assert load({"corpus": "tiny"}, sequence_length=2, cache=cache).train[0].tolist() == [
        120,
        256,
    ]
    with pytest.raises(
        CorpusError, match="tiny/train has 2 tokens, too few for a row of sequence_length=3"
    ):
        load({"corpus": "tiny"}, sequence_length=3, cache=cache)


def test_tokens_beyond_the_vocabulary(tmp_path):
    data = {"corpus": f"tfds:{make_dataset(tmp_path)}", "vocab_size": 50}
    with pytest.raises(CorpusError, match=r"train: has token id 54, outside \[0, vocab_size=50\)"):
        load(data, sequence_length=16).train[39]


@pytest.mark.parametrize("keep", [0, 1000, 65_000])
def test_cut_array_record(tmp_path, cache, keep):
    build("mine", texts_of(write_jsonl(tmp_path / "a.jsonl", TEXTS)), tokenizer.Bytes(), cache)
    (record,) = cache.glob("mine/**/*train.array_record*")
    os.truncate(record, keep)
    with pytest.raises(CorpusError, match=f"has {keep} bytes, expected .* prepare it again"):
        load({"corpus": "mine"}, sequence_length=8, cache=cache)

    folder = make_dataset(tmp_path)
    (record,) = folder.glob("*train.array_record*")
    os.truncate(record, keep)
    with pytest.raises(CorpusError, match="train: cannot read its records"):
        load({"corpus": f"tfds:{folder}", "vocab_size": 100}, sequence_length=8).train[0]


def test_damaged_description(tmp_path, cache):
    build("mine", texts_of(write_jsonl(tmp_path / "a.jsonl", TEXTS)), tokenizer.Bytes(), cache)
    for content in ("", "{}", "[1]", '{"key": '):
        (cache / "mine" / "corpus.json").write_text(content)
        with pytest.raises(CorpusError, match="corpus.json cannot be read .* prepare it again"):
            load({"corpus": "mine"}, sequence_length=8, cache=cache)


def test_a_name_means_one_corpus(tmp_path, cache):
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    build("mine", texts_of(path), tokenizer.Bytes(), cache)
    write_jsonl(tmp_path / "a.jsonl", TEXTS[1:])
    with pytest.raises(CorpusError, match="'mine' exists and was made of other files"):
        build("mine", texts_of(path), tokenizer.Bytes(), cache)


@pytest.mark.parametrize(
    "data, message",
    [
        ({"corpus": "stdlb"}, "no corpus 'stdlb' .* did you mean 'stdlib'"),
        ({"corpus": ""}, "no corpus ''"),
        ({}, "no corpus ''"),
        ({"corpus": "./nowhere"}, "no corpus './nowhere'"),
        ({"corpus": "stdlib=-1"}, "'stdlib=-1' is not name=weight"),
        ({"corpus": "one=1,b=two"}, "no corpus 'one'"),
        ({"corpus": "tfds:nowhere"}, "data.vocab_size is needed"),
        ({"corpus": "tfds:nowhere", "vocab_size": 9}, "tfds:nowhere: no prepared dataset"),
    ],
)
def test_unknown_corpora(cache, data, message):
    with pytest.raises(CorpusError, match=message) as caught:
        load(data, sequence_length=128, cache=cache)
    assert "\n" not in str(caught.value)


def test_mixtures_have_one_tokenizer(tmp_path, cache):
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    build("one", texts_of(path), tokenizer.Bytes(), cache)
    for name, vocab_size in (("two", 300), ("three", 301)):
        bpe = tokenizer.train(TEXTS, vocab_size, tmp_path / "bpe.json")
        build(name, texts_of(path), bpe, cache)
    shutil.copytree(cache / "one", cache / "copy")
    with pytest.raises(CorpusError, match=r"'one=1,copy=1e-9': .* under 2\^-24 of the total"):
        load({"corpus": "one=1,copy=1e-9"}, sequence_length=8, cache=cache)
    for mixture, other in (
        ("one=1,two=1", "two"),
        ("two=2,two=1", "two"),
        ("two=1,three=1", "three"),
    ):
        with pytest.raises(CorpusError, match=f"{other}.*(another tokenizer|each name once)"):
            load({"corpus": mixture}, sequence_length=8, cache=cache)


@pytest.mark.parametrize(
    "args, message",
    [
        (["../up", "--train", "{}"], "letters, digits and _ . - only"),
        (["a", "--train", "nowhere/*"], "nowhere/*: no such file"),
        (["a", "--train", "{}", "--validation", "nothing"], "expected NAME=FILES"),
        (["a", "--train", "{}", "--validation-fraction", "1"], "must be in [0, 1)"),
        (["a", "--train", "{}", "--validation-fraction", "0"], "no validation text"),
        (["a", "--train", "{}", "--tokenizer", "none.json"], "none.json: No such file"),
        (["a", "--train", "{}", "--tokenizer", "{}"], "not a tokenizer.json"),
        (["a"], "no training text"),
    ],
)
def test_bad_commands(tmp_path, cache, capsys, args, message):
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    assert command("prepare", *(a.format(path) for a in args), "--cache", cache) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not cache.exists()


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="cannot write a corpus in .*file/cache: Not a directory"):
        load({"corpus": "stdlib"}, sequence_length=8, cache=tmp_path / "file" / "cache")


def test_full_disk_while_tokenising(tmp_path, cache, monkeypatch):
    texts = texts_of(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    parts = cache / f".mine-parts-{key_of(texts, tokenizer.Bytes())}"

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CorpusError, match="cannot write a corpus in .*: no space left on the"):
            build("mine", texts, tokenizer.Bytes(), cache)
    assert list(parts.iterdir()) == [] and not (cache / "mine").exists()
    assert build("mine", texts, tokenizer.Bytes(), cache) == cache / "mine"


def test_full_disk_while_writing_records(tmp_path, cache):
    """array_record's own writer fails here; a limit on file sizes stands in for the full disk."""
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    code = """
import resource, sys
from lm.data import __main__ as corpus_cli
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.exit(corpus_cli.main(sys.argv[1:]))
"""
    args = ["prepare", "mine", f"--train={path}", f"--cache={cache}", "--validation-fraction=0.2"]
    run = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert run.returncode == 2 and "cannot write a corpus" in run.stderr
    assert "File too large" in run.stderr and run.stderr.count("\n") == 1
    assert [
        p.name for p in cache.iterdir() if not p.name.startswith((".mine-parts", ".mine.lock"))
    ] == []
    assert command(*args) == 0


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CorpusError, match="pyarrow is not installed: pip install 'bestiary"):
        readers.optional("pyarrow")


def test_modules_run_as_a_command(tmp_path):
    run = [sys.executable, "-m", "lm.data", "show", "nothing", "--cache", str(tmp_path)]
    found = subprocess.run(run, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr == f"error: no corpus 'nothing' in {tmp_path}; did you mean 'stdlib'?\n"
