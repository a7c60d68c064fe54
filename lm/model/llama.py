"""The Llama of the study (arXiv 2509.02046): RMSNorm before each part, RoPE, SwiGLU, no biases.

Letters: B batch, T positions, V vocabulary, D hidden, L layers, H heads, K head dimension, F MLP
width. Embedding and head are two matrices. Layers are scanned: every block parameter carries a
leading L axis, which `ROLES` declares to the optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from lm.model import attention
from optim.roles import Role

# Logical axis names of each parameter; `lm/run/mesh.py` maps them to mesh axes.
LOGICAL_AXES = {
    "embed/embedding": ("vocab", "embed"),
    "blocks/attention/query/kernel": ("layers", "embed", "heads", "head_dim"),
    "blocks/attention/key/kernel": ("layers", "embed", "heads", "head_dim"),
    "blocks/attention/value/kernel": ("layers", "embed", "heads", "head_dim"),
    "blocks/attention/out/kernel": ("layers", "heads", "head_dim", "embed"),
    "blocks/mlp/gate/kernel": ("layers", "embed", "mlp"),
    "blocks/mlp/up/kernel": ("layers", "embed", "mlp"),
    "blocks/mlp/down/kernel": ("layers", "mlp", "embed"),
    "blocks/attention_norm/scale": ("layers", "norm"),
    "blocks/mlp_norm/scale": ("layers", "norm"),
    "final_norm/scale": ("norm",),
    "head/kernel": ("embed", "vocab"),
}


def truncated(fan_in: float) -> Callable:
    """Normal cut at three sigma, over sqrt(fan_in); not rescaled for the cut (haliax)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.truncated_normal(key, -3.0, 3.0, shape, dtype) * fan_in**-0.5

    return init


class Linear(nn.Module):
    """x_...I -> y_...O as an einsum; the kernel keeps its axes, so that optimizers see heads."""

    shape: tuple[int, ...]
    einsum: str
    fan_in: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", truncated(self.fan_in), self.shape)
        return jnp.einsum(self.einsum, x, kernel.astype(self.dtype))


class RMSNorm(nn.Module):
    """RMSNorm with a gain, eps 1e-5; statistics in the compute dtype, as the study ran it."""

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        scale_D = self.param("scale", nn.initializers.ones, x_BTD.shape[-1:])
        mean_square_BT1 = jnp.mean(jnp.square(x_BTD), axis=-1, keepdims=True)
        return (
            x_BTD * jax.lax.rsqrt(mean_square_BT1 + 1e-5) * scale_D[None, None].astype(x_BTD.dtype)
        )


def rope_tables(T: int, K: int, dtype: jnp.dtype, theta: float = 10_000.0) -> tuple[Array, Array]:
    """Cosines and sines (T, K/2) of the angles of every position, rounded from fp32."""
    frequency = theta ** (-jnp.arange(0, K, 2, dtype=jnp.float32) / K)
    angle = jnp.arange(T, dtype=jnp.float32)[:, None] * frequency[None, :]
    return jnp.cos(angle).astype(dtype), jnp.sin(angle).astype(dtype)


def rotate(x_BTHK: Array, tables: tuple[Array, Array]) -> Array:
    """Rotary embedding, half-rotation convention; positions run through the whole window."""
    cos, sin = (table[None, :, None, :] for table in tables)
    a, b = jnp.split(x_BTHK, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class Attention(nn.Module):
    heads: int
    implementation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: Array, tables, segment_BT: Array | None) -> Array:
        D, H = x_BTD.shape[-1], self.heads
        K = D // H

        def project(name):
            return Linear((D, H, K), "btd,dhk->bthk", D, self.dtype, name=name)(x_BTD)

        q, k, v = rotate(project("query"), tables), rotate(project("key"), tables), project("value")
        y_BTHK = attention.attend(q, k, v, segment_BT, implementation=self.implementation)
        return Linear((H, K, D), "bthk,hkd->btd", D, self.dtype, name="out")(y_BTHK)


class MLP(nn.Module):
    mlp: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        D, F = x_BTD.shape[-1], self.mlp
        gate_BTF = Linear((D, F), "btd,df->btf", D, self.dtype, name="gate")(x_BTD)
        up_BTF = Linear((D, F), "btd,df->btf", D, self.dtype, name="up")(x_BTD)
        return Linear((F, D), "btf,fd->btd", F, self.dtype, name="down")(nn.silu(gate_BTF) * up_BTF)


class Block(nn.Module):
    heads: int
    mlp: int
    implementation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: Array, tables, segment_BT: Array | None) -> tuple[Array, None]:
        attend = Attention(self.heads, self.implementation, self.dtype, name="attention")
        x_BTD += attend(RMSNorm(name="attention_norm")(x_BTD), tables, segment_BT)
        x_BTD += MLP(self.mlp, self.dtype, name="mlp")(RMSNorm(name="mlp_norm")(x_BTD))
        return x_BTD, None


# What a block keeps for its backward pass besides its input; always the result of an attention
# kernel, which takes little memory and much time.
_KERNELS = jax.checkpoint_policies.save_only_these_names(attention.KEPT)
_PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
REMAT = {
    "none": None,
    "block": _KERNELS,
    "dots": jax.checkpoint_policies.save_from_both_policies(_PRODUCTS, _KERNELS),
}


class Llama(nn.Module):
    """tokens_BT -> (x_BTD after the final norm, head_DV), which `lm/model/loss.py` multiplies."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    vocab_size: int
    separator: int = 256
    block_documents: bool = True
    dtype: jnp.dtype = jnp.float32
    implementation: str = "reference"
    remat: str = "none"
    unroll: bool = False

    @nn.compact
    def __call__(self, tokens_BT: Array) -> tuple[Array, Array]:
        embed = nn.Embed(
            self.vocab_size,
            self.hidden,
            embedding_init=truncated(self.hidden**2),
            dtype=self.dtype,
            name="embed",
        )
        x_BTD = embed(tokens_BT)
        tables = rope_tables(tokens_BT.shape[1], self.hidden // self.heads, self.dtype)
        segment_BT = segments(tokens_BT, self.separator) if self.block_documents else None
        block = Block
        if REMAT[self.remat] is not None:
            block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=False)
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.layers,
            unroll=self.layers if self.unroll else 1,
        )
        x_BTD, _ = blocks(self.heads, self.mlp, self.implementation, self.dtype, name="blocks")(
            x_BTD, tables, segment_BT
        )
        x_BTD = RMSNorm(name="final_norm")(x_BTD)
        head_DV = Head((self.hidden, self.vocab_size), name="head")()
        return x_BTD, head_DV.astype(self.dtype)


class Head(nn.Module):
    """The output matrix alone: the loss decides how much of the logits exists at a time."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", truncated(self.shape[0]), self.shape)


def segments(tokens_BT: Array, separator: int) -> Array:
    """Document index of each position; a separator belongs to the document that it ends."""
    ended_BT = jnp.cumsum(tokens_BT == separator, axis=-1, dtype=jnp.int32)
    return jnp.pad(ended_BT[:, :-1], ((0, 0), (1, 0)))


def build(config: Mapping) -> Llama:
    """The module of a finalised run config."""
    m, program = config["model"], config["program"]
    return Llama(
        hidden=m["hidden"],
        layers=m["layers"],
        heads=m["heads"],
        mlp=m["mlp"],
        vocab_size=m["vocab_size"],
        separator=m["separator"],
        block_documents=m["block_documents"],
        dtype=jnp.dtype(config["train"]["compute_dtype"]),
        implementation=program["attention"],
        remat=program["remat"],
        unroll=program["unroll"],
    )


def init(model: Llama, key: Array) -> dict:
    """Fresh fp32 parameters.

    The study drew head and embedding from one key, so that at the start head = sqrt(D) *
    embeddingᵀ; kept, because the loss of the untouched model depends on it.
    """
    plain = model.clone(implementation="reference")  # kernels do not fit a window of two
    params = plain.init(key, jnp.zeros((1, 2), jnp.int32))["params"]
    table_VD = params["embed"]["embedding"]
    return {**params, "head": {"kernel": table_VD.T * model.hidden**0.5}}


ROLES = {
    "embed/embedding": Role("embedding", (), (0,), (1,)),
    "blocks/attention/query/kernel": Role("matrix", (0,), (1,), (2, 3), heads=2, part="query"),
    "blocks/attention/key/kernel": Role("matrix", (0,), (1,), (2, 3), heads=2, part="key"),
    "blocks/attention/value/kernel": Role("matrix", (0,), (1,), (2, 3), heads=2),
    "blocks/attention/out/kernel": Role("matrix", (0,), (1, 2), (3,)),
    "blocks/mlp/gate/kernel": Role("matrix", (0,), (1,), (2,)),
    "blocks/mlp/up/kernel": Role("matrix", (0,), (1,), (2,)),
    "blocks/mlp/down/kernel": Role("matrix", (0,), (1,), (2,)),
    "blocks/attention_norm/scale": Role("gain", (0,), (), (1,)),
    "blocks/mlp_norm/scale": Role("gain", (0,), (), (1,)),
    "final_norm/scale": Role("gain", (), (), (0,)),
    "head/kernel": Role("head", (), (0,), (1,)),
}


def role(path: str, leaf: Array) -> Role:
    """What `optim` is told about a parameter of this model."""
    return ROLES[path]
