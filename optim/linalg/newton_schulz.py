"""Nearly orthogonal matrices by Newton-Schulz iteration, for stacks of matrices.

A matrix X = U S V^T becomes about U V^T: each step applies the odd polynomial a s + b s^3 + c s^5
to the singular values, with matrix products only.
"""

from collections.abc import Sequence
from itertools import chain, cycle, islice, repeat
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

Polynomial = Literal[
    "quintic",
    "you",
    "cubic",
    "polar_express",
    "polar_express_dion",
    "polar_express_nanochat",
    "polar_express_gram",
]
Form = Literal["standard", "gram"]
Steps = Sequence[tuple[float, float, float]]


class Table(NamedTuple):
    """The polynomials (a, b, c) of the first steps, those of the further ones, and by what the
    Frobenius norm is multiplied before the matrix is divided by it."""

    first: Steps
    then: Literal["cycle", "last"]
    cushion: float = 1.0


# Amsel et al. 2025, arXiv 2505.16932, Algorithm 1: the best polynomial for each step, from singular
# values in [1e-3, 1].
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
# The same construction for five steps with a safety factor of 2 %, in it already: dion 0a059a4,
# dion/polar_express.py, and nanochat 92d63d4, nanochat/optim.py.
POLAR_EXPRESS_FIVE = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# Found by You; what levanter and Emerging-Optimizers call "quintic".
YOU = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def shrunk(steps: Steps, factor: float) -> Steps:
    """The polynomials of x / factor, so that round-off does not carry singular values out."""
    return tuple((a / factor, b / factor**3, c / factor**5) for a, b, c in steps)


TABLES: dict[str, Table] = {
    # Keller Jordan's: steepest at zero; singular values end between 0.7 and 1.2, not at 1.
    "quintic": Table(((3.4445, -4.7750, 2.0315),), "last"),
    "you": Table(YOU, "cycle"),
    # Twelve steps of it are what modded-nanogpt's track 3 calls Muon; it converges to 1.
    "cubic": Table(((2.0, -1.5, 0.5),), "last"),
    # As printed: all but the last shrunk by 1 %, the norm enlarged by 1 %.
    "polar_express": Table((*shrunk(POLAR_EXPRESS[:-1], 1.01), POLAR_EXPRESS[-1]), "last", 1.01),
    "polar_express_dion": Table(POLAR_EXPRESS_FIVE, "last", 1.02),
    "polar_express_nanochat": Table(POLAR_EXPRESS_FIVE, "last", 1.01),
    # Dao-AILab/gram-newton-schulz f08f25e, coefficients.py: five, all shrunk by 5 %.
    "polar_express_gram": Table(shrunk(POLAR_EXPRESS[:5], 1.05), "last"),
}


def coefficients(polynomial: Polynomial, steps: int) -> Steps:
    """(a, b, c) of each of `steps` Newton-Schulz steps; ValueError for an unknown name."""
    if polynomial not in TABLES:
        known = ", ".join(map(repr, get_args(Polynomial)))
        raise ValueError(f"polynomial={polynomial!r} is not one of {known}")
    table = TABLES[polynomial]
    rest = cycle(table.first) if table.then == "cycle" else repeat(table.first[-1])
    return tuple(islice(chain(table.first, rest), steps))


def newton_schulz(
    x: jax.Array,
    epsilon=1e-7,
    *,
    steps: int = 5,
    polynomial: Polynomial = "quintic",
    form: Form = "standard",
    dtype: str | None = None,
    precision: str | None = None,
) -> jax.Array:
    r"""The polar factor of each matrix of a stack, approximately.

    .. math::
      X_0 = G / (c \|G\|_F + \epsilon), \qquad A = X X^T, \qquad X \leftarrow a X + (b A + c A^2) X

    Args:
      x: (..., m, n) matrices; the iteration runs on the m <= n side, tall ones are turned.
      epsilon: added to the Frobenius norm; may be traced. A zero matrix stays zero.
      steps: K, at 4 m^2 n + 2 m^3 FLOPs each (static).
      polynomial: a name of `TABLES` (static). "quintic" (Keller Jordan's coefficients in every
        step) leaves singular values anywhere in [0.68, 1.13], "polar_express" brings them to 1.
      form: "gram" iterates on X X^T where m < n and multiplies X at the end of each of
        `gram_parts`: the same map, and less work if n is much larger than m (static).
      dtype: of the matrices that are multiplied, for example "bfloat16"; coefficients and sums are
        float32 at least; None is x's own (static).
      precision: matmul precision, for TPUs and GPUs where float32 products are not by default
        (static).

    Returns:
      (..., m, n) in x's dtype.
    """
    if x.shape[-2] > x.shape[-1]:
        options = dict(steps=steps, polynomial=polynomial, form=form)
        options |= dict(dtype=dtype, precision=precision)
        return newton_schulz(x.mT, epsilon, **options).mT
    result_dtype, x = x.dtype, x.astype(dtype or x.dtype)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    norm = TABLES[polynomial].cushion * frobenius(wide) if polynomial in TABLES else 1.0
    x = (wide / jnp.where(norm > 0, norm + epsilon, 1)).astype(x.dtype)
    iterate = _gram if form == "gram" and x.shape[-2] < x.shape[-1] else _standard
    arithmetic = Arithmetic(x.dtype, precision)
    return iterate(x, coefficients(polynomial, steps), arithmetic).astype(result_dtype)


def frobenius(x: jax.Array) -> jax.Array:
    """Frobenius norms (..., 1, 1) of matrices (..., m, n), which neither overflow nor underflow:
    squares of 1e30 and 1e-30 leave float32, so they are taken over the largest entry."""
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0.0)
    unit = jnp.where(largest > 0, largest, 1)
    return unit * jnp.sqrt(jnp.sum(jnp.square(x / unit), axis=(-2, -1), keepdims=True))


class Arithmetic(NamedTuple):
    """Products in one dtype and sums in float32 or wider: a bfloat16 coefficient would keep two
    digits (3.4445 becomes 3.4375)."""

    dtype: jnp.dtype
    precision: str | None

    def product(self, x, y):
        """x @ y of arrays in the narrow dtype, in the wide one."""
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return jnp.matmul(x, y, precision=self.precision, preferred_element_type=wide)

    def narrow(self, x):
        return x.astype(self.dtype)


def _standard(x, steps: Steps, arithmetic: Arithmetic):
    product, narrow = arithmetic.product, arithmetic.narrow
    wide = jnp.promote_types(x.dtype, jnp.float32)
    for a, b, c in steps:
        gram = product(x, x.mT)
        square = product(narrow(gram), narrow(gram))
        x = narrow(a * x.astype(wide) + product(narrow(b * gram + c * square), x))
    return x


def _gram(x, steps: Steps, arithmetic: Arithmetic):
    """Gram Newton-Schulz (Dao-AILab/gram-newton-schulz f08f25e, gram_newton_schulz.py 116-146): Q
    gathers the polynomials of R = X X^T, and X <- Q X at each restart and at the end."""
    product, narrow = arithmetic.product, arithmetic.narrow
    wide = jnp.promote_types(x.dtype, jnp.float32)
    eye = jnp.broadcast_to(jnp.eye(x.shape[-2], dtype=wide), (*x.shape[:-1], x.shape[-2]))
    for part in gram_parts(steps):
        r, q = narrow(product(x, x.mT)), narrow(eye)
        for i, (a, b, c) in enumerate(part):
            z = narrow(b * r.astype(wide) + c * product(r, r))
            q = narrow(a * q.astype(wide) + (product(q, z) if i else z))
            if i + 1 < len(part):
                rz = narrow(a * r.astype(wide) + product(r, z))
                r = narrow(a * rz.astype(wide) + product(z, rz))
        x = narrow(product(q, x))
    return x


def gram_parts(steps: Sequence) -> list[Sequence]:
    """The steps between restarts: two, then five at a time, as the source has it for five steps.
    Without a restart float16 gains spurious negative eigenvalues."""
    starts = [0, *range(2, len(steps), 5)]
    ends = [*starts[1:], len(steps)]
    return [steps[i:j] for i, j in zip(starts, ends, strict=True) if i < j]


def newton_schulz_flops(shape: tuple[int, int, int], steps: int, form: Form = "standard") -> float:
    """FLOPs of `newton_schulz` on a (stack, m, n) array."""
    stack, *sides = shape
    m, n = min(sides), max(sides)
    if form == "standard" or m == n:
        return stack * steps * (4.0 * m * m * n + 2.0 * m**3)
    parts = len(gram_parts(range(steps)))
    # A part has two products with X; its steps have R^2, but for its first Q Z, but for its last
    # R Z and Z (R Z).
    small = steps + 3 * (steps - parts)
    return stack * (parts * 4.0 * m * m * n + small * 2.0 * m**3)
