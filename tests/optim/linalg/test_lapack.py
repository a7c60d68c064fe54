"""QR and eigh on CPU do not hang, and `import optim` changes nothing in the process."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.linalg import lapack

IMPORT = """
import os, scipy.linalg, jax
from threadpoolctl import threadpool_info
before = dict(os.environ), threadpool_info(), dict(jax.config.values)
import optim
assert (dict(os.environ), threadpool_info(), dict(jax.config.values)) == before
print("done")
"""
MANY = """
import jax, jax.numpy as jnp
from optim.linalg import lapack
a = jax.random.normal(jax.random.key(0), (12, 64, 64))
many = jax.jit(lambda a: [(lapack.qr(a + i), lapack.eigh(a @ a.mT + i)[0]) for i in range(6)])
for _ in range(10):
    jax.block_until_ready(many(a))
print("done")
"""


@pytest.mark.parametrize("program", [IMPORT, MANY], ids=["import", "many"])
@pytest.mark.slow
def test_a_process_of_its_own(program):
    """More decompositions at once than cores; the environment asks for two threads in each."""
    env = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=100
    )
    assert run.stdout == "done\n", run.stderr


def test_calls_are_those_of_jax_under_vmap_too():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 5))
    upper, symmetric = jnp.triu(x) + 3 * jnp.eye(5)[None, None], x + x.mT
    calls = [
        (lapack.qr, jnp.linalg.qr(x)[0], x),
        (lambda s: lapack.eigh(s)[1], jnp.linalg.eigh(symmetric)[1], symmetric),
        (lambda q: q.mT @ lapack.solve_transposed(q, q), upper, upper),
    ]
    for fn, expected, args in calls:
        for mapped in (jax.vmap(fn), jax.jit(jax.vmap(fn))):
            np.testing.assert_allclose(mapped(args), expected, atol=1e-5)


def test_other_platforms_get_the_batched_call():
    lowered = jax.jit(lapack.qr).trace(jnp.ones((3, 4, 4))).lower(lowering_platforms=("tpu",))
    assert "while" not in lowered.as_text() and "3x4x4" in lowered.as_text()
