"""One training run: `get_config("SIZE,RATIO,OPTIMIZER")`.

    python -m lm.train --config=configs/run.py:nano-s,1x,muon --workdir=runs/one

takes about 10 s on two CPU cores. Any field can be overridden:
 --config.optimizer.learning_rate=0.02
"""

from ml_collections import ConfigDict

from configs import ladder


def get_config(arg: str = "nano-s,1x,adamw") -> ConfigDict:
    """The run of a size, a Chinchilla ratio (`1x` or `0.5`) and an optimizer."""
    parts = arg.split(",")
    if len(parts) != 3:
        raise ValueError(f"{arg!r} is not SIZE,RATIO,OPTIMIZER, as in nano-s,1x,muon")
    size, ratio, optimizer = (part.strip() for part in parts)
    try:
        ratio = float(ratio.removesuffix("x"))
    except ValueError:
        raise ValueError(f"ratio {ratio!r} is not a number, as in 1x or 0.5x") from None
    return ConfigDict(
        {
            "model": ladder.size(size),
            "data": {"corpus": "stdlib"},
            "train": {"chinchilla_ratio": ratio, "batch_size": 8, "steps": 0, "seed": 0},
            "optimizer": {
                "name": optimizer,
                "preset": "study",
                "learning_rate": 0.008,
                "warmup": 100,
            },
            "eval": {"sequences": 256, "points": 4},
            "program": {"unroll": True},
        }
    )
