"""Matrix work in few large calls: equal shapes of all leaves at once, shared out over the mesh."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from optim.roles import Role, Roles, find_roles, from_stack, path_name, stack_shape, to_stack
from optim.stacks.placement import shared_axes


def map_matrices(
    fn: Callable[[jax.Array], jax.Array], tree, roles: Roles = None, *, products: bool = False
):
    """`fn` on every leaf as a stack of matrices (stack, short, long), few calls for the whole tree.

    Leaves are turned so that the short side comes first, and those that then have equal shapes and
    dtypes go through `fn` together: q, k, v, o of all layers are one call. `fn` keeps the shape of
    its argument; `products` is for `together`. Raises ValueError for a gain,
    which is no matrix.
    """
    leaves, treedef = jax.tree.flatten(tree)
    leaf_roles = jax.tree.leaves(find_roles(tree, roles), is_leaf=lambda x: isinstance(x, Role))
    if any(role.kind == "gain" for role in leaf_roles):
        paths = [path_name(key_path) for key_path, _ in jax.tree.leaves_with_path(tree)]
        gains = [path for path, role in zip(paths, leaf_roles, strict=True) if role.kind == "gain"]
        raise ValueError(
            f"parameter {gains[0]!r} is a gain: a matrix rule needs inputs and outputs"
        )
    tall = [shape[1] > shape[2] for shape in map(stack_shape, leaves, leaf_roles)]
    stacks = [turn(to_stack(x, r), t) for x, r, t in zip(leaves, leaf_roles, tall, strict=True)]
    stacks = map_grouped(fn, stacks, products=products)
    rows = zip(stacks, tall, leaf_roles, leaves, strict=True)
    return treedef.unflatten([from_stack(turn(s, t), r, x.shape) for s, t, r, x in rows])


def map_grouped(
    fn: Callable[[Any], Any], items: Sequence[Any], *, products: bool = False
) -> list[Any]:
    """`fn` on items that are trees of arrays with a leading stack axis, batched over equal shapes.

    Items with the same tree, shapes (but for the leading axis) and dtypes go through `fn`, which
    maps a batch to a tree of arrays with that leading axis, together.
    """
    groups: dict[Any, list[int]] = {}
    for i, item in enumerate(items):
        leaves, treedef = jax.tree.flatten(item)
        groups.setdefault((treedef, *((x.shape[1:], x.dtype) for x in leaves)), []).append(i)
    results: list[Any] = [None] * len(items)
    for members in groups.values():
        parts = together(fn, [items[i] for i in members], products=products)
        for i, part in zip(members, parts, strict=True):
            results[i] = part
    return results


def turn(stack: jax.Array, tall: bool) -> jax.Array:
    """The stack with its matrices transposed if they are tall."""
    return stack.swapaxes(-1, -2) if tall else stack


def joined(fn: Callable[[Any], Any], items: Sequence[Any]) -> list:
    """`fn` on the items, trees of arrays with a leading stack axis, joined along it; the results
    cut apart again."""
    return _cut(fn(_join(items, axis=0)), [_length(item) for item in items], axis=0)


def together(fn: Callable[[Any], Any], items: Sequence[Any], *, products: bool = False) -> list:
    """`joined`, on a mesh with the stack spread over the devices.

    The stack is padded with zeros to a multiple of the number of devices, so each device has its
    share of the work, whole matrices, and no communication inside `fn`. `fn` must not mix entries
    of the stack. Items whose stacks the devices do not divide are padded as one where that is less.

    If `fn` is made of matrix `products`, the compiler can split one matrix over devices too: where
    the stack is too short to fill the mesh, it fills the first axes alone and the longest side of
    the matrices lies over the others.
    """
    sizes = [_length(item) for item in items]
    mesh = jax.sharding.get_abstract_mesh()
    axes = shared_axes(mesh)
    if not axes or not sum(sizes):
        return joined(fn, items)
    matrices = min(jax.tree.leaves(items)[0].shape[1:]) > 1  # a vector is not worth splitting
    outer, inner = _split(mesh, axes, sum(sizes)) if products and matrices else (axes, ())
    devices = math.prod(mesh.shape[axis] for axis in outer)
    odd = _padded_together(sizes, devices)
    if odd:  # their stacks are whole on every device: they join where they lie, and move as one
        even = [i for i in range(len(items)) if i not in odd]
        as_one = _join([items[i] for i in odd], axis=0)
        *parts, out = together(fn, [*(items[i] for i in even), as_one], products=products)
        parts += _cut(out, [sizes[i] for i in odd], axis=0)
        return [part for _, part in sorted(zip(even + odd, parts, strict=True), key=lambda x: x[0])]
    # One mesh axis after the other: each move is an all-to-all; both at once would replicate x.
    steps = [(outer[:n], PartitionSpec.UNCONSTRAINED, ()) for n in range(1, len(outer))]
    steps += [(outer, PartitionSpec.UNCONSTRAINED, ())] if inner and outer else []
    steps += [(outer, None, inner)]

    def spread(x):
        x = jnp.pad(x, [(0, -x.shape[0] % devices)] + [(0, 0)] * (x.ndim - 1))
        for step in steps:
            x = _place(x, *step)
        return x

    def gather(x, size):
        for step in reversed(steps):
            x = _place(x, *step)
        return x[:size]

    if not inner:  # some compilers would gather the stack for a decomposition: leave no choice
        spec = PartitionSpec(outer)
        names = frozenset(outer)
        fn = jax.shard_map(fn, in_specs=spec, out_specs=spec, axis_names=names, check_vma=False)

    # Each device joins its own shares: what lies along the stack already need not move.
    def fold(x):
        x = spread(x)
        return x.reshape(devices, -1, *x.shape[1:])

    def unfold(x):
        return x.reshape(-1, *x.shape[2:])

    shares = [-(-size // devices) for size in sizes]
    out = fn(jax.tree.map(unfold, _join([jax.tree.map(fold, item) for item in items], axis=1)))
    out = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), out)
    rows = zip(_cut(out, shares, axis=1), sizes, strict=True)
    return [jax.tree.map(lambda x, n=n: gather(unfold(x), n), part) for part, n in rows]


def _padded_together(sizes: Sequence[int], devices: int) -> list[int]:
    """Which stacks, of those that do not divide, are less work padded as one; all or none."""
    odd = [i for i, size in enumerate(sizes) if size % devices]
    alone = sum(-(-sizes[i] // devices) for i in odd)
    return odd if alone > -(-sum(sizes[i] for i in odd) // devices) else []


def _length(item) -> int:
    return jax.tree.leaves(item)[0].shape[0]


def _join(trees: Sequence[Any], axis: int):
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, axis), *trees)


def _cut(tree, sizes: Sequence[int], axis: int) -> list:
    ends = list(itertools.accumulate(sizes))
    return [
        jax.tree.map(lambda x, a=end - size, b=end: jax.lax.slice_in_dim(x, a, b, axis=axis), tree)
        for size, end in zip(sizes, ends, strict=True)
    ]


def _split(mesh, axes: tuple[str, ...], size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The mesh axes for a stack of `size` matrices and those for their longest side, by which a
    device has the least to do. What cannot be split makes a split matrix a third dearer; one that
    is split over the whole mesh talks in every product and is for the very few and large.
    """

    def work(count):
        stack, within = (math.prod(mesh.shape[a] for a in part) for part in parts(count))
        dearer = 1 if within == 1 else 4 / 3 if count else 8
        return -(-size // stack) / within * dearer

    def parts(count):
        return axes[:count], axes[count:][::-1]  # as in `stack_spec`

    return parts(min(range(len(axes), -1, -1), key=work))


def _place(x, stack, others, inner=()):
    """`stack` mesh axes on the leading axis, `inner` ones on the longest other."""
    spec = [stack or None, *[others] * (x.ndim - 1)]
    if inner and x.ndim > 1:
        spec[max(range(1, x.ndim), key=lambda axis: x.shape[axis])] = inner
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
