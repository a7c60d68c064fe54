"""What JAX, libtpu and XLA must find in the environment to compile for chips that are not there."""

from __future__ import annotations

import os

WITHOUT_CHIPS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # there is no chip to fight over
    "JAX_PLATFORMS": "cpu",
}
OF_A_HOST = {  # or libtpu misses them, in pages
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
}
NO_AUTOTUNING = "--xla_gpu_autotune_level=0"  # it runs candidates on a GPU


def set_up() -> None:
    """Sets it for this process; called before JAX is imported."""
    os.environ.update(OF_A_HOST | os.environ | WITHOUT_CHIPS)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {NO_AUTOTUNING}".strip()
