"""Hyperball: matrices that keep their initial Frobenius norm, for any rule (`optim.hyperball`).

The step of a matrix W of norm R with direction u and learning rate eta is

    V = W - eta R u / |u|,        W <- R V / |V|

so eta is a share of the weights, the size of u does not matter, and weight decay would do nothing
to first order. A start for eta is sqrt(learning rate x decay) of the same rule with decay.

Sources, which agree: levanter's optim/muonh.py and adamh.py (marin-community/marin at 05422e2 and
0084342), modded-nanogpt's track 3; arXiv 2606.16899. Deviations: R is the norm at the start, not
the one before the step, so that rounding does not add up; a norm is of one matrix of a stack as its
role says, where levanter takes one per first axis of an array; a matrix that starts at zero, which
could never move, is an error, where it gives NaN or stays frozen there.
"""

import jax
import jax.numpy as jnp
import optax

from optim.roles import KINDS, Kind, Role, Roles, find_roles, path_name

SMALLEST = 1e-10  # of a norm that is divided by


def radii(params, kinds: tuple[Kind, ...] = KINDS, *, roles: Roles = None):
    """The norm of each matrix of the leaves of these kinds, a number per matrix of a stack with the
    other axes of size 1; of other leaves a scalar 0.

    Raises:
      ValueError: a matrix of norm 0, by its parameter's name. (Under `jit` values are not known:
        ask `optim.refuse_zeros` afterwards, or its first step is NaN.)
    """

    def radius(key_path, p, role: Role):
        if role.kind not in kinds:
            return jnp.zeros((), p.dtype)
        found = norm(p, role)
        if not isinstance(found, jax.core.Tracer):
            _refuse(f"{path_name(key_path)!r} {p.shape}", role.kind, found)
        return found

    return jax.tree.map_with_path(radius, params, find_roles(params, roles))


def refuse_zeros(state: optax.OptState) -> None:
    """For an optimizer state that `init` made under `jit`, where values are not known; for several
    at once too.

    Args:
      state: of any optimizer; only one on the hyperball can be refused.

    Raises:
      ValueError: naming a matrix of zeros, which the hyperball could never move.

    Example:
      >>> import jax, optim
      >>> import jax.numpy as jnp
      >>> tx = optim.hyperball(optim.lion)(learning_rate=0.01)
      >>> optim.refuse_zeros(jax.jit(tx.init)({"up": {"kernel": jnp.eye(4)}}))
    """

    def has_radius(node):
        return hasattr(node, "radius")

    for node in filter(has_radius, jax.tree.leaves(state, is_leaf=has_radius)):
        for key_path, found in jax.tree.leaves_with_path(node.radius):
            if found.ndim > 1:  # those of other leaves are scalars
                _refuse(repr(path_name(key_path)), "its kind", found)


def _refuse(parameter: str, kind: str, found: jax.Array) -> None:
    if found.size and not jnp.all(found):
        raise ValueError(
            f"parameter {parameter} holds a matrix of zeros, which the hyperball could never move: "
            f"start it with a positive norm (init_std), or leave {kind!r} out of the constrained "
            "kinds"
        )


def step(w: jax.Array, u: jax.Array, rate, radius: jax.Array, role: Role) -> jax.Array:
    """What to add to a leaf w: each matrix moves by `rate` times its radius along -u, then back to
    its radius."""
    moved = w - rate * radius * u / jnp.maximum(norm(u, role), SMALLEST)
    return radius * moved / norm(moved, role) - w


def norm(x: jax.Array, role: Role) -> jax.Array:
    """Frobenius norm of each matrix of a leaf, its axes kept with size 1."""
    return jnp.sqrt(jnp.sum(x * x, axis=role.inputs + role.outputs, keepdims=True))
