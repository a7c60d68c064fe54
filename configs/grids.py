"""Starting points and one-dimensional grids of the study (arXiv 2509.02046), and how they shrink.

GRIDS are those of 130M at ratio 1. The starting point there is the `study` preset of each optimizer
with the warm-up and batch in `start`; STARTS are the changes to it at the other Phase I settings.
Batch sizes count sequences of 4096 tokens, warm-ups count steps of batch 128.

`recentred` carries them to the CPU ladder by rules that are the same for every optimizer:

- the start is the study's at 130M and ratio 2, which its own first descent had already improved;
- learning rates are LEARNING_RATE_FACTOR times the published, on a grid of doublings with the start
  in the middle and as many values as the study had;
- what counts steps (warm-up, Kron's flat start) keeps its share of the shortest training;
- batch sizes keep their doublings from the base batch; block sizes their share of the width;
- what has no scale (betas, momenta, weight decay, decay, epsilons, clip norms) stays as it is;
- grids longer than six keep every third value, counted from the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import optim
from configs import ladder

PUBLISHED_STEPS = 5120  # 130M, ratio 1, batch 128
PUBLISHED_BATCH = 128
PUBLISHED_WIDTH = 512

_EPSILON = [1e-25, 1e-20, 1e-15, 1e-10]
_CLIP = [0, 1.0, 2.0]
_BATCH = [128, 256, 512, 1024]
_WARMUP = [500, 1000, 2000, 4000]
_DECAY = [0, 0.1, 0.2]
_BETA1 = [0.8, 0.9, 0.95, 0.98]
_BETA2 = [0.9, 0.95, 0.98]

_ADAM = {
    "learning_rate": [8e-3, 16e-3, 32e-3],
    "weight_decay": _DECAY,
    "warmup": _WARMUP,
    "beta1": _BETA1,
    "beta2": _BETA2,
    "epsilon": _EPSILON,
    "max_grad_norm": _CLIP,
    "batch_size": _BATCH,
}
_ADAMW = _ADAM | {"learning_rate": [4e-3, 8e-3, 16e-3, 32e-3], "beta1": [0.9, 0.95, 0.98]}

GRIDS: dict[str, dict[str, list]] = {
    "adamw": _ADAMW,
    "nadamw": _ADAM,
    "cautious": _ADAM,
    "mars": {
        "learning_rate": [8e-3, 16e-3, 32e-3],
        "weight_decay": _DECAY,
        "warmup": _WARMUP,
        "gamma": [0.0125, 0.025, 0.05, 0.1],
        "beta1": _BETA1,
        "beta2": [0.9, 0.95, 0.98, 0.99],
        "epsilon": [1e-30, 1e-25, 1e-20, 1e-15, 1e-10],
        "batch_size": _BATCH,
    },
    "lion": {
        "learning_rate": [0.5e-3, 1e-3, 2e-3, 4e-3, 8e-3],
        "weight_decay": [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1],
        "warmup": _WARMUP,
        "beta1": _BETA1,
        "beta2": _BETA2,
        "max_grad_norm": _CLIP,
        "batch_size": _BATCH,
    },
    "adam_mini": _ADAMW,
    "muon": {
        "learning_rate": [8e-3, 16e-3, 32e-3, 64e-3, 128e-3],
        "momentum": _BETA1,
        "weight_decay": _DECAY,
        "decay": [0.2, 0.4, 0.6, 0.8, 1.0],
        "beta1": _BETA1,
        "beta2": _BETA2,
        "epsilon": _EPSILON,
        "muon_epsilon": [1e-25, 1e-20, 1e-15, 1e-10, 1e-5],
        "muon_to_adam_lr": [0.1, 0.2, 0.3],
        "max_grad_norm": _CLIP,
        "batch_size": _BATCH,
    },
    "scion": {
        "learning_rate": [8e-3, 16e-3, 32e-3, 64e-3, 128e-3],
        "momentum": _BETA1,
        "weight_decay": _DECAY,
        "decay": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        "beta1": _BETA1,
        "scion_epsilon": [1e-20, 1e-15, 1e-10, 1e-5],
        "scion_to_signum_lr": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "max_grad_norm": _CLIP,
        "batch_size": _BATCH,
    },
    "kron": {
        "learning_rate": [0.5e-3, 1e-3, 2e-3, 4e-3, 8e-3],
        "weight_decay": [0.0, 0.5, 0.7, 0.9],
        "warmup": [1000, 2000, 4000],
        "beta1": [0.9, 0.95, 0.98],
        "block_size": [128, 256, 512],
        "preconditioner_lr": [0.1, 0.2],
        "preconditioner_update_probability": [0.05, 0.1],
        "update_prob_flat_start": [500, 1000, 2000],
        "normalize_grads": [False, True],
        "max_grad_norm": _CLIP,
        "batch_size": _BATCH,
    },
    "soap": {
        "learning_rate": [4e-3, 8e-3, 16e-3],
        "weight_decay": _DECAY,
        "warmup": [500, 1000, 2000],
        "beta1": [0.8, 0.9, 0.95],
        "beta2": [0.9, 0.95, 0.98, 0.99],
        "shampoo_beta": [0.9, 0.95, 0.98, 0.99],
        "block_size": [128, 256, 512],
        "precondition_frequency": [1, 5],
        "epsilon": [1e-20, 1e-15, 1e-10],
        "batch_size": [128, 256, 512],
    },
    "sophia": {
        "learning_rate": [2e-3, 4e-3, 8e-3, 16e-3, 32e-3],
        "weight_decay": [0, 0.1, 0.2, 0.3],
        "warmup": _WARMUP,
        "gamma": [0.00625, 0.0125, 0.025, 0.05],
        "beta1": _BETA1,
        "beta2": [0.9, 0.95, 0.98, 0.99, 0.995],
        "epsilon": [1e-17, 1e-12, 1e-7],
        "batch_size": _BATCH,
    },
}

# Of the rules that the study did not run, in its manner; their starts are their `study` presets.
_MATRIX = {
    "learning_rate": [8e-3, 16e-3, 32e-3, 64e-3, 128e-3],
    "momentum": _BETA1,
    "weight_decay": _DECAY,
    "decay": [0.2, 0.4, 0.6, 0.8, 1.0],
    "beta2": _BETA2,
    "max_grad_norm": _CLIP,
    "batch_size": _BATCH,
}
_SPHERE = {
    "learning_rate": [5e-3, 10e-3, 20e-3, 40e-3],
    "warmup": _WARMUP,
    "beta2": _BETA2,
    "max_grad_norm": _CLIP,
    "batch_size": _BATCH,
}
_FACTORS = {
    "learning_rate": [4e-3, 8e-3, 16e-3],
    "weight_decay": _DECAY,
    "warmup": [500, 1000, 2000],
    "beta1": _BETA1,
    "beta2": [0.9, 0.95, 0.98, 0.99],
    "block_size": [128, 256, 512],
    "precondition_frequency": [1, 10],
    "batch_size": [128, 256, 512],
}
_RATIO = [0.1, 0.2, 0.3]
FRONTIER: dict[str, dict[str, list]] = {
    "ademamix": _ADAM | {"beta3": [0.99, 0.995, 0.999, 0.9995], "alpha": [2.0, 4.0, 8.0]},
    "schedule_free": {
        "learning_rate": [8e-3, 16e-3, 32e-3, 64e-3],
        "weight_decay": _DECAY,
        "warmup": _WARMUP,
        "interpolation": [0.8, 0.9, 0.95, 0.98],
        "weight_power": [0.0, 2.0],
        "beta2": _BETA2,
        "max_grad_norm": _CLIP,
        "batch_size": _BATCH,
    },
    "adamc": _ADAMW | {"learning_rate": [5e-3, 10e-3, 20e-3, 40e-3]},
    "adamh": _SPHERE | {"beta1": [0.9, 0.95, 0.98], "adam_lr_ratio": [0.1, 3 / 13, 0.5]},
    "normuon": _MATRIX | {"muon_beta2": _BETA2, "muon_to_adam_lr": _RATIO},
    "adamuon": {name: v for name, v in _MATRIX.items() if name != "decay"}
    | {"learning_rate": [4e-3, 8e-3, 16e-3], "muon_beta2": _BETA2, "warmup": _WARMUP},
    "dion": _MATRIX | {"rank_fraction": [0.125, 0.25, 0.5, 1.0], "adam_lr_ratio": _RATIO},
    "muonc": _MATRIX | {"learning_rate": [5e-3, 10e-3, 20e-3, 40e-3], "muon_to_adam_lr": _RATIO},
    "muonh": _SPHERE | {"momentum": _BETA1, "muon_to_adam_lr": [0.1, 3 / 13, 0.5]},
    "shampoo": _FACTORS,
    "kl_shampoo": _FACTORS | {"shampoo_beta": [0.9, 0.95, 0.98, 0.99]},
    "kl_soap": _FACTORS | {"shampoo_beta": [0.9, 0.95, 0.98, 0.99]},
}

# The starting points of the other Phase I settings, where they differ from 130M at ratio 1.
_SETTINGS = ("130m,2x", "130m,4x", "130m,8x", "300m,1x", "520m,1x")
_LONG_ADAMW = dict(beta2=0.98, learning_rate=8e-3, epsilon=1e-10, batch_size=256, warmup=1000)
_CAUTIOUS = dict(beta1=0.98, learning_rate=8e-3)
_LION = dict(beta1=0.9, learning_rate=1e-3)
_MUON = dict(
    beta1=0.8, beta2=0.98, decay=0.8, learning_rate=8e-3, muon_epsilon=1e-5, muon_to_adam_lr=0.3
)
_SCION = dict(momentum=0.9, weight_decay=0.1, decay=1, max_grad_norm=2)
_LARGE_SCION = dict(_SCION, beta1=0.98, learning_rate=8e-3, scion_epsilon=1e-5)
_KRON = dict(
    beta1=0.95, preconditioner_lr=0.2, update_prob_flat_start=2000, warmup=1000, weight_decay=0.5
)
_LONG_KRON = dict(_KRON, preconditioner_update_probability=0.1)
_SOAP = dict(beta2=0.98, learning_rate=16e-3, shampoo_beta=0.98, batch_size=256, warmup=1000)
_LARGE_SOAP = dict(beta2=0.99, block_size=512, epsilon=1e-10, warmup=1000)
_SOPHIA = dict(beta2=0.9, epsilon=1e-7, weight_decay=0)

_CHANGES: dict[str, list[dict]] = {  # in the order of _SETTINGS
    "adamw": [*[dict(beta2=0.98, learning_rate=8e-3)] * 2, *[_LONG_ADAMW] * 3],
    "nadamw": [dict(beta2=0.98, epsilon=1e-10, learning_rate=8e-3)] * 5,
    "cautious": [
        dict(epsilon=1e-15, learning_rate=8e-3, max_grad_norm=2),
        *[dict(_CAUTIOUS, epsilon=1e-15, max_grad_norm=2)] * 2,
        *[dict(_CAUTIOUS, epsilon=1e-25)] * 2,
    ],
    "mars": [dict(beta1=0.9, beta2=0.98)] * 5,
    "lion": [*[_LION] * 3, dict(_LION, weight_decay=0.6), _LION],
    "adam_mini": [
        dict(max_grad_norm=2),
        dict(epsilon=1e-25),
        dict(epsilon=1e-10),
        dict(epsilon=1e-10, max_grad_norm=2),
        dict(epsilon=1e-10, learning_rate=4e-3, batch_size=256, warmup=1000, weight_decay=0.2),
    ],
    "muon": [*[_MUON] * 4, dict(_MUON, decay=1, epsilon=1e-25)],
    "scion": [
        dict(momentum=0.9, weight_decay=0.1, decay=0.8),
        *[_SCION] * 2,
        _LARGE_SCION,
        dict(_LARGE_SCION, decay=0.8),
    ],
    "kron": [
        *(_KRON, _LONG_KRON),
        *[dict(_LONG_KRON, learning_rate=1e-3)] * 2,
        dict(_LONG_KRON, learning_rate=1e-3, weight_decay=0.7),
    ],
    "soap": [
        dict(beta2=0.99, learning_rate=16e-3, warmup=1000),
        *[_SOAP] * 2,
        dict(_LARGE_SOAP, shampoo_beta=0.98, batch_size=256),
        dict(_LARGE_SOAP, shampoo_beta=0.9),
    ],
    "sophia": [_SOPHIA, *[dict(weight_decay=0.2)] * 2, *[_SOPHIA] * 2],
}
STARTS: dict[str, dict[str, dict]] = {
    name: dict(zip(_SETTINGS, changes, strict=True)) for name, changes in _CHANGES.items()
}

# Values Phase II does not search, whatever Phase I found.
PHASE_TWO: dict[str, dict] = {"soap": {"precondition_frequency": 10}}

# The best learning rates of nine optimizers at nano-xs and nano-s are 1 to 16 times their published
# ones, 4 in the middle (docs/LOG.md). One factor for all, so that none is tuned by hand.
LEARNING_RATE_FACTOR = 4

# How far a grid may grow at its edges. What is not named here is flagged at an edge instead.
BOUNDS: dict[str, tuple[float, float]] = {
    "learning_rate": (1e-5, 1.0),
    "weight_decay": (0.0, 2.0),
    "gamma": (0.001, 0.5),
}


def of(optimizer: str) -> dict[str, list]:
    """The grids of an optimizer, or none for one that has no published or shipped ones."""
    return (GRIDS | FRONTIER).get(optimizer, {})


def start(optimizer: str) -> dict:
    """The published starting point at 130M, ratio 1: what is searched, and the clip norm."""
    own = {"batch_size": PUBLISHED_BATCH, "warmup": 4000 if optimizer == "sophia" else 2000}
    preset = optim.spec(optimizer, preset="study").values
    return {name: own.get(name, preset.get(name)) for name in (*of(optimizer), "max_grad_norm")}


def published(optimizer: str) -> dict:
    """The study's entry of an optimizer at the published sizes: start, starts, grids, bounds."""
    return {
        "preset": "study",
        "start": start(optimizer),
        "starts": {setting: dict(change) for setting, change in STARTS.get(optimizer, {}).items()},
        "grids": {name: list(values) for name, values in of(optimizer).items()},
        "bounds": {name: list(BOUNDS[name]) for name in of(optimizer) if name in BOUNDS},
        "phase_two": dict(PHASE_TWO.get(optimizer, {})),
    }


def recentred(optimizer: str, size: str, ratio: float, only: Sequence[str] = ()) -> dict:
    """An optimizer's entry carried to the CPU ladder.

    Args:
      size, ratio: of the shortest training of the race.
      only: hyper-parameters to search; the others stay at their start. Empty: all.
    """
    entry = published(optimizer)
    steps, width = ladder.steps(size, ratio), ladder.SIZES[size]["hidden"]

    def carry(name: str, value):
        if name in ("warmup", "update_prob_flat_start"):
            return round(value * steps / PUBLISHED_STEPS)
        if name == "batch_size":
            return value * ladder.BATCH // PUBLISHED_BATCH
        if name == "block_size":
            return max(8, value * width // PUBLISHED_WIDTH)
        return value * LEARNING_RATE_FACTOR if name == "learning_rate" else value

    settled = entry["start"] | entry["starts"].get("130m,2x", {})
    start = {name: carry(name, value) for name, value in settled.items()}
    grids = {
        name: _thin(sorted({carry(name, value) for value in values}), start[name])
        for name, values in entry["grids"].items()
    }
    count = len(grids["learning_rate"])
    middle = start["learning_rate"]
    grids["learning_rate"] = [middle * 2.0 ** (k - count // 2) for k in range(count)]
    grids = {
        name: values
        for name, values in grids.items()
        if len(values) > 1 and (not only or name in only)
    }
    return {
        "preset": "study",
        "start": start,
        "grids": grids,
        "bounds": {name: value for name, value in entry["bounds"].items() if name in grids},
        "phase_two": {n: v for n, v in entry["phase_two"].items() if n in grids},
    }


def _thin(values: list, start) -> list:
    """Grids of more than six values keep every third, counted from the start."""
    if len(values) <= 6 or start not in values:
        return values
    return values[values.index(start) % 3 :: 3]
