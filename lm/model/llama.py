"""The Llama of the study (arXiv 2509.02046): RMSNorm before each part, RoPE, SwiGLU, no biases.

Letters: B batch, T positions, V vocabulary, D hidden, L layers, H heads, K head dimension, F MLP
width. Embedding and head are two matrices. Layers are scanned: every block parameter carries a
leading L axis, which `ROLES` declares to the optimizers. Options make it a Llama of 2026: `Shape`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

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
    "blocks/attention_post_norm/scale": ("layers", "norm"),
    "blocks/mlp_post_norm/scale": ("layers", "norm"),
    "blocks/attention/query_norm/scale": ("layers", "norm"),
    "blocks/attention/key_norm/scale": ("layers", "norm"),
    "final_norm/scale": ("norm",),
    "head/kernel": ("embed", "vocab"),
}


class Shape(NamedTuple):
    """What the blocks are made of."""

    heads: int
    mlp: int
    implementation: str = "reference"
    dtype: jnp.dtype = jnp.float32
    kv_heads: int = 0  # heads of keys and values; 0: as many as of queries
    window: int = 0  # positions that attention sees; 0: all
    qk_norm: bool = False  # RMSNorm of each head's query and key, before RoPE (Qwen3)
    post_norm: bool = False  # RMSNorm of what each part adds too (the "hybrid norm" of 2026)
    activation: str = "swiglu"  # or "relu2", without a gate (arXiv 2109.08668)
    residual: float = 1.0  # multiplier of what each part adds


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
    """RMSNorm over the last axis with a gain, eps 1e-5; statistics in the compute dtype, as the
    study ran it."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:]).astype(x.dtype)
        scale = jnp.expand_dims(scale, range(x.ndim - 1))
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(mean_square + 1e-5) * scale


def rope_tables(T: int, K: int, theta: float = 10_000.0) -> tuple[Array, Array]:
    """Cosines and sines (T, K/2) of the angles of every position, fp32."""
    frequency = theta ** (-jnp.arange(0, K, 2, dtype=jnp.float32) / K)
    angle = jnp.arange(T, dtype=jnp.float32)[:, None] * frequency[None, :]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BTHK: Array, tables: tuple[Array, Array]) -> Array:
    """Rotary embedding, half-rotation convention; positions run through the whole window.

    Multiplied in fp32 and rounded once to the compute dtype, as the study did.
    """
    cos, sin = (table[None, :, None, :] for table in tables)
    a, b = jnp.split(x_BTHK, 2, axis=-1)
    turned_BTHK = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned_BTHK.astype(x_BTHK.dtype)


class Attention(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x_BTD: Array, tables, segment_BT: Array | None) -> Array:
        m, D = self.shape, x_BTD.shape[-1]
        H, K = m.heads, D // m.heads

        def project(name, heads):
            return Linear((D, heads, K), "btd,dhk->bthk", D, m.dtype, name=name)(x_BTD)

        keys = m.kv_heads or H
        q, k, v = project("query", H), project("key", keys), project("value", keys)
        if m.qk_norm:
            q, k = RMSNorm(name="query_norm")(q), RMSNorm(name="key_norm")(k)
        q, k = rotate(q, tables), rotate(k, tables)
        how = {"implementation": m.implementation, "window": m.window}
        y_BTHK = attention.attend(q, k, v, segment_BT, **how)
        return Linear((H, K, D), "bthk,hkd->btd", D, m.dtype, name="out")(y_BTHK)


class MLP(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        D, F, dtype = x_BTD.shape[-1], self.shape.mlp, self.shape.dtype
        if self.shape.activation == "swiglu":
            gate_BTF = Linear((D, F), "btd,df->btf", D, dtype, name="gate")(x_BTD)
            up_BTF = Linear((D, F), "btd,df->btf", D, dtype, name="up")(x_BTD)
            inner_BTF = nn.silu(gate_BTF) * up_BTF
        else:
            up_BTF = Linear((D, F), "btd,df->btf", D, dtype, name="up")(x_BTD)
            inner_BTF = jnp.square(nn.relu(up_BTF))
        return Linear((F, D), "btf,fd->btd", F, dtype, name="down")(inner_BTF)


class Block(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x_BTD: Array, tables, segment_BT: Array | None) -> tuple[Array, None]:
        m = self.shape

        def added(y_BTD, name):
            y_BTD = RMSNorm(name=f"{name}_post_norm")(y_BTD) if m.post_norm else y_BTD
            # Sown for `lm.coordinates`; nobody else asks for it.
            self.sow("intermediates", f"{name}_added", y_BTD)
            return y_BTD if m.residual == 1 else y_BTD * m.residual

        attend = Attention(m, name="attention")
        x_BTD += added(
            attend(RMSNorm(name="attention_norm")(x_BTD), tables, segment_BT), "attention"
        )
        x_BTD += added(MLP(m, name="mlp")(RMSNorm(name="mlp_norm")(x_BTD)), "mlp")
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
    vocab_size: int
    blocks: Shape
    separator: int = 256
    block_documents: bool = True
    tied: bool = False
    output: float = 1.0  # multiplier of the logits
    remat: str = "none"
    unroll: bool = False

    @nn.compact
    def __call__(self, tokens_BT: Array) -> tuple[Array, Array]:
        dtype = self.blocks.dtype
        embed = nn.Embed(
            self.vocab_size,
            self.hidden,
            embedding_init=truncated(self.hidden**2),
            dtype=dtype,
            name="embed",
        )
        x_BTD = embed(tokens_BT)
        tables = rope_tables(tokens_BT.shape[1], self.hidden // self.blocks.heads)
        segment_BT = segments(tokens_BT, self.separator) if self.block_documents else None
        block = Block
        if REMAT[self.remat] is not None:
            block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=False)
        blocks = nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.layers,
            unroll=self.layers if self.unroll else 1,
        )
        x_BTD, _ = blocks(self.blocks, name="blocks")(x_BTD, tables, segment_BT)
        x_BTD = RMSNorm(name="final_norm")(x_BTD)
        if self.output != 1:
            x_BTD *= self.output
        if self.tied:  # the same logits at the start as without
            return x_BTD, embed.embedding.astype(dtype).T * self.hidden**0.5
        head_DV = Head((self.hidden, self.vocab_size), name="head")()
        return x_BTD, head_DV.astype(dtype)

    def by_reference(self) -> Llama:
        """The same model with reference attention: any window, and second derivatives."""
        return self.clone(blocks=self.blocks._replace(implementation="reference"))


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
    """The module of a finalised run config, its parametrization not yet applied."""
    m, program = config["model"], config["program"]
    blocks = {name: m[name] for name in Shape._fields if name in m}
    blocks["implementation"] = program["attention"]
    blocks["dtype"] = jnp.dtype(config["train"]["compute_dtype"])
    whole = ("hidden", "layers", "vocab_size", "separator", "block_documents", "tied")
    return Llama(
        blocks=Shape(**blocks),
        remat=program["remat"],
        unroll=program["unroll"],
        **{name: m[name] for name in whole},
    )


def init(model: Llama, key: Array) -> dict:
    """Fresh fp32 parameters, as they are without a parametrization.

    The study drew head and embedding from one key, so that at the start head = sqrt(D) *
    embeddingᵀ; kept, because the loss of the untouched model depends on it.
    """
    plain = model.by_reference()  # kernels do not fit two positions
    params = plain.init(key, jnp.zeros((1, 2), jnp.int32))["params"]
    if model.tied:
        return params
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
    "blocks/attention_post_norm/scale": Role("gain", (0,), (), (1,)),
    "blocks/mlp_post_norm/scale": Role("gain", (0,), (), (1,)),
    "blocks/attention/query_norm/scale": Role("gain", (0,), (), (1,)),
    "blocks/attention/key_norm/scale": Role("gain", (0,), (), (1,)),
    "final_norm/scale": Role("gain", (), (), (0,)),
    "head/kernel": Role("head", (), (0,), (1,)),
}


def role(path: str, leaf: Array) -> Role:
    """What `optim` is told about a parameter of this model."""
    return ROLES[path]
