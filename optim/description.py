"""What an optimizer will do to these parameters, before it runs."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import optax

from optim.catalogue import OptimizerSpec, get, spec
from optim.roles import Role, Roles, find_roles, path_name, split_fused
from optim.stacks.dtypes import state_kind

ELEMENTWISE_FLOPS = 15  # per parameter and step, about: two moments, a root, a division, decay


@dataclass(frozen=True)
class Description:
    """Roles and shapes by path, state bytes by kind of state (`optim.stacks.dtypes.STATE_KINDS` and
    "other"), the number of parameters, and the FLOPs of one update over all devices, if known.
    """

    name: str
    roles: dict[str, Role]
    shapes: dict[str, tuple[int, ...]]
    state_bytes: dict[str, int]
    parameters: int
    flops: float | None

    def __str__(self):
        width = max(map(len, self.roles), default=0)
        lines = [
            f"{path:{width}}  {role.kind:9}  {_axes(role, self.shapes[path])}"
            for path, role in self.roles.items()
        ]
        total = sum(self.state_bytes.values())
        kinds = ", ".join(f"{kind} {size:,}" for kind, size in self.state_bytes.items())
        per = total / max(self.parameters, 1)
        lines.append(f"{self.name}: {self.parameters:,} parameters")
        lines.append(f"state {total:,} bytes, {per:.2f} per parameter ({kinds})")
        if self.flops is not None:
            lines.append(f"update {self.flops:.4g} FLOPs")
        return "\n".join(lines)


def describe(
    optimizer: str | OptimizerSpec | optax.GradientTransformation,
    params: optax.Params,
    *,
    roles: Roles = None,
    **values: Any,
) -> Description:
    """Role of every leaf, state bytes by kind and FLOPs of one update.

    Args:
      optimizer: a specification; a name, which `**values` (`preset` too) complete as in
        `optim.spec`; or any transformation.
      params: arrays, or shapes and dtypes (`jax.eval_shape`): nothing is allocated.
      roles: as for `optim.build`.

    Returns:
      A `Description`; print it for a table. FLOPs are analytic: matrix products of the rule (a
      multiply and an add are two), refreshes spread over the steps between them, plus about 15
      elementwise operations per parameter. Those of a transformation are not known.

    Raises:
      ValueError: naming a leaf whose role is not known.

    Example:
      >>> import optim
      >>> import jax.numpy as jnp
      >>> params = {"up": {"kernel": jnp.ones((4, 8))}}
      >>> print(optim.describe(optim.lion(learning_rate=0.01), params))
      up/kernel  matrix     (4 -> 8)
      transformation: 32 parameters
      state 140 bytes, 4.38 per parameter (other 12, momentum 128)
    """
    known = spec(optimizer, **values) if isinstance(optimizer, str) else optimizer
    is_spec = isinstance(known, OptimizerSpec)
    tx = known.build(roles=roles, learning_rate=1.0) if is_spec else known
    state = jax.tree.leaves_with_path(jax.eval_shape(tx.init, params))
    state_bytes: dict[str, int] = {}
    for key_path, x in state:
        kind = state_kind(key_path)
        state_bytes[kind] = state_bytes.get(kind, 0) + x.size * x.dtype.itemsize
    leaves = jax.tree.leaves_with_path(params)
    found = jax.tree.leaves(find_roles(params, roles), is_leaf=lambda x: isinstance(x, Role))
    paths = [path_name(key_path) for key_path, _ in leaves]
    return Description(
        known.name if is_spec else "transformation",
        dict(zip(paths, found, strict=True)),
        {path: x.shape for path, (_, x) in zip(paths, leaves, strict=True)},
        state_bytes,
        sum(math.prod(x.shape) for _, x in leaves),
        _flops(known, params, roles) if is_spec else None,
    )


def _flops(known: OptimizerSpec, params, roles: Roles) -> float:
    parts = jax.eval_shape(lambda p: split_fused(p, roles), params)
    leaves = jax.tree.leaves(parts)
    total = sum(ELEMENTWISE_FLOPS * x.size for x in leaves)
    if of_matrices := get(known.name).flops:
        found = jax.tree.leaves(find_roles(parts, roles), is_leaf=lambda x: isinstance(x, Role))
        pairs = zip(leaves, found, strict=True)
        total += sum(of_matrices(role, x, known.values) for x, role in pairs)
    return float(total)


def _axes(role: Role, shape) -> str:
    """'32 x (512 -> 2048)' for a stack of matrices, '32 x 512' for a gain."""
    sizes = [
        tuple(shape[axis] for axis in axes) for axes in (role.batch, role.inputs, role.outputs)
    ]
    batch, inputs, outputs = (" ".join(map(str, size)) for size in sizes)
    matrix = f"({inputs} -> {outputs})" if inputs else f"({outputs})"
    return f"{batch} x {matrix}" if batch else matrix
