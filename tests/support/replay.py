"""Trajectories against float64 NumPy transcriptions: the tree, the gradients, and the comparison.

Transcriptions of the authors' PyTorch code see what it sees: a flat dict of tensors, one per layer,
weights as (out, in). Those of the study's code see its stacked leaves, also (..., out, in).
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

LAYERS, HEADS, HEAD_DIM, D, F, V = 2, 2, 3, 6, 12, 14
SHAPES = {
    "embed/embedding": (V, D),
    "blocks/attention/query/kernel": (LAYERS, D, HEADS, HEAD_DIM),
    "blocks/attention/value/kernel": (LAYERS, D, HEADS, HEAD_DIM),
    "blocks/attention/out/kernel": (LAYERS, HEADS, HEAD_DIM, D),
    "blocks/mlp/up/kernel": (LAYERS, D, F),
    "blocks/norm/scale": (LAYERS, D),
    "final_norm/scale": (D,),
    "head/kernel": (D, V),
}


def kind(name: str) -> str:
    """matrix, embedding, head or gain, of any name below."""
    if "norm" in name:
        return "gain"
    return name.split("/")[0].replace("embed", "embedding") if name[0] in "eh" else "matrix"


def decayed_in_study(name: str) -> bool:
    return kind(name) in ("matrix", "head")


def _float32(x):
    """Rounded, so that both dtypes start from the same numbers."""
    return x.astype(np.float32).astype(np.float64)


def random_tree(seed: int, scale=1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: _float32(scale * rng.standard_normal(shape)) for name, shape in SHAPES.items()}


def gradients(steps: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Noise around a slowly turning mean, with rows and columns of different sizes."""
    mean, turn, scale = random_tree(seed), random_tree(seed + 1), random_tree(seed + 2)
    rows = []
    for t in range(steps):
        noise = random_tree(seed + 3 + t)
        rows.append(
            {
                k: _float32(np.exp(0.5 * scale[k]) * (mean[k] + t / steps * turn[k] + noise[k]))
                for k in SHAPES
            }
        )
    return rows


def to_study(tree) -> dict[str, np.ndarray]:
    """Weights as levanter has them: (layers, out axes, in axes); embeddings as they are."""
    order = {
        "query": (0, 2, 3, 1),
        "value": (0, 2, 3, 1),
        "out": (0, 3, 1, 2),
        "up": (0, 2, 1),
        "head": (1, 0),
    }
    return _map(tree, lambda name, x: x.transpose(order[name]) if name in order else x)


def from_study(tree) -> dict[str, np.ndarray]:
    order = {
        "query": (0, 3, 1, 2),
        "value": (0, 3, 1, 2),
        "out": (0, 2, 3, 1),
        "up": (0, 2, 1),
        "head": (1, 0),
    }
    return _map(tree, lambda name, x: x.transpose(order[name]) if name in order else x)


def to_torch(tree) -> dict[str, np.ndarray]:
    """One tensor a layer, (out, in)."""
    flat = {}
    for name, x in to_study(tree).items():
        if not name.startswith("blocks"):
            flat[name] = x
            continue
        for layer in range(LAYERS):
            y = x[layer]
            if "out" in name:
                y = y.reshape(D, HEADS * HEAD_DIM)
            elif y.ndim == 3:
                y = y.reshape(HEADS * HEAD_DIM, D)
            flat[f"{name}/{layer}"] = y
    return flat


def from_torch(flat) -> dict[str, np.ndarray]:
    template = to_study({name: np.zeros(shape) for name, shape in SHAPES.items()})
    stacked = {}
    for name, x in template.items():
        if name.startswith("blocks"):
            layers = [flat[f"{name}/{layer}"] for layer in range(LAYERS)]
            stacked[name] = np.stack(layers).reshape(x.shape)
        else:
            stacked[name] = flat[name]
    return from_study(stacked)


def run(tx, grads, params, dtype, probes=None, grad_fn=None, between=None):
    """Parameters after each step of a jitted optimizer, as float64.

    `probes` is one tree a step; `between(t, state)` replaces the state after step t.
    """

    def cast(tree):
        return {k: jnp.asarray(x, dtype) for k, x in tree.items()}

    with precision(dtype):
        w = cast(params)
        state = tx.init(w)

        @jax.jit
        def step(w, state, g, z):
            extra = {"grad_fn": grad_fn} | ({"probes": z} if probes else {})
            updates, state = tx.update(g, state, w, **extra)
            return optax.apply_updates(w, updates), state

        rows = []
        for t, g in enumerate(grads):
            w, state = step(w, state, cast(g), cast(probes[t]) if probes else None)
            state = between(t + 1, state) if between else state
            rows.append({k: np.asarray(x, np.float64) for k, x in w.items()})
    return rows


def precision(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def check(ours, reference, params, dtype):
    """Every leaf at every step: error over the distance moved so far.

    Beside it each step may round the parameters themselves once, whoever compiled the sum.
    """
    for t, (a, b) in enumerate(zip(ours, reference, strict=True)):
        for name in SHAPES:
            moved = np.linalg.norm(b[name] - params[name])
            rounding = (t + 1) * np.finfo(dtype).eps * np.linalg.norm(b[name])
            error = np.linalg.norm(a[name] - b[name])
            bound = TOLERANCE[dtype] * moved + rounding
            assert error <= bound, f"step {t + 1} {name}: error {error:.2e} after {moved:.2e}"


def _map(tree, fn):
    return {path: fn(_part(path), x) for path, x in tree.items()}


def _part(path: str) -> str:
    return next((p for p in ("query", "value", "out", "up", "head") if p in path.split("/")), "")
