"""LAPACK calls on CPU that neither hang nor fight over cores.

jaxlib before 0.11 splits a batch of matrices over XLA's own thread pool and blocks a thread of that
pool until the parts are done. As many such calls at once as the pool has threads, and each waits
for parts that nobody is left to run: the program hangs. So here, on CPU and with such a jaxlib, a
batch is a loop over single matrices, under `vmap` too. Elsewhere it is the batched call.

Within one call, SciPy's OpenBLAS (which jaxlib uses) would start threads of its own;
`use_one_thread_per_call`, called when `optim` is imported, keeps it at one.
"""

import jax
import jax.numpy as jnp
import jaxlib
import scipy.linalg  # noqa: F401  loads the library whose threads are limited
from jax.lax.linalg import triangular_solve
from threadpoolctl import ThreadpoolController

BLOCKS_ITS_POOL = tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11)


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


def use_one_thread_per_call() -> int:
    """Limit the OpenBLAS that SciPy loaded to one thread, for the process; returns how many were.

    An environment variable would be too late once SciPy is imported. NumPy's own copy keeps its
    threads, unless, as in conda, the two share one.
    """
    blas = ThreadpoolController().select(user_api="blas")
    scipys = [lib for lib in blas.lib_controllers if "scipy." in lib.filepath]
    for lib in scipys or blas.lib_controllers:
        lib.set_num_threads(1)
    return len(scipys or blas.lib_controllers)


def _one_by_one(fn, *batches):
    """`fn` of batches of matrices; on CPU, where it must be, of one matrix after the other."""
    if not BLOCKS_ITS_POOL or batches[0].shape[0] == 0:
        return fn(*batches)
    single = jax.custom_batching.sequential_vmap(fn)

    def loop(*batches):
        return jax.lax.map(lambda matrices: single(*matrices), batches)

    return jax.lax.platform_dependent(*batches, cpu=loop, default=fn)
