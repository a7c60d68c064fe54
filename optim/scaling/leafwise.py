"""A scaling rule for every leaf of a model, in the form that optimizers take."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from optim.assemble import Multipliers, Scaling
from optim.roles import Role, Roles, find_roles, path_name, stack_shape
from optim.scaling.rules import multipliers

# MARS clips its corrected gradient by its size: there epsilon stays as it is.
SEES_SIZES = ("mars",)
# Rules that decay some leaves themselves, where no multiplier reaches.
OWN_DECAY = {"kl_soap": ("weight_decay_kind", "decoupled"), "mars": ("gains_by_adamw", True)}


def leafwise(
    rule: str,
    optimizer: str,
    values: Mapping[str, Any],
    params: optax.Params,
    base: optax.Params,
    *,
    roles: Roles = None,
    depth: float = 1.0,
    batch: float = 1.0,
    tokens: Any = 1.0,
    decay_exponent: float | None = None,
) -> tuple[Scaling, dict[str, float]]:
    """The `scaling=` of `OptimizerSpec.build`, and each leaf's multiplier of its initial deviation.

    Args:
      rule: of `optim.scaling.RULES`.
      optimizer, values: name in the catalogue, and all its options: `name`, `values` of a spec.
      params, base: the model's parameters and the base's, arrays or shapes, the same paths.
      depth, batch, tokens: over the base's, see `multipliers`; `tokens` may be traced.
      decay_exponent: p of independent decay ~ width^-p instead of the rule's own decay; on leaves
        that the rule leaves without decay there is still none.

    Epsilon is moved by dividing the gradients by its multiplier (by the root of it in Shampoo,
    whose epsilon is one of squares): every rule but that of MARS then gives the same direction.

    Raises:
      ValueError: the rule has no answer for this optimizer, or cannot scale a decay that the
        optimizer does itself; parameters that the base lacks.

    Example:
      >>> import jax, optim
      >>> shapes = (jax.ShapeDtypeStruct((n, n), "float32") for n in (8, 4))
      >>> wide, narrow = ({"up": {"kernel": x}} for x in shapes)
      >>> known = optim.spec("adamw", learning_rate=0.01)
      >>> scaling, _ = optim.scaling.leafwise("mup", known.name, known.values, wide, narrow)
      >>> tx = known.build(scaling=scaling)
    """
    options = {
        "weight_decay_kind": values["weight_decay_kind"],
        "scale": values.get("scale"),
        "block_size": values.get("block_size"),
        "exponent": values.get("exponent", 0.25),
        "grafted": values.get("grafting", "none") == "adam",
    }
    option, own = OWN_DECAY.get(optimizer, (None, None))
    if option and values[option] == own:
        raise ValueError(f"rule {rule!r} cannot scale {optimizer}'s own decay: change {option}")
    coupled = values["weight_decay_kind"] != "independent"
    old = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(base)}
    found, stds = {}, {}
    known = jax.tree.leaves(find_roles(params, roles), is_leaf=lambda x: isinstance(x, Role))
    for (key_path, leaf), role in zip(jax.tree.leaves_with_path(params), known, strict=True):
        path = path_name(key_path)
        if path not in old:
            raise ValueError(f"parameter {path!r} is not in the base: {', '.join(old)}")
        sizes = {"depth": depth, "batch": batch, "tokens": tokens}
        shapes = {"shape": leaf.shape, "base": old[path].shape}
        new = multipliers(rule, optimizer=optimizer, role=role, **shapes, **sizes, **options)
        rate, decay, epsilon = (new[n] for n in ("learning_rate", "weight_decay", "epsilon"))
        if decay_exponent is not None and decay:
            side = 2 if role.kind in ("embedding", "gain") else 1  # that grows with the width
            width = stack_shape(leaf, role)[side] / stack_shape(old[path], role)[side]
            decay = width**-decay_exponent / (rate if coupled else 1)
        squares = optimizer == "shampoo" and role.kind != "gain"
        gradient = 1.0 if optimizer in SEES_SIZES else epsilon ** (-0.5 if squares else -1)
        # A leaf's ratio multiplies all its decay; of independent decay it is taken out again.
        found[path] = Multipliers(rate, decay if coupled else decay / rate, gradient)
        stds[path] = new["init_std"]
    return lambda path, _: found[path], stds
