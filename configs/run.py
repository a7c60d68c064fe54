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

import optim
from configs import grids, ladder, study, winners
from lm.config_file import complete
from optim.catalogue import is_plugin


def get_config(arg: str = "nano-s,1x,adamw") -> ConfigDict:
    """The run of a size, a Chinchilla ratio (`1x` or `0.5`) and an optimizer; complete and locked.

    Raises:
      ValueError: one line; an unknown size or optimizer comes with the nearest.
    """
    parts = arg.split(",")
    if len(parts) != 3:
        raise ValueError(f"{arg!r} is not SIZE,RATIO,OPTIMIZER, as in nano-s,1x,muon")
    size, text, optimizer = (part.strip() for part in parts)
    model = ladder.size(size)
    ratio = ladder.ratio(text)
    make = published if size in ladder.PUBLISHED else cpu
    config = {"model": model, **make(size, ratio, optimizer)}
    config["optimizer"] = {"name": optimizer, "preset": "study", **config["optimizer"]}
    return complete(config)


def cpu(size: str, ratio: float, optimizer: str) -> dict:
    """The CPU ladder: the published starting point, its warm-up carried to this run's length."""
    start = {"batch_size": ladder.BATCH}
    if grids.of(optimizer) or is_plugin(optimizer):
        start = study.entry(optimizer, size, ratio)["start"]
    if is_plugin(optimizer):  # only a race may choose a learning rate
        start["learning_rate"] = optim.spec(optimizer, preset="study").values["learning_rate"]
    batch_size = start.pop("batch_size")
    return {
        "data": {"corpus": "stdlib"},
        "train": {"chinchilla_ratio": ratio, "batch_size": batch_size},
        "optimizer": start,
        "eval": {"sequences": 256, "points": 4},
        "program": {"unroll": True},
    }


def published(size: str, ratio: float, optimizer: str) -> dict:
    """A published size: the recorded winner of the nearest cell."""
    values = winners.winner(optimizer, size, ratio) or {"batch_size": grids.PUBLISHED_BATCH}
    values = {name: value for name, value in values.items() if name not in ("cell", "loss")}
    batch_size = values.pop("batch_size")
    return {
        "data": {"corpus": "set --config.data.corpus"},
        "train": {
            "chinchilla_ratio": ratio,
            "batch_size": batch_size,
            "compute_dtype": "bfloat16",
        },
        "optimizer": values,
        "eval": {"sequences": 1024, "points": 20},
        "program": {"remat": "block"},
        "checkpoint": {"every_minutes": 15.0},
    }
