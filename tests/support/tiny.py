"""The smallest run that is still a run, for tests."""

import numpy as np

from lm.config import finalise
from lm.run.records import read_curve

MODEL = {
    "name": "tiny",
    "hidden": 8,
    "layers": 2,
    "heads": 2,
    "mlp": 16,
    "vocab_size": 257,
    "sequence_length": 16,
}

MODERN = {"qk_norm": True, "post_norm": True, "tied": True, "activation": "relu2", "kv_heads": 1}


def config(optimizer="adamw", *, steps=12, batch_size=2, seed=0, sections=None, **hparams) -> dict:
    """A finalised config; `sections` overrides whole fields, as {"model": {"unroll": True}}."""
    sections = sections or {}
    train = {"chinchilla_ratio": 1.0, "batch_size": batch_size, "steps": steps, "seed": seed}
    optimizer = {"name": optimizer, "learning_rate": 1e-2, "warmup": 2, **hparams}
    given = {
        "model": MODEL,
        "data": {"corpus": "stdlib"},
        "train": train,
        "optimizer": optimizer,
        "eval": {"sequences": 4, "points": 2},
    }
    for section in sections:
        given[section] = {**given.get(section, {}), **sections[section]}
    return finalise(given)


def tokens(*shape, vocab_size=256, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab_size, shape).astype(np.uint16)


def curve(folder) -> list[dict]:
    """A run's curve without its clock."""
    lines = read_curve(folder / "curve.jsonl")
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
