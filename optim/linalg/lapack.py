"""LAPACK calls on CPU that do not hang.

jaxlib before 0.11 splits a batch of matrices over XLA's own thread pool and blocks a thread of that
pool until the parts are done. As many such calls at once as the pool has threads, and each waits
for parts that nobody is left to run: the program hangs. So here, on CPU and with such a jaxlib, a
batch is a loop over single matrices, under `vmap` too. Elsewhere it is the batched call.

Within one call OpenBLAS may start threads of its own, which only slows small matrices down. That is
a setting of the process and left to the program: `lm.run.threads` limits it, OPENBLAS_NUM_THREADS=1
does the same.
"""

from importlib.metadata import version

import jax
import jax.numpy as jnp
from jax.lax.linalg import triangular_solve

BLOCKS_ITS_POOL = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)


def eigh(matrices):
    """Eigenvalues (N, d), rising, and eigenvectors (N, d, d) of symmetric (N, d, d)."""
    return _one_by_one(lambda x: tuple(jnp.linalg.eigh(x)), matrices)


def qr(matrices):
    """The orthogonal factors of (N, d, d)."""
    return _one_by_one(lambda x: jnp.linalg.qr(x)[0], matrices)


def solve_transposed(q, x):
    """Q^-T x of upper triangular q (N, d, d) and x (N, d, columns)."""
    return _one_by_one(
        lambda q, x: triangular_solve(q, x, left_side=True, lower=False, transpose_a=True), q, x
    )


def _one_by_one(fn, *batches):
    """`fn` of batches of matrices; on CPU, where it must be, of one matrix after the other."""
    if not BLOCKS_ITS_POOL or batches[0].shape[0] == 0:
        return fn(*batches)
    single = jax.custom_batching.sequential_vmap(fn)

    def loop(*batches):
        return jax.lax.map(lambda matrices: single(*matrices), batches)

    return jax.lax.platform_dependent(*batches, cpu=loop, default=fn)
