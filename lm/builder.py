"""Writes and reads tokens as a TFDS dataset in array_record files.

One split is one stream of tokens, cut into records of RECORD_TOKENS (the last one is shorter);
rows of any sequence length are cut from the stream when it is read (`lm/rows.py`).
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

RECORD_TOKENS = 4096


class Tokens(tfds.core.GeneratorBasedBuilder):
    """A prepared corpus. `metadata` is saved beside the records and gains their fingerprint."""

    name = "tokens"
    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar = {}  # nothing to download; TFDS would search our package for checksums

    def __init__(
        self,
        streams: dict[str, Callable[[], Iterator[np.ndarray]]],
        dtype: np.dtype,
        metadata: dict,
        **kwargs,
    ):
        """`streams`: split -> function that returns arrays of token ids, in order."""
        self._streams, self._dtype = streams, np.dtype(dtype)
        self._written = tfds.core.MetadataDict(metadata, tokens={})
        self._digest = hashlib.blake2b(digest_size=16)
        super().__init__(**kwargs)

    def _info(self):
        # Stored as raw bytes a record is read four times faster than as a list of integers.
        tokens = tfds.features.Tensor(shape=(None,), dtype=self._dtype, encoding="bytes")
        return tfds.core.DatasetInfo(
            builder=self,
            description="Token streams prepared by Bestiary.",
            features=tfds.features.FeaturesDict({"tokens": tokens}),
            disable_shuffling=True,  # a record's index is its place in the stream
            metadata=self._written,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(split) for split in self._streams}

    def _generate_examples(self, split: str):
        self._digest.update(split.encode())
        total = 0
        for index, record in enumerate(_records(self._streams[split](), self._dtype)):
            self._digest.update(record.tobytes())
            total += len(record)
            yield index, {"tokens": record}
        self._written["tokens"][split] = total
        self._written["fingerprint"] = self._digest.hexdigest()

    # TFDS prints here about downloads; there are none.
    def _log_download_bytes(self):
        pass

    def _log_download_done(self):
        pass


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
