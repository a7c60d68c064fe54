"""Keep LAPACK calls on CPU from hanging.

On CPU, XLA runs QR, eigh and Cholesky in SciPy's OpenBLAS, from its own thread pool. Two such calls
at once,
each starting OpenBLAS threads, wait for each other: a second of work takes twenty, or never ends.
One thread per call is also the fastest, since XLA already runs the calls in parallel.
"""

import scipy.linalg  # noqa: F401  loads the library whose threads are limited
from threadpoolctl import ThreadpoolController


def use_one_thread_per_call() -> int:
    """Limit the OpenBLAS that SciPy loaded to one thread, for the process; returns how many were
    limited.

    An environment variable would be too late once SciPy is imported. NumPy's own copy keeps its
    threads, unless, as in conda, the two share one.
    """
    blas = ThreadpoolController().select(user_api="blas")
    scipys = [lib for lib in blas.lib_controllers if "scipy." in lib.filepath]
    for lib in scipys or blas.lib_controllers:
        lib.set_num_threads(1)
    return len(scipys or blas.lib_controllers)
