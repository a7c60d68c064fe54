"""Numbers to log about an update; cheap, traceable, and independent of the optimizer."""

import jax
import jax.numpy as jnp

from optim.roles import KINDS, Role, Roles, find_roles, stack_shape, to_stack


def summarize(updates, params, roles: Roles = None) -> dict[str, jax.Array]:
    """Scalars over all entries of each kind of leaf: "update_rms/<kind>", "param_rms/<kind>" and
    their ratio "update_to_param/<kind>"; and for matrices the mean "orthogonality_error".
    """
    is_role = lambda x: isinstance(x, Role)  # noqa: E731
    found = jax.tree.leaves(find_roles(params, roles), is_leaf=is_role)
    rows = list(zip(jax.tree.leaves(updates), jax.tree.leaves(params), found, strict=True))
    metrics = {}
    for kind in KINDS:
        mine = [(u, p) for u, p, role in rows if role.kind == kind]
        if not mine:
            continue
        update_rms, param_rms = (_rms([pair[i] for pair in mine]) for i in (0, 1))
        metrics[f"update_rms/{kind}"] = update_rms
        metrics[f"param_rms/{kind}"] = param_rms
        metrics[f"update_to_param/{kind}"] = update_rms / param_rms
    errors = [orthogonality_error(u, role) for u, _, role in rows if role.kind == "matrix"]
    if errors:
        metrics["orthogonality_error"] = jnp.concatenate(errors).mean()
    return metrics


def orthogonality_error(leaf: jax.Array, role: Role) -> jax.Array:
    """How far each matrix X of a stack is from a multiple of an orthogonal one, (stack,).

    || X X^T / s - I ||_F / sqrt(m), m the short side and s the mean of X X^T's diagonal: 0 if all
    singular values are equal, about sqrt(m) if one dominates. Decay is part of an update.
    """
    x = to_stack(leaf, role).astype(jnp.float32)
    _, fan_in, fan_out = stack_shape(leaf, role)
    x = x.mT if fan_in > fan_out else x
    gram, eye = x @ x.mT, jnp.eye(x.shape[1])[None]
    scale = jnp.trace(gram, axis1=1, axis2=2)[:, None, None] / x.shape[1]
    return jnp.linalg.norm(gram / scale - eye, axis=(1, 2)) / x.shape[1] ** 0.5


def _rms(xs) -> jax.Array:
    total = sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in xs)
    return jnp.sqrt(total / sum(x.size for x in xs))
