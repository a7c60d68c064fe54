"""SOAP's eigenbases of symmetric factors, in batches: found, followed, applied.

Blocks are (N, rows, columns); factors and bases are {side: (N, side, side)}, side "inputs" for the
rows and "outputs" for the columns. A side that is missing is not rotated. A matrix whose new basis
would not be finite keeps its old one; `kept` (N,) says which did.
"""

import jax
import jax.numpy as jnp

from optim.linalg import lapack


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
    """Eigenvectors of `factors + shift I`, by falling eigenvalue, and which are kept from `last`.

    Where LAPACK fails, as it may on nearly singular matrices in float32, all are tried once more
    with 1e-6 of their mean eigenvalue added. Null spaces: see `definite_eigenvectors`.
    """
    size = factors.shape[-1]
    mean = jnp.trace(factors, axis1=1, axis2=2)[:, None, None] / size
    eye = jnp.eye(size, dtype=factors.dtype)[None]

    def unfinished(carry):
        tries, bases = carry
        return (tries < 2) & ~jnp.all(jnp.isfinite(bases))

    def attempt(carry):
        tries, bases = carry
        shifts = shift + jnp.where(tries == 0, 0, 1e-6 * mean)
        found = definite_eigenvectors(factors + shifts * eye)
        return tries + 1, jnp.where(is_finite(bases), bases, found)

    nothing = jnp.full_like(factors, jnp.nan)
    _, bases = jax.lax.while_loop(unfinished, attempt, (0, nothing))
    finite = is_finite(bases)
    return jnp.where(finite, bases, last), ~finite[:, 0, 0]


def definite_eigenvectors(matrices):
    """Eigenvectors (N, d, d), by falling eigenvalue; those of the null space diagonalise
    diag(1..d).

    LAPACK takes the eigenvectors of a null space from rounding errors. These are the same under
    `vmap`, on any mesh and with any LAPACK. Eigenvalues count as zero below rounding errors of the
    largest. `tests/optim/linalg/test_eigenbasis.py` says the same in six lines of NumPy; here both
    decompositions, of the matrices and inside their null spaces, are one call in a loop, because
    above d = 256 the TPU's compiler needs minutes for each that is written out.
    """
    size = matrices.shape[-1]
    ramp = jnp.arange(1, size + 1, dtype=matrices.dtype)

    def first(null, _, found):
        """The found ones, and what to decompose next: the ramp as the null space sees it, with the
        rest above it and in order."""
        inside = found.mT @ (ramp[None, :, None] * found)
        inside = jnp.where(null[:, :, None] & null[:, None, :], inside, 0)
        outside = jnp.where(null, 0, 3 * size - ramp[None])
        return found, inside + outside[:, :, None] * jnp.eye(size, dtype=ramp.dtype)[None]

    def second(null, vectors, found):
        return jnp.where(null[:, None, :], vectors @ found, vectors), matrices

    def body(i, carry):
        null, vectors, matrix = carry
        values, found = lapack.eigh(matrix)
        null = jnp.where(i == 0, is_null(values[:, ::-1]), null)
        return null, *jax.lax.cond(i == 0, first, second, null, vectors, found[:, :, ::-1])

    start = (jnp.zeros(matrices.shape[:2], bool), jnp.zeros_like(matrices), matrices)
    return jax.lax.fori_loop(0, 2, body, start)[1]


def is_null(values):
    """Which eigenvalues are no more than rounding errors of the largest of their matrix, (N, d)."""
    least = values.shape[-1] * jnp.finfo(values.dtype).eps
    return values <= least * jnp.max(values, axis=1, keepdims=True)


def power_step(factors, bases):
    """One step of orthogonal iteration, QR of factors @ bases: (bases, order, kept).

    New columns are sorted by falling estimated eigenvalue; `order` (N, side) says which old column
    each follows. Columns in the null space of their factor stay, but for what makes them orthogonal
    to the others.
    """
    product = factors @ bases
    values = jnp.sum(bases * product, axis=1)
    product = jnp.where(
        is_null(values)[:, None], bases * jnp.finfo(bases.dtype).tiny ** 0.5, product
    )
    order = jnp.argsort(-values, axis=1, stable=True)
    new = lapack.qr(jnp.take_along_axis(product, order[:, None, :], axis=2))
    finite, same = is_finite(new), unchanged(bases)
    return jnp.where(finite, new, bases), jnp.where(finite[:, :, 0], order, same), ~finite[:, 0, 0]


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

    olds = (bases, unchanged(bases), jnp.zeros(size, bool))
    return tuple(map(put, olds, power_step(pick(factors), pick(bases))))


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
