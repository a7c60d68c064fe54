"""When Kron fits its factors, and how to fit a part of a batch at a time."""

import jax
import jax.numpy as jnp

DECAY = 0.001  # of the update probability, per call


def update_probability(n, least, flat_start):
    """p_n of `scale_by_kron`."""
    return jnp.clip(jnp.exp(-DECAY * (n - flat_start)), least, 1.0)


def due_parts(n, parts: int, least, flat_start):
    """Which parts are fitted in call n, (parts,) bool: evenly apart, each p_n of the time."""

    def fits_until(n):  # the integral of p
        fall = jnp.log(1 / least) / DECAY
        falling = jnp.clip(n - flat_start, 0, fall)
        flat = jnp.minimum(n, flat_start) + least * jnp.maximum(n - flat_start - fall, 0)
        return flat + (1 - jnp.exp(-DECAY * falling)) / DECAY

    offsets = jnp.arange(parts) / parts
    return jnp.floor(fits_until(n) + offsets) > jnp.floor(fits_until(n - 1) + offsets)


def in_parts(fn, otherwise, batch, due):
    """`fn(batch)` for the parts that are due, `otherwise(batch)` for the others, one by one.

    Entry i of the leading axis is in part i modulo len(due).
    """
    parts = due.shape[0]
    if parts == 1:
        return fn(batch)
    size = jax.tree.leaves(batch)[0].shape[0]

    def fold(x):
        x = jnp.pad(x, [(0, -size % parts)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    def unfold(x):
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:size]

    one = lambda row: jax.lax.cond(row[0], fn, otherwise, row[1])  # noqa: E731
    return jax.tree.map(unfold, jax.lax.map(one, (due, jax.tree.map(fold, batch))))
