"""Batches of eigenbases of symmetric factors: found, followed, applied.

Blocks are (N, rows, columns); factors and bases are {side: (N, side, side)}, side "inputs" for the
rows and "outputs" for the columns. A side that is missing is not rotated.
"""

import jax
import jax.numpy as jnp

SIDES = ("inputs", "outputs")


def rotate(x, bases):
    """P' x Q."""
    if "inputs" in bases:
        x = bases["inputs"].mT @ x
    return x @ bases["outputs"] if "outputs" in bases else x


def rotate_back(x, bases):
    """P x Q'."""
    if "inputs" in bases:
        x = bases["inputs"] @ x
    return x @ bases["outputs"].mT if "outputs" in bases else x


def decompose(factors, last, shift):
    """Eigenvectors of `factors + shift I`, largest eigenvalue first, of each matrix of the batch.

    Where LAPACK fails, as it may on nearly singular matrices in float32, the matrix is tried once
    more with 1e-6 of its mean eigenvalue added; where that fails too, the result is `last`.
    """
    eye = jnp.eye(factors.shape[-1], dtype=factors.dtype)[None]

    def eigh(shifts):
        return jnp.linalg.eigh(factors + shifts * eye)[1][..., ::-1]

    def again(first):
        mean = jnp.trace(factors, axis1=1, axis2=2)[:, None, None] / factors.shape[-1]
        second = eigh(shift + 1e-6 * mean)
        second = jnp.where(is_finite(second), second, last)
        return jnp.where(is_finite(first), first, second)

    bases = eigh(shift)
    return jax.lax.cond(jnp.all(jnp.isfinite(bases)), lambda q: q, again, bases)


def power_step(factors, bases):
    """One step of orthogonal iteration: QR of factors @ bases, largest estimated eigenvalue first.

    Returns the new bases and the order of the old ones' columns that they follow, (N, side). A
    matrix whose new basis is not finite keeps its old one.
    """
    product = factors @ bases
    order = jnp.argsort(-jnp.sum(bases * product, axis=1), axis=1, stable=True)
    new = jnp.linalg.qr(jnp.take_along_axis(product, order[:, None, :], axis=2))[0]
    finite = is_finite(new)
    return jnp.where(finite, new, bases), jnp.where(finite[:, :, 0], order, unchanged(bases))


def power_step_of_some(factors, bases, tick, every: int):
    """`power_step` of every `every`-th matrix, another set of them for each `tick`."""
    size = bases.shape[0]

    def fold(x):
        padded = jnp.pad(x, [(0, -size % every)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(-1, every, *x.shape[1:])

    def pick(x):
        return jax.lax.dynamic_index_in_dim(fold(x), tick % every, axis=1, keepdims=False)

    def put(x, new):
        x = jax.lax.dynamic_update_index_in_dim(fold(x), new, tick % every, axis=1)
        return x.reshape(-1, *x.shape[2:])[:size]

    new, order = power_step(pick(factors), pick(bases))
    return put(bases, new), put(unchanged(bases), order)


def unchanged(bases):
    """The order that changes nothing."""
    return jnp.broadcast_to(jnp.arange(bases.shape[-1])[None], bases.shape[:2])


def sort(v, order):
    """Rotated coordinates v after their bases' columns went into `order`, {side: (N, side)}."""
    for side, o in order.items():
        o = o[:, :, None] if side == "inputs" else o[:, None, :]
        v = jnp.take_along_axis(v, o, axis=1 if side == "inputs" else 2)
    return v


def is_finite(matrices):
    """Of each matrix of a batch, (N, 1, 1)."""
    return jnp.all(jnp.isfinite(matrices), axis=(1, 2), keepdims=True)
