"""Batches of Kronecker factors Q, triangular or diagonal, fitted so that Q G Q' is white.

Blocks are (N, rows, columns). Factors are {side: Q}, side "inputs" for the rows and "outputs" for
the columns, Q upper triangular (N, side, side) or a diagonal (N, side). A vector, (N, 1, columns),
has outputs only.
"""

import jax
import jax.numpy as jnp

from optim.linalg import lapack

SIDES = ("inputs", "outputs")


def is_diagonal(q) -> bool:
    return q.ndim == 2


def apply(x, factors):
    """Q_i x Q_o'."""
    for side, q in factors.items():
        x = on_rows(side, lambda x, q=q: q[:, :, None] * x if is_diagonal(q) else q @ x, x)
    return x


def apply_transposed(x, factors):
    """Q_i' x Q_o."""
    for side, q in factors.items():
        x = on_rows(side, lambda x, q=q: q[:, :, None] * x if is_diagonal(q) else q.mT @ x, x)
    return x


def solve_transposed(x, factors):
    """Q_i^-T x Q_o^-1."""
    for side, q in factors.items():

        def solve(x, q=q):
            if is_diagonal(q):
                return x / q[:, :, None]
            return lapack.solve_transposed(q, x)

        x = on_rows(side, solve, x)
    return x


def on_rows(side, fn, x):
    """`fn`, which acts on rows, on the rows or the columns of x."""
    return fn(x) if side == "inputs" else fn(x.mT).mT


def whiten(g, factors):
    """Q_i'Q_i g Q_o'Q_o."""
    return apply_transposed(apply(g, factors), factors)


def fit(g, v, factors, learning_rate):
    """One step of the factors on the pair (g, v), each normalised by itself."""
    a, b = apply(g, factors), solve_transposed(v, factors)

    def step(side, q):
        x, y = (a, b) if side == "inputs" else (a.mT, b.mT)
        if is_diagonal(q):
            x, y = jnp.sum(x * x, axis=2), jnp.sum(y * y, axis=2)
            size = jnp.max(jnp.abs(x + y), axis=1, keepdims=True)
            new = q - learning_rate / (size + tiny(q)) * (x - y) * q
            finite = jnp.all(jnp.isfinite(new), axis=1, keepdims=True)
        else:
            x, y = x @ x.mT, y @ y.mT
            size = jax.vmap(norm_lower_bound)(x + y)[:, None, None]
            new = q - learning_rate / (size + tiny(q)) * jnp.triu(x - y) @ q
            finite = jnp.all(jnp.isfinite(new), axis=(1, 2), keepdims=True)
        return jnp.where(finite, new, q).astype(q.dtype)

    return {side: step(side, q) for side, q in factors.items()}


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
