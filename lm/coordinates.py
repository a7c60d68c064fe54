"""Coordinate check: do activations and their updates keep their size when a model grows?

    python -m lm.coordinates --optimizer=muon --rule=mup --widths=16..256 --out=coordinates

trains a few steps on one batch at each width (or with --depths=2..16 at each depth), several seeds,
and measures of every layer the root mean square of what it adds to the residual stream, and of how
far training has moved it. A slope is d log2(size) / d log2(width) with its 95 % interval. A change
is "flat" where the whole interval lies within 10 % over eightfold width, "drifts" where it lies
outside, "open" otherwise. `--rule=none` is the model as it is without any parametrization.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
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

FLAT = math.log(1.1) / math.log(8)  # largest slope of what is flat
HEAD_DIM, LENGTH, BATCH = 8, 64, 8
FIXED = {"width": 32, "depth": 2}  # of what does not grow
HUES = ("#1c1c1c", "#0b62c4", "#c44a04", "#0b7d58", "#93398a", "#1f7d96", "#8f6a08")
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
    parser.add_argument("--out", type=Path, help="folder for the numbers and the picture")
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
    found = slopes(rows)
    name = f"{arguments.optimizer}-{arguments.rule}-{axis}"
    print(f"{name}, {axis}s {', '.join(map(str, sizes))}, after {arguments.steps} steps")
    print(table(found))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        with open(arguments.out / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        (arguments.out / f"{name}.svg").write_text(picture(rows, found, name))
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


def slopes(rows: Sequence[Mapping]) -> list[dict]:
    """Of every layer: slopes of its size and of its change with half widths, and a verdict."""
    found = []
    for layer in dict.fromkeys(row["layer"] for row in rows):
        mine = [row for row in rows if row["layer"] == layer]
        size = np.log2([row["size"] for row in mine])
        line = {"layer": layer}
        for name in ("rms", "change"):
            line[name], line[f"{name}_half"] = slope(size, np.log2([row[name] for row in mine]))
        low, high = (line["change"] + sign * line["change_half"] for sign in (-1, 1))
        flat, outside = low >= -FLAT and high <= FLAT, low > FLAT or high < -FLAT
        found.append(line | {"verdict": "flat" if flat else "drifts" if outside else "open"})
    return found


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares: the slope and half its 95 % interval."""
    from scipy import stats

    fit = stats.linregress(x, y)
    return float(fit.slope), float(fit.stderr * stats.t.ppf(0.975, len(x) - 2))


def table(found: Sequence[Mapping]) -> str:
    lines = [f"{'layer':14} {'size':>15} {'change':>15}  verdict on the change"]
    for line in found:
        numbers = (f"{line[n]:+.3f} ± {line[f'{n}_half']:.3f}" for n in ("rms", "change"))
        lines.append(f"{line['layer']:14} {' '.join(numbers)}  {line['verdict']}")
    return "\n".join(lines)


def picture(rows: Sequence[Mapping], found: Sequence[Mapping], title: str) -> str:
    """An SVG: sizes and changes against width or depth, a line a layer, both axes logarithmic."""
    parts, sizes = [], sorted({row["size"] for row in rows})
    for panel, name in enumerate(("rms", "change")):
        means = {
            (line["layer"], size): np.mean(
                [
                    math.log10(r[name])
                    for r in rows
                    if (r["layer"], r["size"]) == (line["layer"], size)
                ]
            )
            for line in found
            for size in sizes
        }
        low, high = math.floor(min(means.values())), math.ceil(max(means.values()))
        x = [50 + 470 * panel + 260 * i / (len(sizes) - 1) for i in range(len(sizes))]

        def y(value, low=low, high=high):
            return 250 - 220 * (value - low) / max(high - low, 1)

        words = f"{title}: {'size' if name == 'rms' else 'change'}"
        parts.append(f'<text x="{x[0]}" y="16">{words}</text>')
        for at, size in zip(x, sizes, strict=True):
            parts.append(f'<text x="{at:.0f}" y="268" text-anchor="middle">{size}</text>')
        for power in range(low, high + 1):
            at = f'y1="{y(power):.0f}" y2="{y(power):.0f}"'
            parts.append(f'<line x1="{x[0]}" x2="{x[-1]}" {at} stroke="#ddd"/>')
            label = f'x="{x[0] - 6}" y="{y(power) + 4:.0f}" text-anchor="end"'
            parts.append(f"<text {label}>1e{power}</text>")
        for row, (line, hue) in enumerate(zip(found, itertools.cycle(HUES), strict=False)):
            heights = [y(means[line["layer"], size]) for size in sizes]
            points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(x, heights, strict=True))
            parts.append(f'<polyline points="{points}" fill="none" stroke="{hue}"/>')
            place = f'x="{x[-1] + 8:.0f}" y="{36 + 16 * row}" fill="{hue}"'
            parts.append(f"<text {place}>{line['layer']} {line[name]:+.2f}</text>")
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="930" height="276" font-size="11"'
    ground = '<rect width="930" height="276" fill="white"/>'
    return f'{head} font-family="sans-serif">{ground}{"".join(parts)}</svg>\n'


if __name__ == "__main__":
    sys.exit(main())
