"""Coordinate check: do activations and their updates keep their size when a model grows?

    python -m lm.coordinates --optimizer=muon --rule=mup --widths=16..256 --out=coordinates

trains a few steps on one batch at each width (or with --depths=2..16 at each depth), several seeds,
and measures of every layer the root mean square of what it adds to the residual stream, and of how
far training has moved it. `--rule=none` is the model as it is without any parametrization.
`python -m analysis.coordinates` says what of that grows, and draws it.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from lm import command
from lm.config import ConfigError, finalise
from lm.data import corpus
from lm.data.batches import Batches
from lm.model import llama, loss, parametrization

HEAD_DIM, LENGTH, BATCH = 8, 64, 8
FIXED = {"width": 32, "depth": 2}  # of what does not grow
COLUMNS = ("axis", "layer", "size", "seed", "rms", "change")


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("lm.coordinates", __doc__)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--rule", default="mup", help="of optim.scaling, or none")
    parser.add_argument("--widths", help="as 16..256 (doublings) or 16,24,32")
    parser.add_argument("--depths", help="layers, as 2..16; instead of widths")
    parser.add_argument("--learning_rate", type=float, help="default: the study preset's")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("coordinates"), help="folder")
    arguments = parser.parse_args(argv)
    return command.guarded(lambda: run(arguments), ValueError, interrupted="nothing was written")


def run(arguments: argparse.Namespace) -> int:
    if bool(arguments.widths) and bool(arguments.depths):
        raise ConfigError("--widths and --depths: give one of them")
    axis = "depth" if arguments.depths else "width"
    sizes = doublings(f"--{axis}s", arguments.depths or arguments.widths or "16..128")
    for name in ("steps", "seeds"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name}={getattr(arguments, name)} must be at least 1")
    text = corpus.load({"corpus": "stdlib"}, sequence_length=LENGTH, log=lambda line: None)
    tokens_BT = np.asarray(Batches(text.train, BATCH, 0)(0), np.int32)
    configs = [
        config(
            arguments.optimizer,
            arguments.rule,
            {**FIXED, axis: size},
            {**FIXED, axis: sizes[0]},
            steps=arguments.steps,
            learning_rate=arguments.learning_rate,
        )
        for size in sizes
    ]
    rows = [
        {"axis": axis, "size": size, "seed": seed, **row}
        for size, given in zip(sizes, configs, strict=True)
        for seed, row in measure(given, tokens_BT, range(arguments.seeds), each=axis == "width")
    ]
    path = arguments.out / f"{arguments.optimizer}-{arguments.rule}-{axis}.csv"
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{path}: {axis}s {', '.join(map(str, sizes))} after {arguments.steps} steps;")
    print(f"what grows: python -m analysis.coordinates {path}")
    return 0


def doublings(flag: str, text: str) -> list[int]:
    """The sizes of "16..256" (doublings) or of "16,24,32"."""
    try:
        if ".." in text:
            first, last = map(int, text.split(".."))
            sizes = [first]
            while 0 < sizes[-1] * 2 <= last:
                sizes.append(sizes[-1] * 2)
        else:
            sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 3 or sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise ConfigError(f"{flag}={text} is not three or more growing sizes, as in 16..256")
    if flag == "--widths" and any(size % HEAD_DIM for size in sizes):
        raise ConfigError(f"{flag}={text}: every width must be a multiple of {HEAD_DIM}")
    return sizes


def config(optimizer, rule, size: Mapping, base: Mapping, *, steps, learning_rate=None) -> dict:
    """The finalised run of a width and depth; its parametrization starts from `base`'s.

    Without `learning_rate` it is the study preset's.
    """
    given = {"learning_rate": learning_rate} if learning_rate is not None else {}
    sections = {
        "model": {
            **_sizes(size),
            **{"name": "grown", "vocab_size": 257, "sequence_length": LENGTH},
        },
        "train": {"chinchilla_ratio": 1.0, "batch_size": BATCH, "steps": steps},
        "optimizer": {"name": optimizer, "schedule": "constant", **given},
        "program": {"unroll": True, "attention": "reference"},
    }
    if rule != "none":
        sections["parametrization"] = {"rule": rule, "base": _sizes(base)}
    return finalise(sections)


def _sizes(size: Mapping[str, int]) -> dict[str, int]:
    width = size["width"]
    return {
        "hidden": width,
        "layers": size["depth"],
        "heads": width // HEAD_DIM,
        "mlp": 4 * width,
    }


def measure(
    config: Mapping, tokens_BT: np.ndarray, seeds: Sequence[int], *, each: bool
) -> Iterator[tuple[int, dict]]:
    """(seed, {"layer", "rms", "change"}) of every layer's output after `train.steps` steps.

    Args:
      tokens_BT: int32, the one batch of every step.
      each: tell the layers of the model apart; else their root mean square.
    """
    steps = config["train"]["steps"]
    made, spec = parametrization.apply(config), optim.spec(**config["optimizer"])
    tx = spec.build(roles=llama.role, scaling=made.scaling(steps), steps=steps)

    def objective(params):
        x_BTD, head_DV = made.model.apply({"params": params}, tokens_BT)
        sums = loss.next_token(x_BTD, head_DV, tokens_BT, chunks=1)
        return sums.nats / sums.count

    def step(_, carry):
        params, state = carry
        nats, grads = jax.value_and_grad(objective)(params)
        updates, state = tx.update(grads, state, params, value=nats, grad_fn=jax.grad(objective))
        return optax.apply_updates(params, updates), state

    @jax.jit
    def sizes(seed):
        params = made.init(jax.random.key(seed))
        trained, _ = jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))
        before, after = (activations(made.model, p, tokens_BT) for p in (params, trained))
        moved = {name: after[name] - before[name] for name in after}
        return {name: (_rms(after[name]), _rms(moved[name])) for name in after}

    for seed in seeds:
        for name, (rms, change) in jax.device_get(sizes(seed)).items():
            many = each and rms.size > 1
            groups = [(f" {i + 1}", i) for i in range(rms.size)] if many else [("", slice(None))]
            for suffix, part in groups:
                numbers = {"rms": rms[part], "change": change[part]}
                means = {k: float(np.sqrt(np.mean(v**2))) for k, v in numbers.items()}
                yield seed, {"layer": name + suffix, **means}


def activations(model: llama.Llama, params, tokens_BT) -> dict[str, jax.Array]:
    """What each part adds to the residual stream, (layers or 1, B, T, features), and the logits."""
    given = {"params": params}
    (x_BTD, head_DV), sown = model.apply(given, tokens_BT, mutable=["intermediates"])
    (attention_LBTD,), (mlp_LBTD,) = (
        sown["intermediates"]["blocks"][f"{part}_added"] for part in ("attention", "mlp")
    )
    embedding_BTD = params["embed"]["embedding"][tokens_BT]
    stream_BTD = embedding_BTD + model.blocks.residual * (attention_LBTD + mlp_LBTD).sum(0)
    return {
        "embedding": embedding_BTD[None],
        "attention": attention_LBTD,
        "mlp": mlp_LBTD,
        "stream": stream_BTD[None],
        "logits": (x_BTD @ head_DV)[None],
    }


def _rms(x_LBTD: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x_LBTD), axis=(1, 2, 3)))


if __name__ == "__main__":
    sys.exit(main())
