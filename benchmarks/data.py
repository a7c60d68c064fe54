"""How fast batches are read, from disk and from memory.

    python -m benchmarks.data [TOKENS]

Rounds are interleaved, so that a busy machine slows all alike; printed are tokens per second
(median and range over rounds) and the median ratio to reading from disk. Random tokens of a
128,256-word vocabulary are written to a temporary folder, 4 bytes each, and stay in the system's
file cache.
"""

import pathlib
import sys
import tempfile
import time

import numpy as np

from lm.data import dataset, rows
from lm.data.batches import Batches

VOCAB_SIZE, ROUNDS = 128_256, 9
# Rows of a batch, tokens of a row, batches at once, calls a round.
CASES = ((128, 4096, 1, 4), (16, 128, 1, 16), (16, 128, 64, 1))


def ours(folder, tokens, batch_size, sequence_length, block, in_memory):
    source = dataset.open_rows(
        dataset.open_dataset(str(folder / dataset.FOLDER)),
        {"train": tokens},
        where="benchmark",
        record_tokens=dataset.RECORD_TOKENS,
        vocab_size=VOCAB_SIZE,
        sequence_length=sequence_length,
    )["train"]
    batches = Batches(source, batch_size, seed=0)

    def read(call):
        rows.IN_MEMORY_TOKENS = 2**40 if in_memory else 0
        return batches.block(call * block, block)

    return read


def rates(readers, tokens_per_call, calls):
    """Tokens per second, reader -> one number a round; the readers take turns."""
    found = {name: [] for name in readers}
    for read in readers.values():
        read(0)
    for round_number in range(ROUNDS):
        for name, read in readers.items():
            start = time.perf_counter()
            for call in range(round_number * calls, (round_number + 1) * calls):
                read(call)
            found[name].append(calls * tokens_per_call / (time.perf_counter() - start))
    return {name: np.array(rate) for name, rate in found.items()}


def main(tokens: int):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tokens -= tokens % dataset.RECORD_TOKENS
        stream = np.random.default_rng(0).integers(0, VOCAB_SIZE, tokens).astype(np.uint32)
        start = time.perf_counter()
        dataset.write(folder, {"train": lambda: iter([stream])}, {"train": tokens}, np.uint32)
        print(
            f"written and verified: {tokens / (time.perf_counter() - start) / 1e6:.0f} M tokens/s"
        )
        for batch_size, length, block, calls in CASES:
            readers = {
                "from disk": ours(folder, tokens, batch_size, length, block, in_memory=False),
                "in memory": ours(folder, tokens, batch_size, length, block, in_memory=True),
            }
            found = rates(readers, block * batch_size * length, calls)
            for name, rate in found.items():
                print(
                    f"{block} x ({batch_size} x {length}), {name}: "
                    f"{np.median(rate) / 1e6:.1f} M tokens/s "
                    f"({rate.min() / 1e6:.1f} to {rate.max() / 1e6:.1f}), "
                    f"{np.median(rate / found['from disk']):.2f} x from disk"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000_000)
