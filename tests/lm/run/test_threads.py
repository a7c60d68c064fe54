"""lm/run/threads.py: one thread for each LAPACK call, however a program was started."""

import os
import subprocess
import sys

PROGRAM = """
import scipy.linalg
import tiny
from threadpoolctl import threadpool_info
from lm.run import step
step.build(tiny.config("soap"))
threads = [lib["num_threads"] for lib in threadpool_info() if "scipy." in lib["filepath"]]
assert threads and all(n == 1 for n in threads), threads
print("done")
"""


def test_a_program_sets_one_thread_where_the_environment_asks_for_more():
    env = os.environ | {"OPENBLAS_NUM_THREADS": "2", "PYTHONPATH": "tests/support"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=100
    )
    assert run.stdout == "done\n", run.stderr
