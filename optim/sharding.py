"""Optimizers on a mesh: state lies where its parameter lies, matrix work is shared out.

Everything here acts under `jax.set_mesh` only; without a mesh the program is unchanged.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

# Mesh axes over which stacks of matrices are shared out. Other axes (trials) hold other runs.
SHARED_AXES = ("data", "model")


def shared(fn: Callable[[Any], Any], batch):
    """`fn(batch)`, arrays with a common leading axis, with that axis spread over the mesh.

    The axis is padded with zeros to a multiple of the number of devices, so each device has its
    share of the work, whole matrices, and no communication inside `fn`. `fn` must not mix entries
    of the leading axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(a for a in SHARED_AXES if kinds.get(a) == AxisType.Auto and mesh.shape[a] > 1)
    if not axes:
        return fn(batch)
    devices = math.prod(mesh.shape[axis] for axis in axes)
    size = jax.tree.leaves(batch)[0].shape[0]

    # One mesh axis after the other: each move is an all-to-all; both at once would replicate x.
    def spread(x):
        x = jnp.pad(x, [(0, -size % devices)] + [(0, 0)] * (x.ndim - 1))
        for n in range(1, len(axes)):
            x = _place(x, axes[:n], PartitionSpec.UNCONSTRAINED)
        return _place(x, axes, None)

    def gather(x):
        x = _place(x, axes, None)
        for n in range(len(axes) - 1, 0, -1):
            x = _place(x, axes[:n], PartitionSpec.UNCONSTRAINED)
        return x[:size]

    return jax.tree.map(gather, fn(jax.tree.map(spread, batch)))


def beside(state, params):
    """A fresh optimizer state, with every array that belongs to a parameter placed like it.

    An array belongs to a parameter if its path ends with the parameter's and their shapes agree,
    but for axes of length 1 where the state has one entry for many.
    The zeros of a new state depend on nothing, so a compiler would replicate them; here they are
    made to depend on the parameter, at no change in value. Later states follow from gradients and
    state.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if AxisType.Explicit in mesh.axis_types or all(n == 1 for n in mesh.shape.values()):
        return state
    leaves = jax.tree.leaves_with_path(params)

    def place(path, x):
        for param_path, p in leaves:
            if not x.ndim or path[len(path) - len(param_path) :] != param_path:
                continue
            if x.ndim == p.ndim and all(n in (1, m) for n, m in zip(x.shape, p.shape, strict=True)):
                joined = tuple(i for i in range(x.ndim) if x.shape[i] != p.shape[i])
                zero = 0 * jnp.where(jnp.isfinite(p), p, 0)
                return x + jnp.sum(zero, axis=joined, keepdims=True).astype(x.dtype)
        return x

    return jax.tree.map_with_path(place, state)


def with_auto_axes(fn: Callable[..., Any], like: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` for meshes with explicit axes too: inside, the compiler places arrays.

    `like(*args)` has the structure of the result and lends it its shardings.
    """

    def run(*args):
        if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
            return fn(*args)
        shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, like(*args))
        return jax.sharding.auto_axes(fn, out_sharding=shardings)(*args)

    return run


def _place(x, axes, others):
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *[others] * (x.ndim - 1)))
