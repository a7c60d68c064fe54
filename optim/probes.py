"""Random probes that depend on a key, the step and the parameter's path, and on nothing else.

So they are the same for any mesh, any order of the leaves, and whatever other leaves there are.
"""

import zlib

import jax
import jax.numpy as jnp

from optim.matrices import path_name

IMPLEMENTATION = "threefry2x32"  # the same numbers whatever jax_default_prng_impl is


def probe_key(seed) -> jax.Array:
    """A key for an optimizer's state: (2,) uint32, a plain array that any checkpoint can hold."""
    return jax.random.key_data(jax.random.key(seed, impl=IMPLEMENTATION))


def gaussian_like(tree, key_data: jax.Array, step):
    """Standard normal numbers with the shapes and dtypes of `tree`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data, impl=IMPLEMENTATION), step)

    def draw(key_path, x):
        of_leaf = jax.random.fold_in(key, zlib.crc32(path_name(key_path).encode()))
        return jax.random.normal(of_leaf, jnp.shape(x), x.dtype)

    return jax.tree.map_with_path(draw, tree)
