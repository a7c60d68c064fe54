"""Nearly orthogonal matrices by Newton-Schulz iteration, for stacks of matrices.

A matrix X = U S V^T becomes about U V^T: each step applies the odd polynomial a s + b s^3 + c s^5
to the singular values, with matrix products only.
"""

from collections.abc import Sequence
from itertools import chain, islice, repeat
from typing import Literal

import jax
import jax.numpy as jnp

Polynomial = Literal["quintic", "polar_express"]

# Keller Jordan's: steepest at zero; singular values end between 0.7 and 1.2, not at 1.
QUINTIC = (3.4445, -4.7750, 2.0315)

# The Polar Express, Amsel et al. 2025, arXiv 2505.16932, Algorithm 1: the best polynomial for each
# step, from singular values in [1e-3, 1]; all but the last are shrunk by 1.01 against round-off.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def coefficients(polynomial: Polynomial, steps: int) -> Sequence[tuple[float, float, float]]:
    """(a, b, c) of each of `steps` Newton-Schulz steps."""
    if polynomial == "quintic":
        return [QUINTIC] * steps
    if polynomial != "polar_express":
        raise ValueError(f"polynomial={polynomial!r} is not 'quintic' or 'polar_express'")
    safe = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in POLAR_EXPRESS[:-1]]
    return list(islice(chain(safe, repeat(POLAR_EXPRESS[-1])), steps))


def newton_schulz(
    x: jax.Array,
    epsilon=1e-7,
    *,
    steps: int = 5,
    polynomial: Polynomial = "quintic",
    dtype: str | None = None,
    precision: str | None = None,
) -> jax.Array:
    r"""The polar factor of each matrix of a stack, approximately.

    .. math::
      X_0 = G / (\|G\|_F + \epsilon), \qquad A = X X^T, \qquad X \leftarrow a X + (b A + c A^2) X

    Args:
      x: (..., m, n) matrices; the iteration runs on the m <= n side, tall ones are turned.
      epsilon: added to the Frobenius norm; may be traced. A zero matrix stays zero.
      steps: K, at 4 m^2 n + 2 m^3 FLOPs each (static).
      polynomial: "quintic" (Keller Jordan's coefficients in every step) or "polar_express"
        (static). The first leaves singular values anywhere in [0.7, 1.2], the second brings them to
        1.
      dtype: of the iteration, for example "bfloat16"; None is x's own (static).
      precision: matmul precision, for TPUs and GPUs where float32 products are not by default
        (static).

    Returns:
      (..., m, n) in x's dtype.
    """
    if x.shape[-2] > x.shape[-1]:
        turned = newton_schulz(
            x.mT, epsilon, steps=steps, polynomial=polynomial, dtype=dtype, precision=precision
        )
        return turned.mT
    result_dtype, x = x.dtype, x.astype(dtype or x.dtype)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Squares of 1e30 and 1e-30 leave float32, so the norm is taken of x over its largest entry.
    largest = jnp.max(jnp.abs(wide), axis=(-2, -1), keepdims=True, initial=0.0)
    unit = jnp.where(largest > 0, largest, 1)
    norm = unit * jnp.sqrt(jnp.sum(jnp.square(wide / unit), axis=(-2, -1), keepdims=True))
    x = (wide / jnp.where(norm > 0, norm + epsilon, 1)).astype(x.dtype)

    def step(x, abc):
        a, b, c = abc
        gram = jnp.matmul(x, x.mT, precision=precision)
        return a * x + jnp.matmul(
            b * gram + c * jnp.matmul(gram, gram, precision=precision), x, precision=precision
        )

    for abc in coefficients(polynomial, steps):
        x = step(x, abc)
    return x.astype(result_dtype)


def newton_schulz_flops(shape: tuple[int, int, int], steps: int) -> float:
    """FLOPs of `newton_schulz` on a (stack, m, n) array: three products a step."""
    stack, *sides = shape
    m, n = min(sides), max(sides)
    return stack * steps * (4.0 * m * m * n + 2.0 * m**3)
