"""Validation on a fixed set of tokens."""

from __future__ import annotations

import math

import numpy as np

ROWS = 16  # of a batch, at the least what a program is given at once


class Evaluation:
    """A fixed set of validation tokens, the same for every run, spread evenly over the split.

    `tokens_EBT` are its batches and `weight_EB` is 1 for their rows, 0 for those that fill the last
    batches up.
    """

    def __init__(
        self,
        source,
        token_bytes: np.ndarray | None,
        sequences: int,
        *,
        most: int = ROWS,
        multiple: int = 1,
    ):
        """`source` is a validation split of a corpus, `token_bytes` the bytes of each token.

        Args:
          sequences: how many rows of the split, or all if it has fewer.
          most: rows of a batch.
          multiple: what the rows of a batch are a multiple of, even beyond `most`.
        """
        sequences = min(sequences, len(source))
        rows = np.linspace(0, len(source) - 1, sequences).round().astype(np.int64)
        tokens = source[rows]
        batches = -(-sequences // max(most, multiple))
        width = -(-sequences // (batches * multiple)) * multiple
        empty = batches * width - sequences
        self.tokens_EBT = np.pad(tokens, [(0, empty), (0, 0)]).reshape(batches, width, -1)
        self.weight_EB = np.pad(np.ones(sequences, np.float32), (0, empty)).reshape(batches, width)
        self.bytes = None
        if token_bytes is not None:
            self.bytes = int(token_bytes[tokens[:, 1:]].sum())

    def summarise(self, nats: float, count: float) -> dict:
        """Validation loss in nats per token and, where the tokenizer allows it, bits per byte."""
        bits = None if not self.bytes else nats / math.log(2) / self.bytes
        return {"validation_loss": nats / count, "bits_per_byte": bits}
