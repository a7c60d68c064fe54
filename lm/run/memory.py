"""Whether a program's state fits in memory, before any of it is allocated."""

from __future__ import annotations

import os

import jax

from lm.run.program import Program

GIB = 2**30


def check(program: Program) -> None:
    """Raises MemoryError, one line, for a state that is larger than the memory of its devices."""
    state, devices = program.abstract_members()[0], jax.devices()[: program.device_count]
    needed, own = (program.capacity * _bytes(tree) for tree in (state, state.optimizer))
    held = _held(devices)
    if held and needed > held:
        raise MemoryError(
            f"the training state takes {needed / GIB:,.1f} GiB, {own / GIB:,.1f} of them the "
            f"optimizer's, and {len(devices)} devices have {held / GIB:,.1f}"
        )


def _bytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _held(devices) -> int:
    """Bytes that the devices hold together, 0 where they do not say; CPU devices share theirs."""
    if devices[0].platform == "cpu":
        hosts = len({device.process_index for device in devices})
        return hosts * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in devices[:1]]
    return len(devices) * limits[0]
