"""Next-token cross-entropy in fp32, without ever holding all logits when asked to go in chunks."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P


class Loss(NamedTuple):
    """Sums over the predicted positions, fp32 scalars; divide by `count` for nats per token."""

    nats: Array  # cross-entropy
    z: Array  # squared log-partition: the z-loss before its weight, reported apart
    count: Array


LOGITS_BYTES = 2**30  # what one device may hold of them; every chunk rewrites the head's gradient


def chunk_count(rows: int, T: int, vocab: int, itemsize: int = 2) -> int:
    """The fewest chunks, a divisor of T, in which a device's logits take `LOGITS_BYTES` at most.

    Args:
      rows, vocab: sequences and tokens of the vocabulary that one device works on.
      itemsize: bytes of the compute dtype.
    """
    least = rows * T * vocab * itemsize / LOGITS_BYTES
    return next(n for n in range(1, T + 1) if T % n == 0 and (n >= least or n == T))


@jax.named_scope("loss")
def next_token(
    x_BTD: Array,
    head_DV: Array,
    tokens_BT: Array,
    weight_B: Array | None = None,
    *,
    chunks: int = 0,
) -> Loss:
    """Cross-entropy of every position's successor; the last position of each sequence predicts
    nothing.

    Args:
      x_BTD: outputs of the final norm, in the compute dtype.
      head_DV: output matrix, in the compute dtype.
      tokens_BT: int32.
      weight_B: fp32, of each row in the sums; 1 if not given.
      chunks: pieces along T whose logits are made one after the other and made again in the
        backward pass; temporary memory falls by that factor. Must divide T; 0 takes `chunk_count`.
    """
    B, T = tokens_BT.shape
    axes = jax.sharding.get_abstract_mesh().shape
    rows, columns = axes.get("data", 1), axes.get("model", 1)
    if chunks == 0:
        local = math.ceil(B / rows), T, math.ceil(head_DV.shape[1] / columns)
        chunks = chunk_count(*local, head_DV.dtype.itemsize)
    target_BT = jnp.roll(tokens_BT, -1, axis=1)
    weight_T = (jnp.arange(T) < T - 1).astype(jnp.float32)
    total = functools.partial(_in_chunks, weight_T=weight_T, chunks=chunks)
    if rows == 1 or B % rows:
        return total(x_BTD, head_DV, target_BT, weight_B)

    # Left to the compiler, every chunk would gather the head and reduce its gradient. Here each
    # device gathers once, sums the gradient of its own rows over the chunks, and reduces once.
    def local(x_BTD, head_DV, target_BT, weight_B):
        head_DV = jax.lax.pcast(head_DV, "data", to="varying")
        return jax.lax.psum(total(x_BTD, head_DV, target_BT, weight_B), "data")

    specs = (P("data"), P(), P("data"), P("data"))
    spread = jax.shard_map(local, in_specs=specs, out_specs=P(), axis_names={"data"})
    return spread(x_BTD, head_DV, target_BT, weight_B)


def _in_chunks(x_BTD, head_DV, target_BT, weight_B, *, weight_T, chunks) -> Loss:
    if chunks == 1:
        return _chunk(x_BTD, head_DV, target_BT, weight_B, weight_T)

    def split(a, axis):
        a = a.reshape(*a.shape[:axis], chunks, -1, *a.shape[axis + 1 :])
        return jnp.moveaxis(a, axis, 0)

    dtype, head_DV = head_DV.dtype, head_DV.astype(jnp.float32)  # gradients are summed in fp32

    @jax.checkpoint
    def body(_, piece):
        x_BTD, target_BT, weight_T = piece
        return None, _chunk(x_BTD, head_DV.astype(dtype), target_BT, weight_B, weight_T)

    pieces = (split(x_BTD, 1), split(target_BT, 1), split(weight_T, 0))
    return jax.tree.map(jnp.sum, jax.lax.scan(body, None, pieces)[1])


def _chunk(x_BTD, head_DV, target_BT, weight_B, weight_T) -> Loss:
    # Rounded to the compute dtype, as the study did, and then fp32.
    product = functools.partial(jnp.einsum, preferred_element_type=head_DV.dtype)
    logits_BTV = product("btd,dv->btv", x_BTD, head_DV).astype(jnp.float32)
    log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_logit_BT = jax.lax.platform_dependent(
        logits_BTV, target_BT, cpu=_gathered, default=_summed
    )
    weight_BT = jnp.broadcast_to(weight_T[None, :], target_BT.shape)
    if weight_B is not None:
        weight_BT *= weight_B[:, None]
    return Loss(
        nats=jnp.sum((log_z_BT - target_logit_BT) * weight_BT),
        z=jnp.sum(jnp.square(log_z_BT) * weight_BT),
        count=jnp.sum(weight_BT),
    )


def _gathered(logits_BTV: Array, target_BT: Array) -> Array:
    return jnp.take_along_axis(logits_BTV, target_BT[..., None], axis=-1)[..., 0]


def _summed(logits_BTV: Array, target_BT: Array) -> Array:
    """The same, fused into the pass over the logits: an accelerator that gathers from them must
    hold them in fp32 and scatters their gradient.
    """
    at_target_BTV = jnp.arange(logits_BTV.shape[-1])[None, None] == target_BT[..., None]
    return jnp.sum(jnp.where(at_target_BTV, logits_BTV, 0.0), axis=-1)
