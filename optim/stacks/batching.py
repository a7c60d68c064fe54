"""Matrix work in few large calls: equal shapes of all leaves at once, shared out over the mesh."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from optim.roles import Role, Roles, find_roles, from_stack, path_name, stack_shape, to_stack
from optim.stacks.sharding import together


def map_matrices(
    fn: Callable[[jax.Array], jax.Array], tree, roles: Roles = None, *, products: bool = False
):
    """`fn` on every leaf as a stack of matrices (stack, short, long), few calls for the whole tree.

    Leaves are turned so that the short side comes first, and those that then have equal shapes and
    dtypes go through `fn` together: q, k, v, o of all layers are one call. `fn` keeps the shape of
    its argument; `products` is for `optim.stacks.sharding.together`. Raises ValueError for a gain,
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
    maps a batch to a tree of arrays with that leading axis, together; see
    `optim.stacks.sharding.together`.
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
