"""Validation on a fixed set of tokens."""

from __future__ import annotations

import math

import numpy as np


class Evaluation:
    """A fixed set of validation tokens, the same for every run, spread evenly over the split."""

    def __init__(self, source, token_bytes: np.ndarray | None, sequences: int):
        """`source` is a validation split of a corpus, `token_bytes` the bytes of each token."""
        sequences = min(sequences, len(source))
        rows = np.linspace(0, len(source) - 1, sequences).round().astype(np.int64)
        width = max(w for w in range(1, 17) if sequences % w == 0)
        tokens = source[rows]
        self.tokens_EBT = tokens.reshape(-1, width, tokens.shape[-1])
        self.bytes = None
        if token_bytes is not None:
            self.bytes = int(token_bytes[tokens[:, 1:]].sum())

    def summarise(self, nats: float, count: float) -> dict:
        """Validation loss in nats per token and, where the tokenizer allows it, bits per byte."""
        bits = None if not self.bytes else nats / math.log(2) / self.bytes
        return {"validation_loss": nats / count, "bits_per_byte": bits}
