"""Causal attention behind one function: a reference, cuDNN on GPU, splash on TPU.

Letters: B batch, T query positions, S key positions, H heads, K head dimension.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

KEPT = "attention"  # the name, to `jax.checkpoint`, of a kernel's result and normaliser
AUTO = {"cpu": "reference", "gpu": "cudnn", "cuda": "cudnn", "tpu": "splash"}


def attend(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    segment_BT: Array | None,
    *,
    implementation: str,
    window: int = 0,
) -> Array:
    """Softmax(q kᵀ / sqrt(K)) v over this and earlier positions of the same segment, (B, T, H, K).

    Args:
      q_BTHK, k_BTHK, v_BTHK: in the compute dtype, which is the reference softmax's too.
      segment_BT: document index per position, or None to let documents see each other.
      implementation: "reference", "cudnn", "splash", or "auto" for the default platform's.
      window: positions that a query sees, its own among them; 0: all before it.

    Keys and values may have fewer heads, which then serve several queries' each.
    """
    if implementation == "auto":
        implementation = AUTO[jax.default_backend()]
    if (groups := q_BTHK.shape[2] // k_BTHK.shape[2]) > 1:
        k_BTHK, v_BTHK = (jnp.repeat(x, groups, axis=2) for x in (k_BTHK, v_BTHK))
    return IMPLEMENTATIONS[implementation](q_BTHK, k_BTHK, v_BTHK, segment_BT, window)


def visible(T: int, segment_BT: Array | None, window: int = 0) -> Array:
    """Which keys a query may see: causal, in its window, and of its own document. (1 or B, 1, T, S)
    bool."""
    mask_11TS = jnp.tril(jnp.ones((T, T), bool))[None, None]
    if window:
        mask_11TS &= ~jnp.tril(jnp.ones((T, T), bool), -window)[None, None]
    if segment_BT is None:
        return mask_11TS
    return mask_11TS & (segment_BT[:, None, :, None] == segment_BT[:, None, None, :])


def _reference(q_BTHK, k_BTHK, v_BTHK, segment_BT, window):
    T, K = q_BTHK.shape[1], q_BTHK.shape[-1]
    score_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK * K**-0.5, k_BTHK)
    lowest = jnp.finfo(score_BHTS.dtype).min
    score_BHTS = jnp.where(visible(T, segment_BT, window), score_BHTS, lowest)
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(score_BHTS, axis=-1), v_BTHK)


def _cudnn(q_BTHK, k_BTHK, v_BTHK, segment_BT, window):
    mask = None if segment_BT is None else visible(q_BTHK.shape[1], segment_BT)
    options = {"mask": mask, "is_causal": True, "implementation": "cudnn"}
    if window:
        options["local_window_size"] = (window - 1, 0)
    return jax.nn.dot_product_attention(q_BTHK, k_BTHK, v_BTHK, **options)


def _splash(q_BTHK, k_BTHK, v_BTHK, segment_BT, window):
    mesh = jax.sharding.get_abstract_mesh()
    if segment_BT is None:
        segment_BT = jnp.zeros(q_BTHK.shape[:2], jnp.int32)
    local = functools.partial(_splash_local, window=window)
    if not {"data", "model"} <= set(mesh.axis_names):
        return local(q_BTHK, k_BTHK, v_BTHK, segment_BT)
    # The compiler cannot split a kernel: each device attends for its rows and its heads.
    heads, rows = P("data", None, "model"), P("data")
    spread = jax.shard_map(
        local, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False
    )
    return spread(q_BTHK, k_BTHK, v_BTHK, segment_BT)


def _splash_local(q_BTHK, k_BTHK, v_BTHK, segment_BT, *, window=0, interpret=False):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    T, H, K = q_BTHK.shape[1:]
    seen = splash.LocalMask((T, T), (window - 1, 0), 0) if window else splash.CausalMask((T, T))
    mask = splash.MultiHeadMask([seen] * H)
    attend_one = splash.make_splash_mha_single_device(
        mask=mask,
        block_sizes=_tiles(T),
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )
    q_BHTK, k_BHTK, v_BHTK = (x.swapaxes(1, 2) for x in (q_BTHK * K**-0.5, k_BTHK, v_BTHK))
    ids = splash.SegmentIds(q=segment_BT, kv=segment_BT)
    return jax.vmap(attend_one)(q_BHTK, k_BHTK, v_BHTK, ids).swapaxes(1, 2)


def _tiles(T: int):
    """Splash's tiles over T positions: 1,024 by 1,024, worked through 512 keys at a time.

    JAX's default of 128 takes four times the cycles. Positions are minor in memory: a head is 64
    wide, half of the chip's 128 lanes, and what stands around the kernels would pay for the rest.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    tile = _divisor(T, 1024)
    part = _divisor(tile, 512)
    forward = {"block_q": tile, "block_kv": tile, "block_kv_compute": part}
    keys = {"block_q_dkv": tile, "block_kv_dkv": tile, "block_kv_dkv_compute": part}
    queries = {"block_q_dq": tile, "block_kv_dq": tile}
    layouts = dict.fromkeys(("q_layout", "k_layout", "v_layout"), splash.QKVLayout.SEQ_MINOR)
    return splash.BlockSizes(**forward, **keys, **queries, **layouts)


def _divisor(T: int, most: int) -> int:
    """The largest multiple of 128, the chip's lanes, that divides T, `most` at most."""
    sizes = [n for n in range(128, most + 1, 128) if T % n == 0]
    if not sizes:
        raise ValueError(f"splash attention needs a multiple of 128 positions, not {T}")
    return max(sizes)


IMPLEMENTATIONS = {"reference": _reference, "cudnn": _cudnn, "splash": _splash}
