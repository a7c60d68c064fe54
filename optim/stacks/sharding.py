"""Optimizers on a mesh: state lies where its parameter lies, matrix work is shared out.

Everything here acts under `jax.set_mesh` only; without a mesh the program is unchanged.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

# Mesh axes over which stacks of matrices are shared out. Other axes (trials) hold other runs.
SHARED_AXES = ("data", "model")


def together(fn: Callable[[Any], Any], items: Sequence[Any], *, products: bool = False) -> list:
    """`fn` on the items, trees of arrays with a leading stack axis, joined along it; the results
    cut apart again. On a mesh the stack is spread over the devices.

    It is padded with zeros to a multiple of the number of devices, so each device has its share of
    the work, whole matrices, and no communication inside `fn`. `fn` must not mix entries of the
    stack. Items whose stacks the devices do not divide are padded together where that is less.

    If `fn` is made of matrix `products`, the compiler can split one matrix over devices too: where
    the stack is too short to fill the mesh, it fills the first axes alone and the longest side of
    the matrices lies over the others.
    """
    sizes = [_length(item) for item in items]
    mesh = jax.sharding.get_abstract_mesh()
    axes = _axes(mesh)
    if not axes or not sum(sizes):
        return _cut(fn(_join(items, axis=0)), sizes, axis=0)
    matrices = min(jax.tree.leaves(items)[0].shape[1:]) > 1  # a vector is not worth splitting
    outer, inner = _split(mesh, axes, sum(sizes)) if products and matrices else (axes, ())
    devices = math.prod(mesh.shape[axis] for axis in outer)
    odd = _padded_together(sizes, devices)
    if odd:  # their stacks are whole on every device: they join where they lie, and move as one
        even = [i for i in range(len(items)) if i not in odd]
        joined = _join([items[i] for i in odd], axis=0)
        *parts, out = together(fn, [*(items[i] for i in even), joined], products=products)
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


def stack_spec(mesh, shape: Sequence[int]) -> PartitionSpec:
    """How a stack of matrices lies on a mesh: all devices along the first of its axes that they
    divide, the stack if possible; if there is none, each mesh axis along the first that it divides.
    """
    axes = _axes(mesh)
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


def _axes(mesh) -> tuple[str, ...]:
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return tuple(a for a in SHARED_AXES if kinds.get(a) == AxisType.Auto and mesh.shape[a] > 1)


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


def _place(x, stack, others, inner=()):
    """`stack` mesh axes on the leading axis, `inner` ones on the longest other."""
    spec = [stack or None, *[others] * (x.ndim - 1)]
    if inner and x.ndim > 1:
        spec[max(range(1, x.ndim), key=lambda axis: x.shape[axis])] = inner
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
