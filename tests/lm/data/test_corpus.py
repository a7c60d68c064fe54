"""Text to tokens to rows: the same tokens whatever the way, and one clear error for bad input."""

import gzip
import json
import pathlib
import signal
import subprocess
import sys
import sysconfig
import time

import numpy as np
import pytest
from corpora import TEXTS, command, make_dataset, split_documents, stream, texts_of, write_jsonl

from lm.data import dataset, documents, prepare, rows, tokenizer
from lm.data.cache import build, read_meta
from lm.data.corpus import load
from lm.data.readers import CorpusError


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


# The standard library


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory):
    cache = tmp_path_factory.mktemp("stdlib")
    return cache, load({"corpus": "stdlib"}, sequence_length=128, cache=cache)


@pytest.mark.slow
def test_standard_library_is_the_text_of_its_files(stdlib):
    _, prepared = stdlib
    assert (prepared.vocab_size, prepared.separator) == (257, 256)
    np.testing.assert_array_equal(prepared.token_bytes, [1] * 256 + [0])
    found = [
        {bytes(part.astype(np.uint8)) for part in split_documents(stream(source), 256)}
        for source in (prepared.train, prepared.validation["validation"])
    ]
    assert not found[0] & found[1]
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    for name in ("argparse.py", "json/decoder.py", "os.py", "asyncio/tasks.py"):
        split = documents.split_of(name, 0.05)
        assert (root / name).read_bytes() in found[split == "validation"]
    share = prepared.validation["validation"].tokens / prepared.train.tokens
    assert 0.01 < share < 0.15


def test_standard_library_is_prepared_once(stdlib):
    cache, prepared = stdlib
    lines, before = [], {p: p.stat().st_mtime_ns for p in cache.rglob("*")}
    again = load({"corpus": "stdlib"}, sequence_length=64, cache=cache, log=lines.append)
    assert lines == [] and before == {p: p.stat().st_mtime_ns for p in cache.rglob("*")}
    assert again.fingerprint == prepared.fingerprint
    n = len(prepared.train) * 128
    np.testing.assert_array_equal(stream(again.train)[:n], stream(prepared.train))


def test_no_tensorflow(stdlib):
    code = f"""
import sys
from lm.data.corpus import load
load({{"corpus": "stdlib"}}, sequence_length=128, cache={str(stdlib[0])!r}).train[0]
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_fingerprint_is_refused(stdlib):
    data = {"corpus": "stdlib", "fingerprint": "0" * 32}
    with pytest.raises(CorpusError, match="expected 0000"):
        load(data, sequence_length=128, cache=stdlib[0])


# Rows


class Records(list):
    def __getitems__(self, ids):
        return [{"tokens": self[i]} for i in ids]


@pytest.mark.parametrize("in_memory", [0, 2**20])
@pytest.mark.parametrize("T", [1, 7, 64, 100, 301])
def test_rows_cut_the_stream(monkeypatch, in_memory, T):
    monkeypatch.setattr(rows, "IN_MEMORY_TOKENS", in_memory)
    tokens = np.arange(1000, dtype=np.uint16)
    source = rows.Rows(
        Records(np.split(tokens, range(64, 1000, 64))),
        where="test",
        feature="tokens",
        tokens=1000,
        record_tokens=64,
        vocab_size=1000,
        sequence_length=T,
    )
    expected = tokens[: 1000 // T * T].reshape(-1, T)
    assert len(source) == len(expected)
    np.testing.assert_array_equal(source[np.arange(len(source))], expected)
    np.testing.assert_array_equal(source[len(source) - 1], expected[-1])
    np.testing.assert_array_equal(source[np.array([2, 0, 2])], expected[[2, 0, 2]])
    assert source[0].dtype == np.uint16
    for outside in (-1, len(source)):
        with pytest.raises(IndexError, match="row"):
            source[outside]


# Formats, tokenizers, processes


def test_every_format_gives_the_same_corpus(tmp_path, cache):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    plain = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    raw = pathlib.Path(plain).read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(raw))
    with arrow.CompressedOutputStream(str(tmp_path / "c.jsonl.zst"), "zstd") as file:
        file.write(raw)
    parquet.write_table(arrow.table({"text": TEXTS}), tmp_path / "d.parquet")
    (tmp_path / "e.txt").write_text("<END>".join(TEXTS))
    fingerprints = set()
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet", "e.txt"):
        texts = texts_of(str(tmp_path / name), delimiter="<END>")
        folder = build(name, texts, tokenizer.Bytes(), cache)
        fingerprints.add(read_meta(folder)["fingerprint"])
    assert len(fingerprints) == 1


def test_trained_bpe_spells_the_text(tmp_path, cache):
    tokenizers = pytest.importorskip("tokenizers")
    texts = [*TEXTS, "a text that says <|endoftext|> itself"]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    out = tmp_path / "bpe.json"
    assert command("tokenizer", out, "--train", path, "--vocab-size", 300) == 0
    prepared = ("prepare", "mine", "--train", path, "--tokenizer", out, "--cache", cache)
    assert command(*prepared, "--validation-fraction", 0.2) == 0
    mine = load({"corpus": "mine"}, sequence_length=8, cache=cache)
    assert mine.vocab_size == 300 and mine.train[0].dtype == np.uint16
    decoder = tokenizers.Tokenizer.from_file(str(out))
    found = []
    for source in (mine.train, *mine.validation.values()):
        for ids in split_documents(stream(source), mine.separator):
            text = decoder.decode(ids.tolist(), skip_special_tokens=False)
            assert mine.token_bytes[ids].sum() == len(text.encode())
            found.append(text)
    assert len(found) >= len(texts) - 2 and set(found) <= set(texts)


def test_first_token_and_separator_come_once(tmp_path):
    """As Llama 3 has it: the tokenizer's own template adds the first token, we the last; a
    tokenizer that adds both is left alone."""
    tokenizers = pytest.importorskip("tokenizers")
    for template in ("<bos> $A", "<bos> $A </s>"):
        words = tokenizers.Tokenizer(tokenizers.models.BPE())
        words.add_special_tokens(["<bos>", "</s>"])
        words.add_tokens(["x"])
        words.post_processor = tokenizers.processors.TemplateProcessing(
            single=template, special_tokens=[("<bos>", 0), ("</s>", 1)]
        )
        words.save(str(tmp_path / "words.json"))
        tokens = tokenizer.load(str(tmp_path / "words.json"))
        assert [ids.tolist() for ids in tokens.encode(["xx", "x"])] == [[0, 2, 2, 1], [0, 2, 1]]
        assert tokens.token_bytes.tolist() == [0, 0, 1]


@pytest.mark.parametrize("prepend, exact", [("never", True), ("always", False)])
def test_bytes_of_sentencepiece_like_tokens(tmp_path, cache, prepend, exact):
    tokenizers = pytest.importorskip("tokenizers")
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    metaspace = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=prepend)
    pieces.pre_tokenizer = metaspace
    special = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, show_progress=False
    )
    pieces.train_from_iterator([text.replace("😀", "") for text in TEXTS], trainer)
    definition = json.loads(pieces.to_str())
    definition["added_tokens"] = [
        token | {"special": not token["content"].startswith("<0x")}
        for token in definition["added_tokens"]
    ]
    (tmp_path / "pieces.json").write_text(json.dumps(definition))
    texts = texts_of(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    tokens = tokenizer.load(str(tmp_path / "pieces.json"))
    folder = build("pieces", texts, tokens, cache)
    counts = read_meta(folder)["splits"]["train"]
    # A space that the tokenizer puts before each text counts as a byte too many.
    extra = 0 if exact else counts["documents"]
    assert counts["spelled"] == counts["bytes"] + extra
    table = load({"corpus": "pieces"}, sequence_length=8, cache=cache).token_bytes
    assert (table is not None) == exact


def test_large_vocabularies_take_32_bits(tmp_path, cache):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {f"w{i}": i for i in range(70_000)} | {"</s>": 70_000, "[UNK]": 70_001}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "words.json"))
    texts = texts_of(write_jsonl(tmp_path / "a.jsonl", [f"w{i} w69999" for i in range(40)]))
    tokens = tokenizer.load(str(tmp_path / "words.json"))
    build("words", texts, tokens, cache)
    words = load({"corpus": "words"}, sequence_length=4, cache=cache)
    assert words.train[0].dtype == np.uint32 and words.separator == 70_000
    assert 69_999 in stream(words.train)
    assert words.token_bytes is None  # the spaces are lost, so tokens do not spell the text


def test_result_does_not_depend_on_processes(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK_BYTES", 500)
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    found = [build(f"p{n}", texts_of(path), tokenizer.Bytes(), cache, processes=n) for n in (1, 2)]
    one, two = (read_meta(folder)["fingerprint"] for folder in found)
    assert one == two


def test_progress_is_told(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK_BYTES", 500)
    monkeypatch.setattr(prepare.Every, "__call__", lambda self: True)
    lines = []
    texts = texts_of(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    build("mine", texts, tokenizer.Bytes(), cache, log=lines.append)
    for stage in ("tokenising", "writing"):
        shares = [int(line.split("%")[0].split()[-1]) for line in lines if line.startswith(stage)]
        assert len(shares) > 5 and shares == sorted(shares) and shares[-1] == 100
    assert lines[-1].startswith("prepared corpus mine: train 0.01M tokens")


def test_stopped_preparation_is_continued(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK_BYTES", 500)
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    whole = build("whole", texts_of(path), tokenizer.Bytes(), cache)

    class Stopping(tokenizer.Bytes):
        left, encoded = 5, 0

        def encode(self, texts):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.encoded += len(texts)
            return super().encode(texts)

    first, second = Stopping(), Stopping()
    with pytest.raises(KeyboardInterrupt):
        build("cut", texts_of(path), first, cache)
    assert not (cache / "cut").exists()
    second.left = 1000
    cut = build("cut", texts_of(path), second, cache)
    assert first.encoded > 0 and first.encoded + second.encoded == len(TEXTS)
    for field in ("fingerprint", "splits"):
        assert read_meta(cut)[field] == read_meta(whole)[field]
    assert [p.name for p in cache.glob(".cut*")] == [".cut.lock"]


def test_large_splits_take_several_files_and_no_tensorflow(tmp_path, monkeypatch):
    """TFDS's own writer needs TensorFlow for splits above the size set here."""
    from tensorflow_datasets.core import shuffle

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    monkeypatch.setattr(dataset, "SHARD_RECORDS", 3)
    tokens = np.random.default_rng(0).integers(0, 70_000, 10 * 4096 + 5).astype(np.uint32)
    lengths = {"train": len(tokens), "tiny": 1}
    streams = {"train": lambda: iter(np.split(tokens, 7 * [100])), "tiny": lambda: [tokens[:1]]}
    dataset.write(tmp_path, streams, lengths, np.uint32)
    assert len(list(tmp_path.glob("**/*train.array_record*"))) == 4
    train = dataset.open_rows(
        dataset.open_dataset(str(tmp_path / dataset.FOLDER)),
        lengths,
        where="test",
        record_tokens=4096,
        vocab_size=70_000,
        sequence_length=1,
    )["train"]
    np.testing.assert_array_equal(stream(train), tokens)


PREPARE = """
import sys
from lm.data.corpus import load
print(load({"corpus": "stdlib"}, sequence_length=128, cache=sys.argv[1]).fingerprint)
"""


@pytest.mark.slow
def test_killed_preparations_leave_nothing_that_harms_two_processes_at_once(tmp_path, stdlib):
    run = [sys.executable, "-c", PREPARE, str(tmp_path)]
    for begun in (".*.lock", ".*-parts-*/*.tokens", ".*-unfinished/**/*.array*"):
        with subprocess.Popen(run, stdout=subprocess.DEVNULL) as victim:
            while victim.poll() is None and not list(tmp_path.glob(begun)):
                time.sleep(0.001)
            victim.send_signal(signal.SIGKILL)
    both = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate()[0].split()[-1] for p in both] == [stdlib[1].fingerprint] * 2
    (left,) = (path for path in tmp_path.iterdir() if path.suffix != ".lock")
    assert left.name.startswith("stdlib-")


# Named validation sets, mixtures, datasets made elsewhere


def test_named_validation_sets_and_mixtures(tmp_path, cache):
    train = write_jsonl(tmp_path / "t.jsonl", TEXTS)
    books = write_jsonl(tmp_path / "b.jsonl", TEXTS[:9])
    web = write_jsonl(tmp_path / "w.jsonl", TEXTS[9:30])
    named = ("--validation", f"web={web}", f"books={books}", "--cache", cache)
    assert command("prepare", "one", "--train", train, *named) == 0
    assert command("prepare", "two", "--train", books, "--cache", cache, *named) == 0
    one = load({"corpus": "one"}, sequence_length=16, cache=cache)
    assert list(one.validation) == ["web", "books"]
    text = "".join(text + "\0" for text in TEXTS[:9]).encode()
    expected = np.frombuffer(text, np.uint8).astype(int)
    expected[expected == 0] = 256
    np.testing.assert_array_equal(
        stream(one.validation["books"]), expected[: len(expected) // 16 * 16]
    )

    mixed = load({"corpus": "one=3, two=1"}, sequence_length=16, cache=cache)
    assert list(mixed.validation) == ["one/web", "one/books", "two/web", "two/books"]
    assert mixed.fingerprint != one.fingerprint
    which, _ = mixed.train.assign(np.arange(400))
    np.testing.assert_array_equal(np.bincount(which), [300, 100])
    alone = load({"corpus": "two"}, sequence_length=16, cache=cache).train
    np.testing.assert_array_equal(mixed.train[len(one.train) + 2], alone[2])


def test_tokens_prepared_elsewhere(tmp_path, monkeypatch):
    folder = make_dataset(tmp_path)
    data = {"corpus": f"tfds:{folder}", "vocab_size": 100}
    by_folder = load(data, sequence_length=8)
    assert list(by_folder.validation) == ["test"] and by_folder.token_bytes is None
    np.testing.assert_array_equal(by_folder.train[3], np.arange(9, 17))
    from tensorflow_datasets.core.utils import file_utils

    monkeypatch.setattr(file_utils, "_REGISTERED_DATA_DIRS", {tmp_path})
    by_name = load(data | {"corpus": "tfds:elsewhere"}, sequence_length=8)
    assert by_name.fingerprint == by_folder.fingerprint


def test_text_prepared_elsewhere(tmp_path, cache):
    folder = make_dataset(tmp_path, text=True)
    test = f"test=tfds:{folder}@test"
    args = ("prepare", "mine", "--train", f"tfds:{folder}", "--validation", test, "--cache", cache)
    assert command(*args) == 0
    mine = load({"corpus": "mine"}, sequence_length=4, cache=cache)
    first, *_ = split_documents(stream(mine.train), 256)
    assert bytes(first.astype(np.uint8)).decode() == TEXTS[0]
