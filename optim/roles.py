"""What a parameter is (its role) and how a leaf becomes a stack of matrices.

A matrix optimizer sees every leaf as an array of shape (stack, in, out): leading layers and experts
are batch, a product of axes is the input side, another the output side. Which axes are which is
declared by a `Role` per leaf, never guessed from the number of axes alone.

Roles are found by `find_roles`, from a tree of roles, from a function of (path, leaf), or by
`default_role`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

Kind = Literal["matrix", "embedding", "head", "gain"]
Part = Literal["query", "key", "bias"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Role:
    """What a leaf is and what its axes mean.

    kind     "matrix" (a hidden Linear), "embedding" (vocabulary -> features), "head" (features ->
             vocabulary), or "gain" (norm gains, biases and other vectors: not a matrix).
    batch    axes that only repeat the parameter: scanned layers, experts.
    inputs   axes the layer sums over (embedding: the vocabulary).
    outputs  axes the layer produces.
    heads    the axis that counts attention heads, where the layer's outputs are split by head; else
             None.
    part     "query", "key" or "bias" of a layer, where a rule treats these apart; else None.

    Every axis of the leaf is in exactly one of batch, inputs, outputs; a gain has no inputs.
    """

    kind: Kind
    batch: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    heads: int | None = None
    part: Part | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"role kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.part not in (None, *get_args(Part)):
            raise ValueError(f"role part {self.part!r} is not one of {', '.join(get_args(Part))}")


RoleFn = Callable[[str, Any], Role]
Roles = RoleFn | Mapping | Any | None  # what `roles=` accepts everywhere in this package


def to_stack(leaf: jax.Array, role: Role) -> jax.Array:
    """The leaf as (stack, in, out); a gain as (stack, 1, features)."""
    shape = (_size(leaf, role.batch), _size(leaf, role.inputs), _size(leaf, role.outputs))
    return leaf.transpose(role.batch + role.inputs + role.outputs).reshape(shape)


def from_stack(stack: jax.Array, role: Role, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `to_stack` for a leaf of the given shape."""
    order = role.batch + role.inputs + role.outputs
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return stack.reshape([shape[axis] for axis in order]).transpose(inverse)


def stack_shape(leaf, role: Role) -> tuple[int, int, int]:
    """The shape of `to_stack(leaf, role)`."""
    return _size(leaf, role.batch), _size(leaf, role.inputs), _size(leaf, role.outputs)


def find_roles(tree, roles: Roles = None):
    """A tree of `Role` with the structure of `tree`.

    `roles` is None (the default by path and shape), a function of (path, leaf), or a tree of `Role`
    whose paths cover those of `tree`; so one tree of roles also serves masked parts of the
    parameters. Raises ValueError naming the parameter if its role is missing, ambiguous or does not
    fit its axes.
    """
    if roles is None:
        role_of = default_role
    elif callable(roles):
        role_of = roles
    else:
        flat = jax.tree.leaves_with_path(roles, is_leaf=lambda x: isinstance(x, Role))
        table = {path_name(key_path): role for key_path, role in flat}

        def role_of(path, leaf):
            return table.get(path)

    def find(key_path, leaf):
        path = path_name(key_path)
        role = role_of(path, leaf)
        if not isinstance(role, Role):
            raise ValueError(f"parameter {path!r} {jnp.shape(leaf)} has no role; got {role!r}")
        return _checked(role, path, leaf)

    return jax.tree.map_with_path(find, tree)


def path_name(key_path) -> str:
    """'blocks/attention/query/kernel' from a JAX key path."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


# The default, for Flax trees. A container with one of these names and no number holds scanned
# layers, so the first axis of everything below it is the layer; `layers_3` or `layers/3` is one
# layer.
STACKED = re.compile(r"(^|/)(blocks|layers|stack|scan)(/(?!\d)|$)")
EMBEDDING = re.compile(r"embed|(^|/)w[tp]e(/|$)")
HEAD = re.compile(r"(^|/)(lm_|output_)?head(/|$)|unembed")
SPLIT_OUTPUTS = re.compile(r"(^|/)(query|key|value|[qkv]_proj|w[qkv])(/|$)")
SPLIT_INPUTS = re.compile(r"(^|/)(out|o_proj|wo)(/|$)")
QUERY = re.compile(r"(^|/)(query|q_proj|wq)(/|$)")
KEY = re.compile(r"(^|/)(key|k_proj|wk)(/|$)")
VECTOR = re.compile(r"norm|(^|/)(scale|gain|bias|gamma|beta)(/value)?$")


def default_role(path: str, leaf) -> Role:
    """The role of a Flax parameter from its path and shape.

    In this order: below a container called blocks, layers, stack or scan without a number, axis 0
    is the layer. A leaf named scale, gain, bias, gamma or beta, or with `norm` in its path, is a
    gain, and so is an unscanned leaf with at most one axis. A path with `embed` (or wte, wpe) is an
    embedding (vocabulary, features); `head`, `lm_head`, `output_head` or `unembed` a head
    (features, vocabulary). Two axes are a matrix (in, out). Three axes are an attention
    projection if the path says so: query, key, value (in, heads, head) or out (heads, head, in).
    Anything else raises ValueError: give `roles=`.
    """
    name = path.lower()
    batch = (0,) if STACKED.search(name) and leaf.ndim else ()
    axes = tuple(range(len(batch), leaf.ndim))
    if VECTOR.search(name) or (len(axes) <= 1 and not batch):
        return Role("gain", batch, (), axes, part="bias" if "bias" in name else None)
    head, embedding = HEAD.search(name), EMBEDDING.search(name)
    if len(axes) == 2 and (head or embedding):
        return Role("head" if head else "embedding", batch, axes[:1], axes[1:])
    part = "query" if QUERY.search(name) else "key" if KEY.search(name) else None
    if len(axes) == 2:
        return Role("matrix", batch, axes[:1], axes[1:], part=part)
    if len(axes) == 3 and SPLIT_OUTPUTS.search(name):
        return Role("matrix", batch, axes[:1], axes[1:], heads=axes[1], part=part)
    if len(axes) == 3 and SPLIT_INPUTS.search(name):
        return Role("matrix", batch, axes[:2], axes[2:])
    layer = " besides the layer axis" if batch else ""
    raise ValueError(
        f"the role of parameter {path!r} {leaf.shape} is ambiguous: {len(axes)} axes{layer}; "
        "declare its batch, inputs and outputs in roles="
    )


def _checked(role: Role, path: str, leaf) -> Role:
    """The role with negative axes made positive, or an error."""
    ndim = leaf.ndim
    parts = {}
    for name in ("batch", "inputs", "outputs"):
        axes = getattr(role, name)
        if any(not -ndim <= axis < ndim for axis in axes):
            raise ValueError(
                f"parameter {path!r} {leaf.shape}: {name}={axes} is outside its {ndim} axes"
            )
        parts[name] = tuple(axis % ndim for axis in axes)
    if sorted(sum(parts.values(), ())) != list(range(ndim)):
        raise ValueError(
            f"parameter {path!r} {leaf.shape}: batch={role.batch}, inputs={role.inputs}, "
            f"outputs={role.outputs} must name each of its {ndim} axes once"
        )
    if role.kind != "gain" and not (parts["inputs"] and parts["outputs"]):
        raise ValueError(f"parameter {path!r} {leaf.shape}: a {role.kind} needs inputs and outputs")
    if role.kind == "gain" and parts["inputs"]:
        raise ValueError(f"parameter {path!r} {leaf.shape}: a gain has no inputs")
    heads = None if role.heads is None else role.heads % ndim
    if heads is not None and heads not in parts["outputs"]:
        raise ValueError(
            f"parameter {path!r} {leaf.shape}: heads={role.heads} is not one of its outputs"
        )
    return replace(role, **parts, heads=heads)


def _size(leaf, axes: tuple[int, ...]) -> int:
    return math.prod(leaf.shape[axis] for axis in axes)
