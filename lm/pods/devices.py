"""The devices of a topology by name, known to a compiler alone: TPU slices, and GPUs.

XLA must be told what a GPU is. The facts are NVIDIA's: the data sheet of the H100 SXM and the CUDA
programming guide's limits of compute capability 9.0. Autotuning needs a GPU and is off: which
kernels run, what they hold and what moves is read off the compiled step; how long it takes is not.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence

from lm.config import ConfigError

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  ecc_enabled: true
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  device_address_bits: 64
  pcie_bandwidth: 68719476736
  device_interconnect_info { active_links: 18 }
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}
"""
TARGETS = {"h100": H100}
NAME = re.compile(r"(?P<kind>[a-z]+\d+):(?:(?P<hosts>\d+)x)?(?P<gpus>\d+)")
SLICES = re.compile(r"(?:(?P<slices>[1-9]\d*)\*)?(?P<slice>.*)")


def platform_of(topology: str) -> str:
    """`cuda` for `h100:8` and the like, else `tpu`."""
    return "cuda" if topology.partition(":")[0] in TARGETS else "tpu"


def devices_of(topology: str) -> Sequence:
    """The devices of `v5e:16x16`, of `2*v5e:16x16` (slices), `h100:8`, or `h100:16x8` (hosts x
    GPUs).

    Raises:
      ConfigError: an unknown topology, or its compiler is not installed.
    """
    from jax.experimental import topologies

    if platform_of(topology) == "cuda":
        return _gpus(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology={topology}: the TPU's compiler is not installed here; `make preflight "
            f"RUN=130m,1x,soap TOPOLOGY={topology}` makes an environment that has it"
        )
    try:
        match = SLICES.fullmatch(topology)
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=match["slice"], num_slices=int(match["slices"] or 1)
        )
    except Exception as error:  # libtpu's own words are many and of many types
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"--topology={topology}: {reason} (as in v5e:16x16, v5p:4x4x4)") from None
    return found.devices


def _gpus(topology: str) -> Sequence:
    from jax.experimental import topologies

    match = NAME.fullmatch(topology)
    if not match or not math.prod(int(match[g] or 1) for g in ("hosts", "gpus")):
        raise ConfigError(f"--topology={topology}: GPUs are named as in h100:8 or h100:16x8")
    try:
        found = topologies.get_topology_desc(
            platform="cuda",
            topology=f"1x{match['hosts'] or 1}x{match['gpus']}",  # slices x hosts x GPUs
            target_config=TARGETS[match["kind"]],
        )
    except Exception as error:  # the plugin's own words are of many types
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"--topology={topology}: {reason}; `make preflight TOPOLOGY={topology}` makes an "
            "environment with the CUDA compiler"
        ) from None
    return found.devices
