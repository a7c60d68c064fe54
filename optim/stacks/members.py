"""Branches of members of a `vmap`: a `lax.cond` on a batched predicate runs both for every member.

A rule whose branch follows from the number of steps takes that number as the extra argument `step`,
which whoever trains members together passes unbatched. Where each member has its own reasons,
`any_member` asks whether some member takes the branch.
"""

import jax
import jax.numpy as jnp


@jax.custom_batching.custom_vmap
def any_member(flag):
    """`flag`, () bool; under `vmap` whether it holds for some member, not batched."""
    return flag


@any_member.def_vmap
def _over_members(axis_size, in_batched, flag):
    del axis_size
    return (jnp.any(flag, axis=0) if in_batched[0] else flag), False
