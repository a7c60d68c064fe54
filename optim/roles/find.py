"""The role of every leaf of a tree, found or declared, and what was found in words."""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp

from optim.roles.role import KINDS, Role, RoleFn, Roles, path_name, whole_path
from optim.roles.trees import SCANNED, TREES, components, container, doubt


def find_roles(tree, roles: Roles = None):
    """A tree of `Role` with the structure of `tree`.

    Args:
      roles: a name of `optim.roles.trees.TREES`, None being "flax"; a function of (path, leaf),
        such as `declare` makes; or a tree of `Role` whose paths cover those of `tree`, so that one
        tree of roles also serves masked parts of the parameters.

    Raises:
      ValueError: naming the parameter if its role is missing, doubtful or does not fit its axes.
    """
    role_of = function(roles)

    def find(key_path, leaf):
        path = path_name(key_path)
        whole = whole_path(path)
        role = role_of(whole, leaf)
        if not isinstance(role, Role):
            raise ValueError(f"parameter {path!r} {jnp.shape(leaf)} has no role; got {role!r}")
        return checked(role if whole == path else replace(role, fused=()), path, leaf)

    found = jax.tree.map_with_path(find, tree)
    if roles is None:
        _same_layers(tree)
    return found


def function(roles: Roles) -> RoleFn:
    """`roles` as a function of (path, leaf)."""
    if roles is None or isinstance(roles, str):
        if (name := roles or "flax") not in TREES:
            raise ValueError(f"roles={name!r} is not one of {', '.join(TREES)}")
        return TREES[name]
    if callable(roles):
        return roles
    flat = jax.tree.leaves_with_path(roles, is_leaf=lambda x: isinstance(x, Role))
    table = {path_name(key_path): role for key_path, role in flat}
    return lambda path, leaf: table.get(path)


def declare(declared: Mapping[str, Role], otherwise: Roles = None) -> RoleFn:
    """Roles of some leaves by path, `*` standing for any text; of all others `otherwise`.

    Args:
      declared: {path or pattern: role}; the first that fits counts.
      otherwise: as `roles` of `find_roles`.

    Returns:
      A function of (path, leaf), for `roles=`.

    Example:
      >>> import optim
      >>> head = optim.Role("head", inputs=(0,), outputs=(1,))
      >>> tx = optim.muon(0.02, roles=optim.declare({"*/logits_dense/kernel": head}))
    """
    rest = function(otherwise)

    def role_of(path, leaf):
        fits = (role for name, role in declared.items() if fnmatchcase(path, name))
        return next(fits, None) or rest(path, leaf)

    return role_of


def coverage(params, roles: Roles = None) -> str:
    """What is found for a tree, a line for each kind: leaves, parameters, the first paths."""
    found = find_roles(params, roles)
    rows = jax.tree.leaves_with_path(found, is_leaf=lambda x: isinstance(x, Role))
    sizes = [x.size for x in jax.tree.leaves(params)]
    lines = []
    for kind in KINDS:
        mine = [
            (path_name(key_path), size)
            for (key_path, role), size in zip(rows, sizes, strict=True)
            if role.kind == kind
        ]
        if mine:
            names = ", ".join(path for path, _ in mine[:3]) + (", ..." if len(mine) > 3 else "")
            count = sum(size for _, size in mine)
            leaves = "leaf" if len(mine) == 1 else "leaves"
            lines.append(f"{kind:9} {count:15,} parameters, {len(mine)} {leaves}: {names}")
    return "\n".join(lines)


def _same_layers(tree) -> None:
    """Raises ValueError if leaves of one container of scanned layers differ in their first axis:
    then the layers lie elsewhere."""
    first: dict[str, int] = {}
    for key_path, leaf in jax.tree.leaves_with_path(tree):
        path = path_name(key_path)
        place = container([part.lower() for part in components(path)], SCANNED)
        if place and jnp.ndim(leaf) and first.setdefault(place, leaf.shape[0]) != leaf.shape[0]:
            why = (
                f"is doubtful: leaves below {place!r} have {first[place]} or {leaf.shape[0]} "
                'entries on axis 0, so it is not the layer (on axis 1: roles="maxtext" or "t5x")'
            )
            raise doubt(path, leaf, why)


def checked(role: Role, path: str, leaf) -> Role:
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
    if role.fused and sum(role.fused) != leaf.shape[parts["outputs"][0]]:
        raise ValueError(
            f"parameter {path!r} {leaf.shape}: fused={role.fused} does not sum to its "
            f"{leaf.shape[parts['outputs'][0]]} outputs"
        )
    return replace(role, **parts, heads=heads)
