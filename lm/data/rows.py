"""Random access to sequences: rows of exactly T tokens cut from a prepared stream of tokens."""

import dataclasses
from typing import Any

import numpy as np

from lm.data.readers import CorpusError

IN_MEMORY_TOKENS = 2**26  # a smaller split is decoded once and kept: 128 MiB at 16 bits


@dataclasses.dataclass
class Rows:
    """The rows of one split, read lazily; row i is tokens [iT, (i+1)T), the rest is dropped.

    `rows[i]` is (T,) and `rows[ids]`, with ids an integer array (n,), is (n, T).

    Attributes:
      records: `records.__getitems__(ids)` gives dicts of arrays, and there is `len(records)`.
      where: what errors call this split.
      feature: the key of the tokens in a record.
      tokens: length of the whole stream.
      record_tokens: tokens of every record; the last one may be shorter.
      vocab_size: reading a token id that is not below it is an error.
      sequence_length: T.
    """

    records: Any
    where: str
    feature: str
    tokens: int
    record_tokens: int
    vocab_size: int
    sequence_length: int

    def __post_init__(self):
        self._stream = None
        if not len(self):
            raise CorpusError(
                f"{self.where} has {self.tokens} tokens, too few for a row of "
                f"sequence_length={self.sequence_length}"
            )

    def __len__(self) -> int:
        return self.tokens // self.sequence_length

    def __getitem__(self, index) -> np.ndarray:
        ids = np.asarray(index, np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise IndexError(f"row {index} of {self.where}, which has {len(self)}")
        T = self.sequence_length
        if self._stream is None and self.tokens <= IN_MEMORY_TOKENS:
            self._stream = np.concatenate(self._read(np.arange(len(self.records))))
        if self._stream is not None:
            return self._stream[: len(self) * T].reshape(-1, T)[ids]
        return self._gather(ids.reshape(-1) * T).reshape(*ids.shape, T)

    @property
    def ahead(self) -> bool:
        """Whether it helps to know beforehand which rows will be read."""
        return hasattr(self.records, "expect") and self.tokens > IN_MEMORY_TOKENS

    def expect(self, ids: np.ndarray) -> None:
        """Begins to fetch these rows in the background, where `ahead`."""
        if self.ahead:
            starts, R = ids * self.sequence_length, self.record_tokens
            spans = np.stack([starts // R, (starts + self.sequence_length - 1) // R])
            self.records.expect({r for a, b in spans.T.tolist() for r in range(a, b + 1)})

    def _gather(self, starts: np.ndarray) -> np.ndarray:
        """Tokens [start, start + T) of the stream for every start, (n, T); one read for all."""
        T, R = self.sequence_length, self.record_tokens
        first, last = starts // R, (starts + T - 1) // R
        spans = [range(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        wanted = np.array(sorted({record for span in spans for record in span}))
        records = dict(zip(wanted.tolist(), self._read(wanted), strict=True))
        rows = []
        for start, span in zip(starts, spans, strict=True):
            tokens = np.concatenate([records[record] for record in span])
            rows.append(tokens[start - span[0] * R :][:T])
        return np.stack(rows)

    def _read(self, ids: np.ndarray) -> list[np.ndarray]:
        try:
            found = self.records.__getitems__(ids.tolist())
        except RuntimeError as error:  # array_record: a file cut short, damaged or gone
            raise CorpusError(f"{self.where}: cannot read its records: {error}") from error
        arrays = [record[self.feature] for record in found]
        for wrong in (min(array.min() for array in arrays), max(array.max() for array in arrays)):
            if not 0 <= wrong < self.vocab_size:
                raise CorpusError(
                    f"{self.where}: has token id {wrong}, outside [0, vocab_size={self.vocab_size})"
                )
        return arrays
