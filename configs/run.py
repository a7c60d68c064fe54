"""One training run: `get_config("SIZE,RATIO,OPTIMIZER")`.

    python -m lm.train --config=configs/run.py:nano-s,1x,muon --workdir=runs/one

About 10 s on two CPU cores, validation loss about 2.0 nats per byte. Any field can be overridden:
`--config.optimizer.learning_rate=0.02`. A published size starts from the study's winner of that
cell (configs/winners.py, with the loss to expect):

    python -m lm.train --config=configs/run.py:520m,2x,soap --workdir=gs://bucket/runs \\
        --config.data.corpus=/data/dclm

on every host of a TPU pod slice; the study trained on v5e-128. `--dry_run` says what would train.
"""

from ml_collections import ConfigDict

from configs import grids, ladder, winners

BATCH = 8  # sequences of 128 bytes: the CPU ladder's batch


def get_config(arg: str = "nano-s,1x,adamw") -> ConfigDict:
    """The run of a size, a Chinchilla ratio (`1x` or `0.5`) and an optimizer."""
    parts = arg.split(",")
    if len(parts) != 3:
        raise ValueError(f"{arg!r} is not SIZE,RATIO,OPTIMIZER, as in nano-s,1x,muon")
    size, text, optimizer = (part.strip() for part in parts)
    model = ladder.size(size)
    try:
        ratio = float(text.removesuffix("x"))
    except ValueError:
        ratio = 0.0
    if not 0 < ratio < 1e6:
        raise ValueError(f"ratio {text!r} is not a positive number, as in 1x or 0.5x")
    make = published if size in winners.PARAMS else cpu
    sections = make(size, ratio, optimizer if optimizer in grids.START else None)
    return ConfigDict(
        {
            "model": model,
            **sections,
            # An unknown name is refused, with the nearest, where optimizers are known.
            "optimizer": {"name": optimizer, "preset": "study", **sections["optimizer"]},
            "mesh": {"data": -1, "model": 1},
            "log": {"every_steps": 0, "tensorboard": False, "wandb": "", "profile": ""},
        }
    )


def cpu(size: str, ratio: float, optimizer: str | None) -> dict:
    """The CPU ladder: the published starting point, its warm-up carried to this run's length."""
    tokens = 20 * ratio * ladder.params(size)
    steps = int(tokens // (BATCH * ladder.SIZES[size]["sequence_length"]))
    start = {}
    if optimizer:
        width = ladder.SIZES[size]["hidden"]
        start = grids.recentred(optimizer, steps=steps, batch_size=BATCH, width=width)["start"]
    batch_size = start.pop("batch_size", BATCH)
    return {
        "data": {"corpus": "stdlib"},
        "train": _train(ratio, batch_size, "float32"),
        "optimizer": start,
        "eval": {"sequences": 256, "points": 4},
        "program": _program(unroll=True),
        "checkpoint": _checkpoint(minutes=0.0),
    }


def published(size: str, ratio: float, optimizer: str | None) -> dict:
    """A published size: the recorded winner of the nearest cell."""
    values = winners.winner(optimizer, size, ratio)[1] if optimizer else {"batch_size": 128}
    values.pop("loss", None)
    return {
        "data": {"corpus": "set --config.data.corpus"},
        "train": _train(ratio, values.pop("batch_size"), "bfloat16"),
        "optimizer": values,
        "eval": {"sequences": 1024, "points": 20},
        "program": _program(remat="block", loss_chunks=16),
        "checkpoint": _checkpoint(minutes=15.0),
    }


def _train(ratio: float, batch_size: int, compute_dtype: str) -> dict:
    run = {"chinchilla_ratio": ratio, "batch_size": batch_size, "steps": 0, "seed": 0}
    return {**run, "compute_dtype": compute_dtype, "z_loss": 0.0}


def _program(**changes) -> dict:
    program = {"remat": "none", "unroll": False, "attention": "auto", "loss_chunks": 1}
    return {**program, "accumulate": 1, "steps_per_call": 0, **changes}


def _checkpoint(minutes: float) -> dict:
    saving = {"every_steps": 0, "every_minutes": minutes, "keep": 2}
    return {**saving, "delete_when_finished": True, "grace_seconds": 25.0}
