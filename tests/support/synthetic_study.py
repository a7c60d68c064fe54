"""A results folder with a known truth, written as docs/design.md says, for the tests of `analysis`.

Loss law: E + A N^-a + B (rho D)^-b with one rho per optimizer, a parabola in log2 of each
hyper-parameter around its optimum, Gaussian noise of every run, and what a seed does to a race: the
same to every optimizer. A learning rate 8 times the optimum or more diverges.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np

RHO = {"adamw": 1.0, "nadamw": 1.1, "lion": 0.95, "muon": 1.4}
SIZES = {"tiny": 100_000, "small": 400_000}
GRIDS = {
    "learning_rate": [0.002, 0.004, 0.008, 0.016, 0.032, 0.064],
    "weight_decay": [0.0, 0.1, 0.2],
    "beta2": [0.9, 0.95, 0.98],
}
CENTRE = {"learning_rate": 0.008, "weight_decay": 0.1, "beta2": 0.98, "warmup": 10}


def law(size: str, ratio: float, rho: float) -> float:
    params = SIZES[size]
    tokens = 20 * params * ratio
    return 1.2 + 12.0 * params**-0.25 + 60.0 * (rho * tokens) ** -0.35


def write(
    workdir,
    *,
    optimizers=tuple(RHO),
    sizes=tuple(SIZES),
    ratios=(1, 2, 4),
    noise=0.001,
    seed_noise=0.0,
    seeds=3,
    points=12,
    clock=1.0,
) -> Path:
    """Write a finished study. `clock` scales every time: results must not depend on it."""
    workdir = Path(workdir)
    rng = np.random.default_rng(0)
    common = np.random.default_rng(1)
    shifts = {
        (size, ratio): seed_noise * common.standard_normal(seeds)
        for size in sizes
        for ratio in ratios
    }
    for optimizer in optimizers:
        for size in sizes:
            for ratio in ratios:
                shift = shifts[size, ratio]
                _write_cell(workdir, optimizer, size, ratio, noise, shift, points, clock, rng)
    study = {
        "name": "synthetic",
        "sizes": {size: {"non_embedding_params": SIZES[size]} for size in sizes},
        "ratios": list(ratios),
        "optimizers": {name: {"start": CENTRE, "grids": GRIDS} for name in optimizers},
        "rule": {"mode": "published", "threshold": 3e-3},
        "seeds": list(range(seeds)),
    }
    (workdir / "study.json").write_text(json.dumps(study))
    return workdir


def _write_cell(workdir, optimizer, size, ratio, noise, shift, points, clock, rng):
    settings = [dict(CENTRE)]
    for name, grid in GRIDS.items():
        settings += [{**CENTRE, name: value} for value in grid if value != CENTRE[name]]
    trials = [
        write_trial(workdir, optimizer, size, ratio, hparams, 0, noise, shift, points, clock, rng)
        for hparams in settings
    ]
    finished = [at for at, trial in enumerate(trials) if trial["loss"] is not None]
    winner = min(finished, key=lambda at: trials[at]["loss"])
    chosen, best = settings[winner], trials[winner]
    repeats = [
        write_trial(workdir, optimizer, size, ratio, chosen, seed, noise, shift, points, clock, rng)
        for seed in range(1, len(shift))
    ]
    certificate = {
        "optimizer": optimizer,
        "model_size": size,
        "chinchilla_ratio": ratio,
        "phase": 1,
        "rule": "published",
        "threshold": 3e-3,
        "noise": None,
        "centre": CENTRE,
        "centre_hash": trials[0]["hash"],
        "centre_loss": trials[0]["loss"],
        "best_hash": best["hash"],
        "best_loss": best["loss"],
        "neighbours": [],
        "missing": [],
        "edges": [],
        "ties": [{"beta2": 0.95}],
        "overturn": {"changes": {"weight_decay": 0.2}, "fall": 0.0071},
        "start_regret": 0.0,
        "moves": 1,
        "sensitive": ["learning_rate"],
        "laws": {"learning_rate": {"a": -4.5, "b": -0.3, "c": -0.1, "n0": 2e5, "constant": None}},
        "repeats": [{"hash": trial["hash"], "loss": trial["loss"]} for trial in repeats],
        "complete": True,
    }
    path = workdir / "certificates" / f"{optimizer}-{size}-{ratio}x.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(certificate))


def write_trial(
    workdir, optimizer, size, ratio, hparams, seed, noise, shift, points, clock, rng
) -> dict:
    """Write one trial folder and return its result."""
    params, batch, length = SIZES[size], 16, 128
    steps = int(20 * params * ratio / (batch * length))
    config = {
        "model": {"name": size, "hidden": 32, "layers": 2, "sequence_length": length},
        "data": {"corpus": "synthetic", "fingerprint": "0" * 16},
        "train": {
            "chinchilla_ratio": ratio,
            "batch_size": batch,
            "steps": steps,
            "seed": seed,
            "compute_dtype": "float32",
        },
        "optimizer": {"name": optimizer, "preset": "study", **hparams},
        "eval": {"sequences": 8, "points": points},
    }
    text = json.dumps(config, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    distance = math.log2(hparams["learning_rate"] / CENTRE["learning_rate"])
    penalty = 0.02 * distance**2 + (hparams["weight_decay"] - 0.1) ** 2
    penalty += 0.3 * (hparams["beta2"] - 0.98) ** 2
    diverged = distance >= 3
    loss = law(size, ratio, RHO.get(optimizer, 1.2)) + penalty + noise * rng.standard_normal()
    loss += shift[seed]
    done = steps // 2 if diverged else steps
    result = {
        "hash": name,
        "status": "diverged" if diverged else "finished",
        "reason": "loss is not finite" if diverged else None,
        "diverged_step": done if diverged else None,
        "loss": None if diverged else loss,
        "bits_per_byte": None if diverged else loss / math.log(2),
        "train_loss": None if diverged else loss - 0.02,
        "steps": done,
        "tokens": done * batch * length,
        "non_embedding_params": params,
        "total_params": 2 * params,
        "optimizer_bytes": params * (8 if optimizer != "lion" else 4),
        "flops": 6 * params * done * batch * length,
        "seconds": clock * done * 0.01 * (1.3 if optimizer == "muon" else 1.0),
        "compile_seconds": clock * 3.0,
        "device": "cpu",
        "device_count": 1,
        "versions": {"python": "3.11"},
        "commit": "0" * 40,
        "dirty": False,
        "finished_at": f"2026-01-01T00:00:{int(clock):02d}Z",
    }
    folder = workdir / "trials" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(text)
    (folder / "curve.jsonl").write_text("\n".join(_curve(config, result, loss, points)) + "\n")
    (folder / "result.json").write_text(json.dumps(result))
    return result


def _curve(config, result, loss, points):
    """Muon stays behind for most of the run and overtakes at the end, as in the study."""
    steps, lr = config["train"]["steps"], config["optimizer"]["learning_rate"]
    late = 0.25 if config["optimizer"]["name"] == "muon" else 0.1
    for point in range(points + 1):
        step = round(steps * point / points)
        if step > result["steps"]:
            break
        left = 1 - step / steps
        value = loss + late * left + 4.0 * math.exp(-12 * step / steps)
        tokens = step * config["train"]["batch_size"] * 128
        yield json.dumps(
            {
                "step": step,
                "tokens": tokens,
                "train_loss": value - 0.02,
                "learning_rate": lr * left,
                **{f"grad_norm{r}": 1.0 / (0.2 + left) * (1 + lr) for r in ("", "_matrix")},
                **{f"param_norm{r}": 10 + 100 * lr * (1 - left) for r in ("", "_matrix")},
            }
        )
        yield json.dumps({"step": step, "tokens": tokens, "validation_loss": value})
