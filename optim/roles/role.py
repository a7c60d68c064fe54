"""What a parameter is, and how its leaf becomes a stack of matrices and comes back."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax

Kind = Literal["matrix", "embedding", "head", "gain"]
Part = Literal["query", "key", "bias"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Role:
    """What a leaf is and what its axes mean.

    kind     "matrix" (a hidden Linear), "embedding" (vocabulary -> features), "head" (features ->
             vocabulary), or "gain" (norm gains, biases and other vectors: not a matrix).
    batch    axes that only repeat the parameter: scanned layers, experts; heads, if each head is to
             be a matrix of its own.
    inputs   axes the layer sums over (embedding: the vocabulary).
    outputs  axes the layer produces.
    heads    the axis that counts attention heads, where the layer's outputs are split by head; else
             None.
    part     "query", "key" or "bias" of a layer, where a rule treats these apart; else None.
    fused    lengths along the first of `outputs` of matrices that lie side by side in this leaf,
             such as query, key and value; each is optimised as a matrix of its own.

    Every axis of the leaf is in exactly one of batch, inputs, outputs; a gain has no inputs.

    Example:
      >>> import optim
      >>> layers = optim.Role("matrix", batch=(0,), inputs=(1,), outputs=(2, 3), heads=2)
      >>> tx = optim.muon(0.02, roles=lambda path, leaf: layers)
    """

    kind: Kind
    batch: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    heads: int | None = None
    part: Part | None = None
    fused: tuple[int, ...] = ()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"role kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.part not in (None, *get_args(Part)):
            raise ValueError(f"role part {self.part!r} is not one of {', '.join(get_args(Part))}")


RoleFn = Callable[[str, Any], Role]  # of a leaf's path and the leaf
PyTree = Any
# What `roles=` accepts everywhere: a name of `optim.roles.trees.TREES`, a function, a tree of Role.
Roles = str | RoleFn | PyTree | None


def to_stack(leaf: jax.Array, role: Role) -> jax.Array:
    """The leaf as (stack, in, out); a gain as (stack, 1, features)."""
    shape = (size(leaf, role.batch), size(leaf, role.inputs), size(leaf, role.outputs))
    return leaf.transpose(role.batch + role.inputs + role.outputs).reshape(shape)


def from_stack(stack: jax.Array, role: Role, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `to_stack` for a leaf of the given shape."""
    order = role.batch + role.inputs + role.outputs
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return stack.reshape([shape[axis] for axis in order]).transpose(inverse)


def stack_shape(leaf, role: Role) -> tuple[int, int, int]:
    """The shape of `to_stack(leaf, role)`."""
    return size(leaf, role.batch), size(leaf, role.inputs), size(leaf, role.outputs)


def size(leaf, axes: tuple[int, ...]) -> int:
    return math.prod(leaf.shape[axis] for axis in axes)


def path_name(key_path) -> str:
    """'blocks/attention/query/kernel' from a JAX key path."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def whole_path(path: str) -> str:
    """The path of the fused leaf that a part's path belongs to; other paths as they are."""
    return re.sub(r"/part\d+$", "", path)
