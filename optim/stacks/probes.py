"""Random probes that depend on a key, the step and the parameter's path, and on nothing else.

So they are the same for any mesh, any order of the leaves, and whatever other leaves there are.
"""

import itertools
import math
import zlib

import jax
import jax.numpy as jnp

from optim.roles import path_name

IMPLEMENTATION = "threefry2x32"  # the same numbers whatever jax_default_prng_impl is
CHUNK = 1024
SMALL = 2**20


def probe_key(seed) -> jax.Array:
    """A key for an optimizer's state: (2,) uint32, a plain array that any checkpoint can hold."""
    return jax.random.key_data(jax.random.key(seed, impl=IMPLEMENTATION))


def gaussian_like(tree, key_data: jax.Array, step):
    """Standard normal numbers with the shapes and dtypes of `tree`.

    Leaves of up to SMALL entries are drawn together in chunks of CHUNK, because a generator for
    each takes seconds to compile; larger ones by themselves, so that a mesh can share them out.
    """
    leaves, treedef = jax.tree.flatten(tree)
    if not leaves:
        return tree
    paths = [zlib.crc32(path_name(p).encode()) for p, _ in jax.tree.leaves_with_path(tree)]
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data, impl=IMPLEMENTATION), step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array(paths, jnp.uint32))
    drawn = [None] * len(leaves)
    together: dict = {}
    for i, x in enumerate(leaves):
        if x.size == 0:
            drawn[i] = jnp.zeros(x.shape, x.dtype)
        elif x.size > SMALL:
            drawn[i] = jax.random.normal(keys[i], x.shape, x.dtype)
        else:
            together.setdefault(x.dtype, []).append(i)
    for dtype, members in together.items():
        chunks = [math.ceil(leaves[i].size / CHUNK) for i in members]
        owners = jnp.array([i for i, n in zip(members, chunks, strict=True) for _ in range(n)])
        numbers = jnp.array([number for n in chunks for number in range(n)], jnp.uint32)
        chunk_keys = jax.vmap(jax.random.fold_in)(keys[owners], numbers)
        rows = jax.vmap(lambda k, d=dtype: jax.random.normal(k, (CHUNK,), d))(chunk_keys)
        for i, end, n in zip(members, itertools.accumulate(chunks), chunks, strict=True):
            mine = rows[end - n : end].reshape(-1)[: leaves[i].size]
            drawn[i] = mine.reshape(leaves[i].shape)
    return treedef.unflatten(drawn)
