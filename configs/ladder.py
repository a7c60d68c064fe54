"""Model sizes: a CPU ladder and the published four (arXiv 2509.02046).

All keep the study's proportions: MLP width 4h, constant depth within a ladder (32 published, 2 or 4
here), head dimension 64 (published) or 16, embeddings not tied. Budgets count `params`, the
matrices of the blocks alone: layers (4 h² + 3 h 4h) = 16 h² layers, and one "Chinchilla" is 20
tokens for each of them.
"""

import difflib

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
    "nano-xs": _size(16, 2, 1, BYTES, 128),  #              8,192          163,840
    "nano-s": _size(32, 2, 2, BYTES, 128),  #              32,768          655,360
    "nano-m": _size(64, 2, 4, BYTES, 128),  #             131,072        2,621,440
    "nano-l": _size(96, 4, 6, BYTES, 128),  #             589,824       11,796,480
    "nano-xl": _size(128, 4, 8, BYTES, 128),  #         1,048,576       20,971,520
    "nano-xxl": _size(224, 4, 14, BYTES, 128),  #       3,211,264       64,225,280
    "130m": _size(512, 32, 8, LLAMA3, 4096),  #       134,217,728    2,684,354,560
    "300m": _size(768, 32, 12, LLAMA3, 4096),  #      301,989,888    6,039,797,760
    "520m": _size(1024, 32, 16, LLAMA3, 4096),  #     536,870,912   10,737,418,240
    "1.2b": _size(1536, 32, 24, LLAMA3, 4096),  #   1,207,959,552   24,159,191,040
}


def size(name: str) -> dict:
    """The model section of a config. Raises ValueError with the nearest name."""
    if name not in SIZES:
        near = difflib.get_close_matches(name, SIZES, n=1, cutoff=0.0)[0]
        known = ", ".join(SIZES)
        raise ValueError(f"unknown size {name!r}; did you mean {near!r}? (known: {known})")
    return {"name": name, **SIZES[name]}


def params(name: str) -> int:
    """Non-embedding parameters, the N of every budget."""
    s = SIZES[name]
    return s["layers"] * (4 * s["hidden"] ** 2 + 3 * s["hidden"] * s["mlp"])
