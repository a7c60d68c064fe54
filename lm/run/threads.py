"""One thread for each LAPACK call on CPU."""

import functools

import scipy.linalg  # noqa: F401  loads the OpenBLAS whose threads are limited; jaxlib uses it
from threadpoolctl import ThreadpoolController


@functools.cache
def use_one_per_lapack_call() -> int:
    """Limits SciPy's OpenBLAS to one thread, for the process; returns how many libraries that are.

    QR and eigh of small matrices crawl on more: each call starts and joins them, while XLA's own
    threads hold the cores. An environment variable would be too late once SciPy is imported.
    NumPy's own copy keeps its threads unless, as in conda, the two share one.
    """
    blas = ThreadpoolController().select(user_api="blas")
    scipys = [lib for lib in blas.lib_controllers if "scipy." in lib.filepath]
    for lib in scipys or blas.lib_controllers:
        lib.set_num_threads(1)
    return len(scipys or blas.lib_controllers)
