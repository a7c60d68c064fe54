"""Members of a `vmap` that step together may share a branch."""

import jax


@jax.custom_batching.custom_vmap
def same_for_all(x):
    """`x`, or under `vmap` the first member's `x`, no longer batched.

    A `lax.cond` on a batched predicate runs both branches for every member. On the count of steps
    of members that always step together, `same_for_all` keeps it a choice.
    """
    return x


@same_for_all.def_vmap
def _first_member(axis_size, in_batched, x):
    del axis_size
    return (x[0] if in_batched[0] else x), False
