"""QR and eigh on CPU do not hang, however the process was started."""

import os
import subprocess
import sys

PROGRAM = """
import scipy.linalg, jax, jax.numpy as jnp
import optim
from threadpoolctl import threadpool_info
threads = [lib["num_threads"] for lib in threadpool_info() if "scipy." in lib["filepath"]]
assert all(n == 1 for n in threads), threads
a = jax.random.normal(jax.random.key(0), (12, 64, 64))
both = jax.jit(lambda a: (jnp.linalg.qr(a)[0], jnp.linalg.qr(a + 1)[0], jnp.linalg.eigh(a)[0]))
for _ in range(20):
    jax.block_until_ready(both(a))
print("done")
"""


def test_two_decompositions_at_once():
    """SciPy is loaded first, and the environment asks for many threads."""
    env = os.environ | {"OPENBLAS_NUM_THREADS": "8"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=100
    )
    assert run.stdout == "done\n", run.stderr
