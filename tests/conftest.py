"""Strict JAX for every test: eight CPU devices, and silent rank promotion is an error."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# As lm.train.prepare_cpu does; .ci/run has given an instruction set.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as lm.run.threads has it
os.environ.setdefault("BESTIARY_CACHE", str(Path(__file__).parents[1] / ".pytest_cache/bestiary"))

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
# Tests build the same small programs again and again: compile each once.
jax.config.update("jax_compilation_cache_dir", os.environ["BESTIARY_CACHE"] + "/programs")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
jax.devices()  # from here on `lm.train.prepare_cpu` leaves the eight devices alone


@pytest.fixture
def key():
    return jax.random.key(0)
