"""Where arrays live: a mesh of `data` (FSDP) x `model` (tensor) axes, and one table of rules.

Multi-host start is here too: `start` either joins the job or stops with the reason; it never goes
on as n silent single-host jobs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.config import ConfigError
from lm.model.llama import LOGICAL_AXES
from optim.roles import path_name
from optim.stacks.placement import state_shardings

# Logical axis -> mesh axis. Embedding features are spread over `data` (fully sharded data
# parallel), the features a device can work on alone over `model`. What is not named is whole on
# every device.
RULES = {
    "batch": "data",
    "embed": "data",
    "vocab": "model",
    "heads": "model",
    "mlp": "model",
}


# The stacks of hidden matrices, 96 and 128 at the published sizes, fill no more devices than that;
# what is left cuts the matrices. It moves less, too: 5.3 instead of 7.4 GB for AdamW 520m.
MOST_DATA = 128


def make(config: Mapping, devices: Sequence | None = None) -> Mesh:
    """The mesh of a finalised config over `devices` (default: all of the job).

    With `mesh.data=-1` and `mesh.model=1`, as by default, `data` gets as many devices as divide the
    batch and `MOST_DATA`, and `model` the rest; cores of one machine that do not fit stay idle.
    Devices of several slices lie along `data`.

    Raises:
      ConfigError: with the arithmetic, when the axes do not multiply to the number of devices or
        do not divide what is spread over them.
    """
    devices = list(jax.devices() if devices is None else devices)
    devices.sort(key=lambda device: getattr(device, "slice_index", None) or 0)
    sizes, model = dict(config["mesh"]), config["model"]
    batch = config["train"]["batch_size"] // config["program"]["accumulate"]
    if sizes == {"data": -1, "model": 1}:
        data = math.gcd(batch, len(devices), MOST_DATA)
        columns = len(devices) // data
        cores = devices[0].platform == "cpu" and jax.process_count() == 1
        if cores and math.gcd(model["heads"], model["mlp"]) % columns:
            devices, columns = devices[:data], 1
        sizes = {"data": data, "model": columns}
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise ConfigError(f"mesh.{free[1]}=-1: only one axis can take what is left")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free and known and len(devices) % known == 0:
        sizes[free[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        product = " x ".join(f"{name}={size}" for name, size in config["mesh"].items())
        needed = f"{known} do not divide them" if free else f"that is {math.prod(sizes.values())}"
        raise ConfigError(f"mesh {product} does not fill {len(devices)} devices: {needed}")
    for what, size, axis in (
        ("train.batch_size / program.accumulate", batch, "data"),
        ("model.heads", model["heads"], "model"),
        ("model.mlp", model["mlp"], "model"),
    ):
        if size % sizes[axis]:
            raise ConfigError(
                f"mesh.{axis}={sizes[axis]} does not divide {what}={size}; "
                f"try mesh.{axis}={math.gcd(size, sizes[axis])}"
            )
    # In the devices' order, not that of `jax.make_mesh`: on a TPU slice it may lay a row of `model`
    # over two hosts, and each host reads its own share of every batch.
    grid = np.asarray(devices).reshape(sizes["data"], sizes["model"])
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def spec(mesh: Mesh, axes: Sequence[str], shape: Sequence[int]) -> P:
    """The placement of an array by its logical axes; what a mesh axis cannot divide is whole."""
    names = [RULES.get(axis) for axis in axes]
    return P(
        *(
            n if n and size % mesh.shape[n] == 0 else None
            for n, size in zip(names, shape, strict=True)
        )
    )


def placements(mesh: Mesh, state, init: Callable, place: Callable | None = None):
    """A tree of `NamedSharding` for a training state of shapes.

    Parameters lie as RULES say, optimizer state as `optim.state_shardings` does, which raises
    ValueError for a large array that it cannot place; what is left is whole on every device.

    Args:
      state: has `params` and `optimizer`.
      init: parameters -> optimizer state.
      place: what the optimizer says of state of its own, see `optim.state_shardings`.
    """

    def like_rules(key_path, leaf):
        where = NamedSharding(mesh, spec(mesh, LOGICAL_AXES[path_name(key_path)], leaf.shape))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    params = jax.tree.map_with_path(like_rules, state.params)
    whole = jax.tree.map(lambda _: NamedSharding(mesh, P()), state)
    return whole._replace(
        params=jax.tree.map(lambda x: x.sharding, params),
        optimizer=state_shardings(init, params, place),
    )


def start(log=print, *, timeout: int = 300) -> None:
    """Joins the multi-host job that the environment describes, or does nothing on a single host.

    A job is described by `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, by
    SLURM with more than one task, or by a TPU pod slice with several hosts.

    Raises:
      ConfigError: when the job cannot be joined within `timeout` seconds.
    """
    environment = os.environ
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    count = environment.get("JAX_NUM_PROCESSES") or environment.get("SLURM_NTASKS") or "1"
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    if not address and int(count) <= 1 and hosts <= 1:
        return
    explicit = {}
    if address:
        missing = [n for n in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID") if n not in environment]
        if missing:
            raise ConfigError(f"JAX_COORDINATOR_ADDRESS={address} is set, {missing[0]} is not")
        explicit = {
            "coordinator_address": address,
            "num_processes": int(count),
            "process_id": int(environment["JAX_PROCESS_ID"]),
        }
    log(f"joining a job of {max(int(count), hosts)} processes, at most {timeout} s")
    try:
        jax.distributed.initialize(**explicit, initialization_timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"could not join the multi-host job: {error}".splitlines()[0]) from None
    log(
        f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} of "
        f"{jax.device_count()} {jax.devices()[0].device_kind} devices are here"
    )
