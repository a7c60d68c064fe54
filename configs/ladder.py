"""Model sizes: two CPU ladders and the published four (arXiv 2509.02046).

All keep the study's proportions: widths 2 : 3 : 4 : 6, constant depth within a ladder, MLP width
4h, embeddings not tied. `nano` is the published ladder with widths over 32, `micro` with widths
over 8; depth shrinks from 32 to 2 and 4, the head dimension from 64 to 8 and 16. Budgets count
`params`, the matrices of the blocks alone: layers (4 h² + 3 h 4h) = 16 h² layers, and one
"Chinchilla" is 20 tokens for each of them.
"""

from lm.config import non_embedding_params, unknown

BATCH = 8  # sequences of 128 bytes: the base batch of the CPU ladders
BYTES = 257  # a token per byte, and the document separator
LLAMA3 = 128_256


def _size(hidden: int, layers: int, heads: int, vocab_size: int, sequence_length: int) -> dict:
    return {
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "mlp": 4 * hidden,
        "vocab_size": vocab_size,
        "sequence_length": sequence_length,
        "separator": 256 if vocab_size == BYTES else 128_001,
    }


#                        h  L   H                        params       tokens at 1x
SIZES = {
    "nano-xs": _size(16, 2, 2, BYTES, 128),  #              8,192          163,840
    "nano-s": _size(24, 2, 3, BYTES, 128),  #              18,432          368,640
    "nano-m": _size(32, 2, 4, BYTES, 128),  #              32,768          655,360
    "nano-l": _size(48, 2, 6, BYTES, 128),  #              73,728        1,474,560
    "micro-xs": _size(64, 4, 4, BYTES, 128),  #           262,144        5,242,880
    "micro-s": _size(96, 4, 6, BYTES, 128),  #            589,824       11,796,480
    "micro-m": _size(128, 4, 8, BYTES, 128),  #         1,048,576       20,971,520
    "micro-l": _size(192, 4, 12, BYTES, 128),  #        2,359,296       47,185,920
    "130m": _size(512, 32, 8, LLAMA3, 4096),  #       134,217,728    2,684,354,560
    "300m": _size(768, 32, 12, LLAMA3, 4096),  #      301,989,888    6,039,797,760
    "520m": _size(1024, 32, 16, LLAMA3, 4096),  #     536,870,912   10,737,418,240
    "1.2b": _size(1536, 32, 24, LLAMA3, 4096),  #   1,207,959,552   24,159,191,040
}

# What Llamas of 2026 have and the study's has not; the wider MLP keeps its parameters without the
# gate, and two query heads share their keys and values.
MODERN = {"qk_norm": True, "post_norm": True, "tied": True, "activation": "relu2"}


def modern(name: str) -> dict:
    """A size of the ladder in the second architecture."""
    given = SIZES[name]
    heads, mlp = given["heads"] // 2 if given["heads"] % 2 == 0 else 0, 6 * given["hidden"]
    return {**given, **MODERN, "mlp": mlp, "kv_heads": heads}


PUBLISHED = ("130m", "300m", "520m", "1.2b")


def size(name: str) -> dict:
    """The model section of a config. Raises ValueError with the nearest name."""
    if name not in SIZES:
        raise ValueError(unknown("size", name, SIZES))
    return {"name": name, **SIZES[name]}


def params(name: str) -> int:
    """Non-embedding parameters, the N of every budget."""
    return non_embedding_params(SIZES[name])


def steps(name: str, ratio: float, batch_size: int = BATCH) -> int:
    """Training steps of a size at a Chinchilla ratio and a batch size in sequences."""
    return int(20 * ratio * params(name) // (batch_size * SIZES[name]["sequence_length"]))


def ratio(text: str) -> float:
    """A Chinchilla ratio as a config's name has it, `1x` or `0.5`. Raises ValueError, one line."""
    try:
        found = float(text.strip().removesuffix("x"))
    except ValueError:
        found = 0.0
    if not 0 < found < 1e6:
        raise ValueError(f"ratio {text!r} is not a positive number, as in 1x or 0.5x")
    return found
