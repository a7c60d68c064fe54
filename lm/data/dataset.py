"""Tokens as a TFDS dataset in array_record files; no TensorFlow is involved.

One split is one stream of tokens, cut into records of RECORD_TOKENS (the last one is shorter);
rows of any sequence length are cut from the stream when it is read (`lm/data/rows.py`).
"""

import hashlib
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from lm.data.readers import CorpusError
from lm.data.rows import Rows

RECORD_TOKENS = 4096
SHARD_RECORDS = 2**16  # of one file: 268M tokens
FOLDER = "tokens/1.0.0"  # where TFDS puts dataset `tokens`

Streams = dict[str, Callable[[], Iterator[np.ndarray]]]


class Tokens(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One dataset of token streams.

    Args:
      streams: split -> function that returns its tokens, as arrays in order.
      tokens: split -> how many there are.
      dtype: of a token.
    """

    name = "tokens"
    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar = {}  # nothing to download; TFDS would search our package for checksums

    def __init__(self, streams: Streams, tokens: dict[str, int], dtype, **kwargs):
        self._streams, self._tokens, self._dtype = streams, tokens, np.dtype(dtype)
        super().__init__(**kwargs)

    def _info(self):
        # Raw bytes are read and written faster than a list of integers (docs/LOG.md).
        tokens = tfds.features.Tensor(shape=(None,), dtype=self._dtype, encoding="bytes")
        return tfds.core.DatasetInfo(
            builder=self,
            description="Token streams prepared by Bestiary.",
            features=tfds.features.FeaturesDict({"tokens": tokens}),
            disable_shuffling=True,  # a record's index is its place in the stream
        )

    def _generate_splits(self, dl_manager, download_config):
        """Writes records to their files as they come.

        TFDS first collects a split to sort it by key: in memory, and above 1 GB with TensorFlow.
        """
        del dl_manager, download_config
        features, splits = self.info.features, []
        serialize = ExampleSerializer(features.get_serialized_info()).serialize_example
        for split, stream in self._streams.items():
            count = -(-self._tokens[split] // RECORD_TOKENS)
            starts = range(0, count, SHARD_RECORDS)
            lengths = [min(SHARD_RECORDS, count - start) for start in starts]
            template = self._get_filename_template(split)
            paths = [
                template.sharded_filepath(shard_index=k, num_shards=len(lengths))
                for k in range(len(lengths))
            ]
            examples = ({"tokens": record} for record in _records(stream(), self._dtype))
            records = enumerate(serialize(features.encode_example(x)) for x in examples)
            for path, length in zip(paths, lengths, strict=True):
                self._example_writer().write(path, itertools.islice(records, length))
            size = sum(os.path.getsize(path) for path in paths)
            info = {"shard_lengths": lengths, "num_bytes": size, "filename_template": template}
            splits.append(tfds.core.SplitInfo(name=split, **info))
        return splits

    def _split_generators(self, dl_manager):
        raise AssertionError("never asked: `_generate_splits` reads the streams itself")

    _generate_examples = _split_generators

    def _log_download_bytes(self):
        """Nothing: TFDS prints here about downloads, and there are none."""

    _log_download_done = _log_download_bytes


def write(root: pathlib.Path, streams: Streams, tokens: dict[str, int], dtype) -> dict[str, str]:
    """Writes the streams to `root / FOLDER`, reads them back, and returns the digest of each.

    Raises:
      CorpusError: they cannot be written, or what is read is not what was written.
    """
    tfds.disable_progress_bar()
    builder = Tokens(streams, tokens, dtype, data_dir=root)
    try:
        builder.download_and_prepare(download_dir=root / "downloads", file_format="array_record")
    except RuntimeError as error:  # array_record's writer; its message holds the system's reason
        raise CorpusError(f"cannot write a corpus: {_first_line(error)}") from error
    shutil.rmtree(root / "downloads")
    written = open_dataset(str(root / FOLDER))
    digests = {}
    for split, stream in streams.items():
        digests[split] = _digest(array.astype(dtype) for array in stream())
        source = written.as_data_source(split)
        found = _digest(source[index]["tokens"] for index in range(len(source)))
        if found != digests[split]:
            raise CorpusError(f"cannot write a corpus: {split} reads back otherwise than written")
    return digests


def open_dataset(name: str) -> tfds.core.DatasetBuilder:
    """A prepared dataset, by its folder (the one with dataset_info.json) or by its TFDS name.

    Raises:
      CorpusError: there is none, or it is not in array_record format.
    """
    try:
        if os.path.isdir(name):
            builder = tfds.builder_from_directory(name)
        else:
            builder = read_only_builder.builder_from_files(name)
    except Exception as error:  # TFDS raises many kinds, of many lines
        raise CorpusError(f"tfds:{name}: no prepared dataset: {_first_line(error)}") from error
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise CorpusError(
            f"tfds:{name}: is {builder.info.file_format.value}, not array_record; prepare it with "
            f'download_and_prepare(file_format="array_record")'
        )
    return builder


def token_feature(builder, which: str) -> tuple[str, int, dict[str, int]]:
    """Of a dataset made elsewhere: its feature that holds tokens, how many each record has, and
    the tokens in each split. `which` is what errors call it."""
    shapes = {
        key: feature.shape
        for key, feature in builder.info.features.items()
        if len(feature.shape or ()) == 1 and np.issubdtype(feature.np_dtype, np.integer)
    }
    key = "tokens" if "tokens" in shapes else next(iter(shapes), None)
    if key is None or shapes[key][0] is None or (len(shapes) > 1 and key != "tokens"):
        raise CorpusError(
            f"{which}: needs one feature of token ids of fixed length, as "
            f"Tensor(shape=(4096,), dtype=uint16); has {dict(builder.info.features.items())}"
        )
    length = shapes[key][0]
    lengths = {split: info.num_examples * length for split, info in builder.info.splits.items()}
    return key, length, lengths


def open_rows(
    builder, lengths: dict[str, int], *, where: str, feature: str = "tokens", **numbers
) -> dict[str, Rows]:
    """The rows of every split; `lengths`: its tokens, `numbers`: the other arguments of Rows."""
    return {
        split: Rows(
            builder.as_data_source(split),
            where=f"{where}/{split}",
            feature=feature,
            tokens=tokens,
            **numbers,
        )
        for split, tokens in lengths.items()
    }


def _records(arrays: Iterator[np.ndarray], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Cuts a stream of arrays into records of RECORD_TOKENS, the last one shorter."""
    rest = np.empty(0, dtype)
    for array in arrays:
        rest = np.concatenate([rest, array.astype(dtype, copy=False)])
        whole = len(rest) // RECORD_TOKENS * RECORD_TOKENS
        yield from rest[:whole].reshape(-1, RECORD_TOKENS)
        rest = rest[whole:]
    if len(rest):
        yield rest


def _digest(arrays: Iterator[np.ndarray]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(array.tobytes())
    return found.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_tfds(spec: str, field: str) -> Iterator[str | bytes]:
    """The texts of "tfds:NAME@SPLIT", a dataset in array_record format; @train if not said."""
    name, _, split = spec.removeprefix("tfds:").partition("@")
    builder, split = open_dataset(name), split or "train"
    if field not in builder.info.features:
        raise CorpusError(f"{spec}: no feature {field!r}, only {sorted(builder.info.features)}")
    if split not in builder.info.splits:
        raise CorpusError(f"{spec}: no split {split!r}, only {sorted(builder.info.splits)}")
    source = builder.as_data_source(split)
    for index in range(len(source)):
        try:
            text = source[index][field]
        except RuntimeError as error:  # array_record
            raise CorpusError(f"{spec}: cannot read record {index}: {error}") from error
        if not isinstance(text, str | bytes):
            raise CorpusError(f"{spec}: {field!r} is {type(text).__name__}, not text")
        yield text
