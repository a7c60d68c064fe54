"""Random access to sequences: rows of exactly T tokens cut from a prepared stream of tokens."""

import numpy as np

IN_MEMORY_BYTES = 2**28  # a smaller split is decoded once and kept


class Rows:
    """The rows of one split; row i is tokens [iT, (i+1)T) of its stream, the rest is dropped.

    `rows[i]` is (T,) and `rows[ids]`, with ids an integer array (n,), is (n, T).
    """

    def __init__(self, records, tokens: int, record_tokens: int, dtype, sequence_length: int):
        """`records[k]` or `records.__getitems__(ks)`: dicts with "tokens", each `record_tokens`
        long except the last; `tokens`: the length of the whole stream."""
        self._records, self._record_tokens = records, record_tokens
        self.tokens, self.dtype = tokens, np.dtype(dtype)
        self.sequence_length = sequence_length
        self._stream = None

    def __len__(self) -> int:
        return self.tokens // self.sequence_length

    def __getitem__(self, index) -> np.ndarray:
        ids = np.asarray(index, np.int64)
        if ids.size and not (ids.min() >= 0 and ids.max() < len(self)):
            raise IndexError(f"row {index} of {len(self)}")
        T = self.sequence_length
        if self.tokens * self.dtype.itemsize <= IN_MEMORY_BYTES:
            if self._stream is None:
                self._stream = self._read(np.arange(len(self._records)))
            return self._stream[: len(self) * T].reshape(-1, T)[ids]
        out = np.stack([self._span(start) for start in ids.reshape(-1) * T])
        return out.reshape(*ids.shape, T)

    def _span(self, start: int) -> np.ndarray:
        """Tokens [start, start + T) of the stream."""
        first, offset = divmod(int(start), self._record_tokens)
        last = (int(start) + self.sequence_length - 1) // self._record_tokens
        stream = self._read(np.arange(first, last + 1))
        return stream[offset : offset + self.sequence_length]

    def _read(self, ids: np.ndarray) -> np.ndarray:
        records = self._records.__getitems__(ids.tolist())
        return np.concatenate([record["tokens"] for record in records])
