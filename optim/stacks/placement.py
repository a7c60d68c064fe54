"""Where arrays lie on a mesh: optimizer state with its parameter, stacks along their first axis.

Placement acts under `jax.set_mesh` only; without a mesh the program is unchanged.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optim.roles import path_name

# Mesh axes over which stacks of matrices are shared out. Other axes (trials) hold other runs.
SHARED_AXES = ("data", "model")
LARGEST_COPY = 2**20  # bytes of a state array that may be whole on every device


def state_shardings(
    tx: optax.GradientTransformation, params: optax.Params, place: Callable | None = None
):
    """Where each array of the optimizer state `tx.init(params)` lies.

    Args:
      tx: an optax transformation, or its `init`.
      params: arrays, or `jax.ShapeDtypeStruct`s, with a `NamedSharding` each, all on one mesh.
      place: (path, array, mesh) -> the `PartitionSpec` of a state array that belongs to no
        parameter, or None. Paths end as the state names it ("inner/table"); the array has shape
        and dtype.

    Returns:
      A tree of `NamedSharding` like the state.

    An array in a parameter's place lies like the parameter where it has its axes, or length 1 (one
    entry for many) instead; other arrays there, such as factors, as `stack_spec` says. Counters and
    keys are whole on every device.

    Raises:
      ValueError: one line, naming a state array of more than LARGEST_COPY bytes that belongs to no
        parameter and that `place` does not place (every device would hold a copy), or one that
        cannot lie as `place` says.

    Example:
      >>> import jax, optim
      >>> import jax.numpy as jnp
      >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> rows = jax.NamedSharding(mesh, jax.P("data"))
      >>> params = {"up": {"kernel": jax.device_put(jnp.eye(4), rows)}}
      >>> tx = optim.lion(learning_rate=0.001)
      >>> state = jax.jit(tx.init, out_shardings=optim.state_shardings(tx, params))(params)
    """
    init = getattr(tx, "init", tx)
    leaves, treedef = jax.tree.flatten(params)
    mesh = leaves[0].sharding.mesh
    state = jax.eval_shape(init, params)

    def stack(leaf):
        return NamedSharding(mesh, stack_spec(mesh, leaf.shape))

    def beside(param, mine):
        """Of what is in the parameter's place: an array, several such as factors, or nothing."""
        if not isinstance(mine, jax.ShapeDtypeStruct) or mine.ndim != param.ndim:
            return jax.tree.map(stack, mine)
        names = (*param.sharding.spec, *[None] * (param.ndim - len(param.sharding.spec)))
        rows = list(zip(names, mine.shape, param.shape, strict=True))
        if any(length not in (1, its) for _, length, its in rows):
            return stack(mine)
        kept = (name if length == its else None for name, length, its in rows)
        return NamedSharding(mesh, PartitionSpec(*kept))

    def like_params(tree):
        return treedef.unflatten(map(beside, leaves, treedef.flatten_up_to(tree)))

    def apart(leaf):
        """Of what belongs to no parameter."""
        size = leaf.size * leaf.dtype.itemsize
        path = next(path_name(p) for p, x in jax.tree.leaves_with_path(state) if x is leaf)
        if place and (spec := place(path, leaf, mesh)) is not None:
            return _as_told(mesh, spec, leaf, path)
        if size > LARGEST_COPY and mesh.size > 1:
            raise ValueError(
                f"optimizer state {path!r} {leaf.shape} belongs to no parameter: {mesh.size} "
                f"devices would each hold its {size:,} bytes; at most {LARGEST_COPY:,}, "
                "unless state_sharding says where it lies"
            )
        return NamedSharding(mesh, PartitionSpec())

    return optax.tree.map_params(
        functools.partial(jax.eval_shape, init),  # nothing runs: the mesh may have no real devices
        like_params,
        state,
        transform_non_params=apart,
        is_leaf=lambda _: True,
    )


def _as_told(mesh, spec, leaf, path: str) -> NamedSharding:
    try:
        where = NamedSharding(mesh, spec)
        where.shard_shape(leaf.shape)
    except (TypeError, ValueError, IndexError) as error:
        few = isinstance(error, IndexError)
        reason = f"it has {leaf.ndim} axes" if few else str(error).strip().partition("\n")[0]
        raise ValueError(f"optimizer state {path!r} cannot lie as {spec}: {reason}") from None
    return where


def stack_spec(mesh, shape: Sequence[int]) -> PartitionSpec:
    """How a stack of matrices lies on a mesh: all devices along the first of its axes that they
    divide, the stack if possible; if there is none, each mesh axis along the first that it divides.
    """
    axes = shared_axes(mesh)
    devices = math.prod(mesh.shape[a] for a in axes)
    names: list[tuple[str, ...]] = [() for _ in shape]
    whole = [i for i, size in enumerate(shape) if size % devices == 0]
    if whole:
        # Inside the matrices in reverse: from there each mesh axis is one all-to-all off the stack.
        names[whole[0]] = axes[::-1] if whole[0] else axes
        axes = ()
    for axis in axes:
        for i, size in enumerate(shape):
            if size % math.prod(mesh.shape[a] for a in (*names[i], axis)) == 0:
                names[i] += (axis,)
                break
    return PartitionSpec(*(n or None for n in names))


def shared_axes(mesh) -> tuple[str, ...]:
    """The axes of a mesh over which stacks are shared out."""
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return tuple(a for a in SHARED_AXES if kinds.get(a) == AxisType.Auto and mesh.shape[a] > 1)


def share_out(tree):
    """Arrays with a leading stack axis, such as factors, placed as `stack_spec` says."""
    mesh = jax.sharding.get_abstract_mesh()

    def place(x):
        return jax.lax.with_sharding_constraint(x, stack_spec(mesh, x.shape))

    return jax.tree.map(place, tree) if _placeable(mesh) else tree


def replicate(x):
    """The whole array on every device of the mesh."""
    if not _placeable(jax.sharding.get_abstract_mesh()):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def _placeable(mesh) -> bool:
    sizes = zip(mesh.axis_types, mesh.shape.values(), strict=True)
    return AxisType.Explicit not in mesh.axis_types and any(
        kind == AxisType.Auto and size > 1 for kind, size in sizes
    )


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
