"""Kron's factors Q, in batches: applied, fitted so that Q G Q' is white, and when to fit them.

Blocks are (N, rows, columns). Factors are {side: Q}, side "inputs" for the rows and "outputs" for
the columns, Q upper triangular (N, side, side) or a diagonal (N, side). A vector, (N, 1, columns),
has outputs only.
"""

import jax
import jax.numpy as jnp

from optim.linalg import lapack

PROBABILITY_DECAY = 0.001  # of the update probability, per call


def is_diagonal(q) -> bool:
    return q.ndim == 2


def apply(x, factors):
    """Q_i x Q_o'."""
    return _on_sides(x, factors, lambda q, x: q @ x, lambda q, x: q * x)


def apply_transposed(x, factors):
    """Q_i' x Q_o."""
    return _on_sides(x, factors, lambda q, x: q.mT @ x, lambda q, x: q * x)


def solve_transposed(x, factors):
    """Q_i^-T x Q_o^-1."""
    return _on_sides(x, factors, lapack.solve_transposed, lambda q, x: x / q)


def _on_sides(x, factors, full, diagonal):
    """`full(q, x)`, or `diagonal(q, x)` of a column q, on the rows of x and on its columns."""
    for side, q in factors.items():
        x = x if side == "inputs" else x.mT
        x = diagonal(q[:, :, None], x) if is_diagonal(q) else full(q, x)
        x = x if side == "inputs" else x.mT
    return x


def whiten(g, factors):
    """Q_i'Q_i g Q_o'Q_o."""
    return apply_transposed(apply(g, factors), factors)


def fit(g, v, factors, learning_rate):
    """One step of the factors on the pair (g, v), each normalised by itself: (factors, kept).

    A factor that would not be finite stays; `kept` (N,) counts those of each block.
    """
    a, b = apply(g, factors), solve_transposed(v, factors)

    def step(side, q):
        x, y = (a, b) if side == "inputs" else (a.mT, b.mT)
        if is_diagonal(q):
            x, y = jnp.sum(x * x, axis=2), jnp.sum(y * y, axis=2)
            size = jnp.max(jnp.abs(x + y), axis=1, keepdims=True)
            new = q - learning_rate / (size + tiny(q)) * (x - y) * q
        else:
            x, y = x @ x.mT, y @ y.mT
            size = jax.vmap(norm_lower_bound)(x + y)[:, None, None]
            new = q - learning_rate / (size + tiny(q)) * jnp.triu(x - y) @ q
        finite = jnp.all(jnp.isfinite(new), axis=tuple(range(1, q.ndim)), keepdims=True)
        return jnp.where(finite, new, q).astype(q.dtype), ~finite.reshape(-1)

    steps = {side: step(side, q) for side, q in factors.items()}
    kept = sum(refused.astype(jnp.int32) for _, refused in steps.values())
    return {side: new for side, (new, _) in steps.items()}, kept


def balance(factors):
    """Factors with equal largest entries; their Kronecker product is the same."""
    if len(factors) == 1:
        return factors
    sizes = [jnp.max(jnp.abs(q), axis=tuple(range(1, q.ndim))) for q in factors.values()]
    mean = jnp.exp(sum(map(jnp.log, sizes)) / len(sizes))
    scales = [(mean / size)[:, None] for size in sizes]
    return {
        side: q * (scale if is_diagonal(q) else scale[:, None])
        for (side, q), scale in zip(factors.items(), scales, strict=True)
    }


def norm_lower_bound(a):
    """A lower bound of the spectral norm of a symmetric matrix, in practice over norm / sqrt(2).

    One power iteration from the longest column (Li's psgd_torch).
    """
    largest = jnp.max(jnp.abs(a))
    scaled = a / largest
    x = jnp.take(scaled, jnp.argmax(jnp.sum(scaled * scaled, axis=0)), axis=1) @ scaled
    bound = largest * jnp.linalg.norm((x / jnp.linalg.norm(x)) @ scaled.T)
    return jnp.where(largest > 0, bound, largest)


def tiny(x):
    return jnp.finfo(x.dtype).tiny


def update_probability(n, least, flat_start):
    """p_n of `optim.rules.shampoos.kron.scale_by_kron`."""
    return jnp.clip(jnp.exp(-PROBABILITY_DECAY * (n - flat_start)), least, 1.0)


def due_parts(n, parts: int, least, flat_start):
    """Which parts are fitted in call n, (parts,) bool: evenly apart, each p_n of the time."""

    def fits_until(n):  # the integral of p
        fall = jnp.log(1 / least) / PROBABILITY_DECAY
        falling = jnp.clip(n - flat_start, 0, fall)
        flat = jnp.minimum(n, flat_start) + least * jnp.maximum(n - flat_start - fall, 0)
        return flat + (1 - jnp.exp(-PROBABILITY_DECAY * falling)) / PROBABILITY_DECAY

    offsets = jnp.arange(parts) / parts
    return jnp.floor(fits_until(n) + offsets) > jnp.floor(fits_until(n - 1) + offsets)


def in_parts(fn, otherwise, batch, due):
    """`fn(batch)` for the parts that are due, `otherwise(batch)` for the others, one by one.

    Entry i of the leading axis is in part i modulo len(due).
    """
    parts = due.shape[0]
    if parts == 1:
        return fn(batch)
    size = jax.tree.leaves(batch)[0].shape[0]

    def fold(x):
        x = jnp.pad(x, [(0, -size % parts)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    def unfold(x):
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:size]

    one = lambda row: jax.lax.cond(row[0], fn, otherwise, row[1])  # noqa: E731
    return jax.tree.map(unfold, jax.lax.map(one, (due, jax.tree.map(fold, batch))))
