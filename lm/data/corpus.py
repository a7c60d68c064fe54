"""Corpora: the tokens that a config names, opened as rows for training and validation.

`load({"corpus": "stdlib"}, sequence_length=128)` needs no download: it is the text of the running
interpreter's own standard library, bytes as tokens. Others are made from files by
`python -m lm.data prepare NAME --train FILES`; docs/data.md says how.
"""

import dataclasses
import math
import pathlib

import numpy as np

from lm.data import cache as cache_lib
from lm.data import remote
from lm.data.batches import Mixture
from lm.data.readers import CorpusError
from lm.data.rows import Rows
from lm.storage import in_bucket


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Prepared tokens.

    `train` is a source of rows (T,); `validation` maps names to such sources, the headline first.
    `token_bytes` (vocab_size,) int32 counts the bytes of text of each token, 0 for `separator`;
    None where the tokenizer does not say. `separator` ends each document; -1 if there is none.
    `fingerprint` follows from the tokens and what they mean, not from where or when they were made.
    """

    fingerprint: str
    vocab_size: int
    separator: int
    token_bytes: np.ndarray | None
    train: Rows | Mixture
    validation: dict[str, Rows]


def load(data, *, sequence_length: int, cache: str | None = None, log=print) -> Corpus:
    """The corpus that `data` names; "stdlib" is prepared if it is not yet.

    Safe when several processes ask at once: one prepares, the others wait.

    Args:
      data: {"corpus": which}, where `which` is "stdlib", the name, folder or address (gs://...) of
        a prepared corpus, a mixture of such, "a=0.7,b=0.3", or "tfds:NAME" or "tfds:FOLDER" for
        tokens that were made elsewhere (then with "vocab_size" and, if a token ends each document,
        "separator").
        A "fingerprint" must be that of the corpus.
      sequence_length: tokens per row.
      cache: folder of prepared corpora; by default $BESTIARY_CACHE or ~/.cache/bestiary.
      log: called with one line at a time.

    Raises:
      CorpusError: one line that names what is wrong.
    """
    cache = pathlib.Path(cache or cache_lib.default_cache())
    which = str(data.get("corpus") or "")
    if which.startswith("tfds:"):
        corpus = _made_elsewhere(which, data, sequence_length)
    elif "=" in which:
        corpus = _mixture(which, sequence_length, cache, log)
    else:
        corpus, _ = _prepared(which, sequence_length, cache, log)
    expected = data.get("fingerprint")
    if expected and expected != corpus.fingerprint:
        raise CorpusError(
            f"corpus {which!r} has fingerprint {corpus.fingerprint}, expected {expected}: "
            f"its text, its tokenizer or the Python release is not the one of that run"
        )
    return corpus


def _prepared(which: str, sequence_length: int, cache: pathlib.Path, log) -> tuple[Corpus, dict]:
    """A corpus by name, folder or address, and its corpus.json."""
    if in_bucket(which):
        meta = remote.read_meta(which)
        splits, token_bytes = remote.open_rows(which, meta, cache, sequence_length)
    else:
        from lm.data import dataset  # here, because TFDS takes a second to import

        folder = cache_lib.find(which, cache, log)
        meta = cache_lib.read_meta(folder)
        cache_lib.check_files(folder, meta)
        token_bytes = np.load(folder / "token_bytes.npy")
        splits = dataset.open_rows(
            dataset.open_dataset(str(folder / dataset.FOLDER)),
            {split: count["tokens"] for split, count in meta["splits"].items()},
            where=folder.name,
            record_tokens=meta["record_tokens"],
            vocab_size=meta["vocab_size"],
            sequence_length=sequence_length,
        )
    exact = cache_lib.misspelt(meta) <= cache_lib.SPELLING_TOLERANCE
    corpus = Corpus(
        fingerprint=meta["fingerprint"],
        vocab_size=meta["vocab_size"],
        separator=meta["separator"],
        token_bytes=token_bytes if exact else None,
        train=splits.pop("train"),
        validation=splits,
    )
    return corpus, meta


def _mixture(which: str, sequence_length: int, cache: pathlib.Path, log) -> Corpus:
    """ "a=3.8,b=0.25": training rows by weight, and the validation sets of all."""
    corpora, weights, tokenizers = {}, {}, set()
    for item in which.split(","):
        name, _, weight = (part.strip() for part in item.partition("="))
        try:
            weights[name] = float(weight)
        except ValueError:
            weights[name] = math.nan
        if not 0 < weights[name] < math.inf or name in corpora:
            raise CorpusError(f"mixture {which!r}: {item!r} is not name=weight, each name once")
        corpora[name], meta = _prepared(name, sequence_length, cache, log)
        tokenizers.add((meta["tokenizer"], meta["separator"]))
        if len(tokenizers) > 1:
            raise CorpusError(f"mixture {which!r}: {name!r} has another tokenizer than the first")
    tables = [corpus.token_bytes for corpus in corpora.values()]
    try:
        train = Mixture([corpus.train for corpus in corpora.values()], list(weights.values()))
    except ValueError as error:
        raise CorpusError(f"mixture {which!r}: {error}") from error
    return dataclasses.replace(
        next(iter(corpora.values())),
        token_bytes=None if any(table is None for table in tables) else tables[0],
        fingerprint=cache_lib.digest(*((corpora[n].fingerprint, weights[n]) for n in corpora)),
        train=train,
        validation={
            f"{name}/{split}": rows
            for name, corpus in corpora.items()
            for split, rows in corpus.validation.items()
        },
    )


def _made_elsewhere(which: str, data, sequence_length: int) -> Corpus:
    """A dataset of fixed-length records of token ids that something else prepared."""
    from lm.data import dataset

    vocab_size, separator = data.get("vocab_size"), data.get("separator", -1)
    if not vocab_size:
        raise CorpusError(f"{which}: data.vocab_size is needed, a dataset does not say it")
    found = dataset.open_dataset(which.removeprefix("tfds:"))
    feature, record_tokens, lengths = dataset.token_feature(found, which)
    if "train" not in lengths or len(lengths) < 2:
        raise CorpusError(f"{which}: needs 'train' and a split to validate on, has {list(lengths)}")
    splits = dataset.open_rows(
        found,
        lengths,
        where=which,
        feature=feature,
        record_tokens=record_tokens,
        vocab_size=vocab_size,
        sequence_length=sequence_length,
    )
    return Corpus(
        fingerprint=cache_lib.digest(
            vocab_size, separator, cache_lib.file_sizes(pathlib.Path(found.data_dir))
        ),
        vocab_size=vocab_size,
        separator=separator,
        token_bytes=None,
        train=splits.pop("train"),
        validation=splits,
    )
