"""Compute wide, store as told: optimizers run in float32 whatever the parameters' dtype."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from optim.stacks.placement import with_auto_axes

# What the fields of optimizer states hold; `state_dtypes` and `describe` speak of these kinds.
KIND_OF_FIELD = {
    "mu": "momentum",
    "nu": "second_moment",
    "previous_gradient": "previous_gradient",
    "factors": "factor",
    "bases": "basis",
}
STATE_KINDS = tuple(KIND_OF_FIELD.values())


def in_float32(
    inner: optax.GradientTransformation, state_dtypes: Mapping[str, str] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Run `inner` on float32 copies of narrower gradients and parameters; updates get the
    gradients' dtype.

    `state_dtypes` maps a kind of state (one of STATE_KINDS) to the dtype it is stored in
    between steps, for example {"momentum": "bfloat16"}; other state keeps the dtype it is computed
    in.
    """
    inner = optax.with_extra_args_support(inner)
    dtypes = dict(state_dtypes or {})
    if unknown := set(dtypes) - set(STATE_KINDS):
        raise ValueError(f"state_dtypes: {sorted(unknown)} not among {', '.join(STATE_KINDS)}")

    def init(params):
        return _store(inner.init(jax.tree.map(_widen, params)), dtypes)

    def update(updates, state, params=None, **extra_args):
        def run(updates, state, params):
            wide_params = None if params is None else jax.tree.map(_widen, params)
            wide = jax.tree.map(_widen, updates)
            wide, new = inner.update(wide, _load(state, dtypes), wide_params, **extra_args)
            steps = jax.tree.map(lambda u, g: u.astype(g.dtype), wide, updates)
            return steps, _store(new, dtypes)

        return with_auto_axes(run, lambda updates, state, _: (updates, state))(
            updates, state, params
        )

    return optax.GradientTransformationExtraArgs(init, update)


def state_kind(key_path) -> str:
    """The kind of the state leaf at this JAX key path; "other" for counters and keys."""
    fields = (getattr(key, "name", None) for key in key_path)
    return next((KIND_OF_FIELD[name] for name in fields if name in KIND_OF_FIELD), "other")


def _widen(x):
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _store(state, dtypes):
    def narrow(key_path, x):
        return x.astype(dtypes.get(state_kind(key_path), x.dtype))

    return jax.tree.map_with_path(narrow, state) if dtypes else state


def _load(state, dtypes):
    def widen(key_path, x):
        return _widen(x) if state_kind(key_path) in dtypes else x

    return jax.tree.map_with_path(widen, state) if dtypes else state
