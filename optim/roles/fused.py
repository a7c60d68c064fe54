"""Leaves that hold several matrices side by side, optimised as if each were a leaf of its own."""

import functools
import itertools

import jax
import jax.numpy as jnp
import optax

from optim.roles.find import find_roles
from optim.roles.role import Role, Roles


def in_parts(tx: optax.GradientTransformation, roles: Roles) -> optax.GradientTransformation:
    """`tx` on a tree whose fused leaves are split into their parts, {"part0": ..., "part1": ...}.

    Its state has the split tree's structure. A tree without fused leaves passes as it is.
    """
    tx = optax.with_extra_args_support(tx)
    split, join = (functools.partial(f, roles=roles) for f in (split_fused, join_fused))

    def init(params):
        return tx.init(split(params))

    def update(updates, state, params=None, *, grad_fn=None, probes=None, **extra):
        if grad_fn is not None:
            extra["grad_fn"] = lambda parts: split(grad_fn(join(parts, params)))
        if probes is not None:
            extra["probes"] = split(probes)
        parts = None if params is None else split(params)
        steps, state = tx.update(split(updates), state, parts, **extra)
        return join(steps, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def split_fused(tree, roles: Roles):
    """The tree with each fused leaf as a mapping of its parts."""

    def cut(leaf, role: Role):
        if not role.fused:
            return leaf
        ends = list(itertools.accumulate(role.fused))
        pieces = [
            jax.lax.slice_in_dim(leaf, end - length, end, axis=role.outputs[0])
            for end, length in zip(ends, role.fused, strict=True)
        ]
        return {f"part{i}": piece for i, piece in enumerate(pieces)}

    return jax.tree.map(cut, tree, find_roles(tree, roles))


def join_fused(parts, like, roles: Roles):
    """The inverse of `split_fused` for the tree `like`."""

    def glue(leaf, role: Role, mine):
        if not role.fused:
            return mine
        pieces = [mine[f"part{i}"] for i in range(len(role.fused))]
        return jnp.concatenate(pieces, axis=role.outputs[0])

    return jax.tree.map(glue, like, find_roles(like, roles), parts)
