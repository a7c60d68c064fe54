"""Strict JAX for every test: eight CPU devices, and silent rank promotion is an error."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# As lm.train.prepare_cpu does; .ci/run has given an instruction set.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as lm.run.threads has it
os.environ.setdefault("BESTIARY_CACHE", str(Path(__file__).parents[1] / ".pytest_cache/bestiary"))
# Tests start many processes: where a machine keeps no bytecode, each would compile all it imports.
os.environ["PYTHONPYCACHEPREFIX"] = os.environ["BESTIARY_CACHE"] + "/bytecode"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
# Tests build the same small programs again and again: compile each once.
jax.config.update("jax_compilation_cache_dir", os.environ["BESTIARY_CACHE"] + "/programs")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Not optimized, a program takes half the time to compile. Processes that tests start train for long
# and do optimize; so does `make numerics`, and who sets this variable to 0.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
jax.devices()  # from here on `lm.train.prepare_cpu` leaves the eight devices alone


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Go with their file: kept, those of the whole suite take gigabytes."""
    yield
    jax.clear_caches()


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that two workers end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def key():
    return jax.random.key(0)
