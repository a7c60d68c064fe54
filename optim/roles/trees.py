"""Names of parameters in the trees of other libraries, and what they mean.

A rule applies to whole components of a path. Where a name or a shape leaves a doubt the answer is
an error that shows the line which declares the leaf, never a guess.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

from optim.roles.role import Kind, Part, Role, RoleFn

WRAPPERS = ("value", "raw_value", "array")  # of NNX variables and haliax arrays


class Row(NamedTuple):
    """Parameters whose path ends in `name` (`*` within a component), and their axes: a letter each
    of b (batch), i (inputs), o (outputs), h (outputs that count heads)."""

    name: str
    kind: Kind
    axes: str
    part: Part | None = None
    fused: int = 1  # equal parts side by side on the outputs


ATTENTION = [
    Row("query/kernel", "matrix", "iho", "query"),
    Row("key/kernel", "matrix", "iho", "key"),
    Row("value/kernel", "matrix", "iho"),
]
GAINS = [
    Row("query/bias", "gain", "oo", "bias"),
    Row("key/bias", "gain", "oo", "bias"),
    Row("value/bias", "gain", "oo", "bias"),
    Row("scale", "gain", "o"),
    Row("bias", "gain", "o", "bias"),
]
MLP = [Row("wi/kernel", "matrix", "io"), Row("wi_*/kernel", "matrix", "io")]
MLP += [Row("wo/kernel", "matrix", "io")]
JOINED = [
    Row("query/kernel", "matrix", "io", "query"),
    Row("key/kernel", "matrix", "io", "key"),
    Row("value/kernel", "matrix", "io"),
    Row("out/kernel", "matrix", "io"),
]
PROJECTIONS = [
    Row("q_proj/kernel", "matrix", "io", "query"),
    Row("k_proj/kernel", "matrix", "io", "key"),
    Row("*_proj/kernel", "matrix", "io"),
]
LEVANTER = [
    Row("embeddings/*_embeddings/weight", "embedding", "io"),
    Row("lm_head/weight", "head", "oi"),
    Row("q_proj/weight", "matrix", "ohoi", "query"),
    Row("k_proj/weight", "matrix", "hoi", "key"),
    Row("v_proj/weight", "matrix", "hoi"),
    Row("o_proj/weight", "matrix", "oii"),
    Row("*_proj/weight", "matrix", "oi"),
    Row("*norm/weight", "gain", "o"),
    Row("q_proj/bias", "gain", "ooo", "bias"),
    Row("k_proj/bias", "gain", "oo", "bias"),
    Row("v_proj/bias", "gain", "oo", "bias"),
    Row("bias", "gain", "o", "bias"),
]
EQUINOX = [
    Row("*embed*/weight", "embedding", "io"),
    Row("head/weight", "head", "oi"),
    Row("*_head/weight", "head", "oi"),
    Row("unembed*/weight", "head", "oi"),
    Row("*norm*/weight", "gain", "o"),
    Row("bias", "gain", "o", "bias"),
    Row("query_proj/weight", "matrix", "oi", "query"),
    Row("key_proj/weight", "matrix", "oi", "key"),
    Row("weight", "matrix", "oi"),
]
SCANNED = ("blocks", "layers", "stack", "scan")  # containers of scanned layers, without a number
# Tables with the axis of scanned layers.
TABLES: dict[str, tuple[Sequence[Row], int]] = {
    "maxtext": (
        [
            Row("token_embedder/embedding", "embedding", "io"),
            Row("position_embedder/embedding", "embedding", "io"),
            Row("logits_dense/kernel", "head", "io"),
            *ATTENTION,
            Row("out/kernel", "matrix", "iio"),
            *MLP,
            Row("gate/kernel", "matrix", "io"),
            Row("*Block_*/wi_*", "matrix", "bio"),
            Row("*Block_*/wo", "matrix", "bio"),
            *GAINS,
        ],
        1,
    ),
    "t5x": (
        [
            Row("token_embedder/embedding", "embedding", "io"),
            Row("relpos_bias/rel_embedding", "embedding", "oi"),
            Row("logits_dense/kernel", "head", "io"),
            *JOINED,
            *MLP,
            *GAINS,
        ],
        1,
    ),
    "nanodo": (
        [
            Row("embed/embedding", "embedding", "io"),
            Row("pos_embed/embedding", "embedding", "io"),
            *ATTENTION,
            Row("attn_out_proj/kernel", "matrix", "iio"),
            Row("Dense_*/kernel", "matrix", "io"),
            *GAINS,
        ],
        0,
    ),
    "hf_flax": (  # Llama, Mistral, GPT-J, BERT: flax Dense
        [
            Row("embed_*/embedding", "embedding", "io"),
            Row("*_embeddings/embedding", "embedding", "io"),
            Row("w[tp]e/embedding", "embedding", "io"),
            Row("lm_head/kernel", "head", "io"),
            *PROJECTIONS,
            *JOINED,
            Row("dense/kernel", "matrix", "io"),
            Row("fc_in/kernel", "matrix", "io"),
            Row("fc_out/kernel", "matrix", "io"),
            Row("*norm/weight", "gain", "o"),
            *GAINS,
        ],
        0,
    ),
    "hf_flax_gpt2": (  # its FlaxConv1D has kernels (outputs, inputs)
        [
            Row("w[tp]e/embedding", "embedding", "io"),
            Row("lm_head/kernel", "head", "io"),
            Row("attn/c_attn/kernel", "matrix", "oi", fused=3),
            Row("c_*/kernel", "matrix", "oi"),
            *GAINS,
        ],
        0,
    ),
    "levanter": (LEVANTER, 0),  # Llama and its kin, haliax Linear with out_first
    "equinox": (EQUINOX, 0),
}
SCANNED_IN_TABLES = (*SCANNED, "stacked", "encoder", "decoder")


def by_table(name: str, path: str, leaf) -> Role:
    """The role of a parameter of a known library, see `TABLES`."""
    rows, layer_axis = TABLES[name]
    parts = components(path)
    for row in rows:
        pattern = row.name.split("/")
        tail = parts[-len(pattern) :]
        if len(tail) < len(pattern) or not all(map(fnmatchcase, tail, pattern)):
            continue
        axes = row.axes
        if leaf.ndim == len(axes) + 1 and container(parts, SCANNED_IN_TABLES):
            axes = axes[:layer_axis] + "b" + axes[layer_axis:]
        if leaf.ndim == len(axes):
            return laid_out(row, axes, leaf)
    raise doubt(path, leaf, f"is not in the table {name!r}")


def laid_out(row: Row, axes: str, leaf) -> Role:
    batch, inputs, heads = (tuple(i for i, a in enumerate(axes) if a == x) for x in "bih")
    outputs = tuple(i for i, a in enumerate(axes) if a in "oh")
    fused = (leaf.shape[outputs[0]] // row.fused,) * row.fused if row.fused > 1 else ()
    return Role(row.kind, batch, inputs, outputs, heads[0] if heads else None, row.part, fused)


def components(path: str) -> list[str]:
    """The components of a path but for wrappers at its end."""
    parts = path.split("/")
    while len(parts) > 1 and parts[-1] in WRAPPERS:
        parts.pop()
    return parts


def container(parts: Sequence[str], names: Sequence[str]) -> str:
    """The path of the container of scanned layers that a parameter is in, "" if there is none."""
    for i, part in enumerate(parts[:-1]):
        if part.lower() in names and not parts[i + 1].isdigit():
            return "/".join(parts[: i + 1])
    return ""


NORM = re.compile(r"(\w+_)?(layer|rms|batch|group)?_?(norm|ln)(_?\d+|_f)?")
VECTOR = re.compile(r"(\w+_)?(scale|gain|bias|gamma|beta)")
EMBEDDING = re.compile(r"([a-z]+_)?embed(ding|dings|der|_tokens|_positions)?(_\d+)?|w[tp]e")
HEAD = re.compile(r"(lm_|output_)?head|unembed(ding)?")
QUERY, KEY = re.compile(r"query|q_proj|wq"), re.compile(r"key|k_proj|wk")
SPLIT_OUTPUTS = re.compile(r"query|key|value|[qkv]_proj|w[qkv]")
SPLIT_INPUTS = re.compile(r"out|o_proj|wo|attn_out_proj")
DOUBTFUL = ("norm", "embed", "head", "logit", "vocab")  # in a name that no pattern above knows


def default_role(path: str, leaf) -> Role:
    """The role of a Flax parameter, linen or NNX, from its path and shape; the default.

    In this order, by whole components: below a container called blocks, layers, stack or scan
    without a number, axis 0 is the layer. A leaf named scale, gain, bias, gamma or beta, or below a
    norm, is a gain, and so is an unscanned leaf with at most one axis. An embedding (or wte, wpe)
    is (vocabulary, features); `head`, `lm_head`, `output_head` or `unembed` (features, vocabulary).
    Two axes are a matrix (in, out). Three axes are an attention projection if the path says so:
    query, key, value (in, heads, head) or out (heads, head, in).

    Raises:
      ValueError: anything else, and names such as `logits_dense` or `normal_proj`.
    """
    parts = [part.lower() for part in components(path)]
    batch = (0,) if container(parts, SCANNED) and leaf.ndim else ()
    axes = tuple(range(len(batch), leaf.ndim))

    def any_is(pattern):
        return any(pattern.fullmatch(part) for part in parts)

    is_vector = VECTOR.fullmatch(parts[-1])
    if is_vector or any_is(NORM) or (len(axes) <= 1 and not batch):
        return Role("gain", batch, (), axes, part="bias" if "bias" in parts[-1] else None)
    head, embedding = any_is(HEAD), any_is(EMBEDDING)
    named = parts[-2:] if parts[-1] in ("kernel", "weight", "w", "embedding") else parts[-1:]
    if not (head or embedding) and any(word in part for part in named for word in DOUBTFUL):
        raise doubt(path, leaf, "may be a matrix or not, by its name")
    if len(axes) == 2 and (head or embedding):
        return Role("head" if head else "embedding", batch, axes[:1], axes[1:])
    part = "query" if any_is(QUERY) else "key" if any_is(KEY) else None
    if len(axes) == 2:
        return Role("matrix", batch, axes[:1], axes[1:], part=part)
    if len(axes) == 3 and any_is(SPLIT_OUTPUTS):
        return Role("matrix", batch, axes[:1], axes[1:], heads=axes[1], part=part)
    if len(axes) == 3 and any_is(SPLIT_INPUTS):
        return Role("matrix", batch, axes[:2], axes[2:])
    layer = " besides the layer axis" if batch else ""
    raise doubt(path, leaf, f"is ambiguous: it has {len(axes)} axes{layer}")


def doubt(path: str, leaf, why: str) -> ValueError:
    """The error for a leaf whose role is not certain, with the line that declares it."""
    kind = "head" if "logit" in path or "vocab" in path else "matrix"
    axes = f"inputs=({leaf.ndim - 2},), outputs=({leaf.ndim - 1},)"
    if leaf.ndim > 2:
        axes = f"batch={tuple(range(leaf.ndim - 2))}, {axes}"
    elif leaf.ndim < 2:
        kind, axes = "gain", f"outputs={tuple(range(leaf.ndim))}"
    line = f'roles=optim.declare({{"{path}": optim.Role("{kind}", {axes})}})'
    what = f"the role of parameter {path!r} {tuple(leaf.shape)} {why}"
    return ValueError(f"{what}; declare it: {line}")


TREES: dict[str, RoleFn] = {"flax": default_role} | {
    name: partial(by_table, name) for name in TABLES
}
