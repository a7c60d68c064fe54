"""What every optimizer shares around its rule: clip, weight decay, learning rate."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import sphere
from optim.entry import Number
from optim.roles import KINDS, Kind, Role, Roles, find_roles, path_name
from optim.stacks.dtypes import STATE_KINDS, in_float32

StateKind = Literal[STATE_KINDS]
Dtype = Literal["bfloat16", "float16", "float32", "float64"]
WeightDecay = Literal["decoupled", "independent", "corrected", "cautious"]


class Multipliers(NamedTuple):
    """What a scaling rule makes of one leaf, see `optim.scaling.leafwise`."""

    learning_rate: Any = 1.0
    weight_decay: Any = 1.0  # beside the learning rate; of "independent" decay alone
    gradient: Any = 1.0  # before the rule, whose epsilon is divided by it so


Mask = Any  # a tree of bools, a function of the parameters to one, or None, see `of_kinds`
Scaling = Callable[[str, Any], Multipliers] | None  # of a leaf's path and the leaf


def finish(
    rule: optax.GradientTransformation,
    learning_rate: Number,
    weight_decay: Number = 0.0,
    max_grad_norm: Number = 0.0,
    ratios: Mapping[Kind, Any] | None = None,
    constrained: tuple[Kind, ...] = (),
    last: optax.GradientTransformation | None = None,
    *,
    roles: Roles = None,
    clipped: tuple[Kind, ...] = KINDS,
    decayed: tuple[Kind, ...] = KINDS,
    weight_decay_mask: Mask = None,
    weight_decay_kind: WeightDecay = "decoupled",
    state_dtypes: Mapping[StateKind, Dtype] | None = None,
    matrix_lr: Number = 1.0,
    embedding_lr: Number = 1.0,
    head_lr: Number = 1.0,
    gain_lr: Number = 1.0,
    scaling: Scaling = None,
) -> optax.GradientTransformationExtraArgs:
    """The whole optimizer: clip, `rule`, decay, learning rate, computed in float32 or wider.

    Each step, with g the gradients and w the parameters before the step,

        u = rule(clip(g));   w <- w - learning_rate_t * ratio_kind * (u + weight_decay * w)

    Args:
      rule: maps gradients to the (positive) update direction u.
      learning_rate: number, array or schedule; a schedule sees 0 at the first update.
      weight_decay: decay of the leaves whose kind is in `decayed`, and of these, if there is a
        `weight_decay_mask`, where that is true (see `of_kinds`).
      max_grad_norm: gradients of the kinds in `clipped` are scaled down to this global norm, taken
        over all of them together; 0 is off.
      ratios: the rule's own learning-rate ratio by kind; 1 where not given.
      constrained: kinds of leaves that keep their norm, see `optim.sphere`; they do not decay.
      last: acts on the finished steps, such as `optim.averaging.average_iterates`.
      roles: see `optim.roles.find_roles`.
      clipped, decayed: kinds of leaves (static).
      weight_decay_kind: see `descend` (static).
      state_dtypes: storage dtype by kind of state, see `optim.stacks.dtypes` (static).
      matrix_lr, embedding_lr, head_lr, gain_lr: further ratio of a kind's learning rate.
      scaling: multipliers of each leaf, of a scaling rule; None: none.

    Returns:
      An `optax.GradientTransformationExtraArgs`, whose `update` needs `params`.

    Raises:
      ValueError: an unknown kind of state; in `init` and `update`, a leaf whose role is not known,
        a mask that does not fit, `update` without `params`.

    Example:
      >>> import optax, optim
      >>> rule = optax.chain(optim.scale_by_adamw(beta2=0.95), optax.clip(1.0))
      >>> tx = optim.finish(rule, learning_rate=0.01, weight_decay=0.1, decayed=("matrix", "head"))
    """
    rates = {"matrix": matrix_lr, "embedding": embedding_lr, "head": head_lr, "gain": gain_lr}
    chain = optax.chain(
        clip_by_norm(max_grad_norm, clipped, roles=roles),
        *([scale_gradients(scaling)] if scaling else []),
        rule,
        descend(
            learning_rate,
            weight_decay,
            {kind: (ratios or {}).get(kind, 1) * rate for kind, rate in rates.items()},
            constrained,
            roles=roles,
            decayed=decayed,
            mask=weight_decay_mask,
            kind=weight_decay_kind,
            scaling=scaling,
        ),
        *([last] if last else []),
    )
    return in_float32(chain, state_dtypes)


def clip_by_norm(
    max_norm, kinds: tuple[Kind, ...] = KINDS, *, roles: Roles = None
) -> optax.GradientTransformationExtraArgs:
    """Scale the gradients of some kinds of leaves so that their joint norm is at most `max_norm`.

    As `optax.clip_by_global_norm` on those leaves, but `max_norm` may be traced and 0 switches it
    off. A norm that overflows float32 gives zero gradients; NaN passes through.
    """
    if not kinds or (isinstance(max_norm, int | float) and max_norm == 0):
        return optax.with_extra_args_support(optax.identity())

    def update(updates, state, params=None, **_):
        del params
        chosen = of_kinds(updates, kinds, roles)
        if not any(jax.tree.leaves(chosen)):
            return updates, state
        picked = jax.tree.map(lambda g, c: g if c else jnp.zeros((), g.dtype), updates, chosen)
        norm = optax.tree.norm(picked)
        keep = (norm < max_norm) | (max_norm == 0)

        def clip(g, is_chosen):
            return jnp.where(keep, g, g / norm * max_norm).astype(g.dtype) if is_chosen else g

        return jax.tree.map(clip, updates, chosen), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def scale_gradients(scaling: Scaling) -> optax.GradientTransformation:
    """Gradients times their leaf's multiplier."""

    def scale(updates):
        return jax.tree.map_with_path(
            lambda path, g: g * scaling(path_name(path), g).gradient, updates
        )

    return optax.stateless(lambda updates, _: scale(updates))


class DescendState(NamedTuple):
    count: jax.Array  # () int32, updates made
    learning_rate: jax.Array  # () float32, of the last update
    radius: Any = ()  # of the constrained leaves, see optim.sphere.radii; () if there are none


def descend(
    learning_rate,
    weight_decay=0.0,
    ratios: Mapping[Kind, Any] | None = None,
    constrained: tuple[Kind, ...] = (),
    *,
    roles: Roles = None,
    decayed: tuple[Kind, ...] = KINDS,
    mask: Mask = None,
    kind: WeightDecay = "decoupled",
    scaling: Scaling = None,
) -> optax.GradientTransformationExtraArgs:
    """Directions u to steps: -lr_t * ratio * (u + decay), with decay from the parameters before the
    step.

    decay, for leaves as `of_kinds` chooses them by `decayed` and `mask`, with lambda =
    `weight_decay` and peak the largest lr_t:

      "decoupled"    lambda w                            AdamW as everybody runs it (optax, torch)
      "independent"  lambda w / peak                     AdamW as its paper has it (1711.05101)
      "corrected"    lambda w lr_t / peak                AdamC (arXiv 2506.02285)
      "cautious"     lambda w where u w >= 0, else 0     cautious weight decay (arXiv 2510.12402)

    Leaves whose kind is in `constrained` take the step of `optim.sphere` instead, without decay.
    A learning rate with an `auxiliary` (`optim.schedules.Schedule`) is that for all but matrices.
    With `scaling` a leaf's ratio and lambda are multiplied by its multipliers.
    """

    def init(params):
        radius = sphere.radii(params, constrained, roles=roles) if constrained else ()
        return DescendState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), radius)

    def update(updates, state, params=None, **_):
        if params is None:
            raise ValueError("weight decay needs params: call update(grads, state, params)")
        lr = learning_rate(state.count) if callable(learning_rate) else learning_rate
        auxiliary = getattr(learning_rate, "auxiliary", lambda _: lr)(state.count)
        strength = {
            "independent": lambda rate: weight_decay / peak(learning_rate),
            "corrected": lambda rate: weight_decay * rate / peak(learning_rate),
        }.get(kind, lambda rate: weight_decay)

        def step(key_path, u, w, role: Role, decays: bool, radius=None):
            rate = lr if role.kind == "matrix" else auxiliary
            leaf = scaling(path_name(key_path), w) if scaling else Multipliers()
            ratio = (ratios or {}).get(role.kind, 1) * leaf.learning_rate
            if role.kind in constrained:
                return sphere.step(w, u, rate * ratio, radius, role).astype(w.dtype)
            if decays:
                decay = strength(rate) * leaf.weight_decay * w
                u = u + (jnp.where(u * w >= 0, decay, 0) if kind == "cautious" else decay)
            return (-rate * ratio * u).astype(w.dtype)

        rows = [
            updates,
            params,
            find_roles(updates, roles),
            of_kinds(updates, decayed, roles, mask),
        ]
        steps = jax.tree.map_with_path(step, *rows, *([state.radius] if constrained else []))
        used = jnp.asarray(lr, jnp.float32)
        return steps, DescendState(optax.safe_increment(state.count), used, state.radius)

    return optax.GradientTransformationExtraArgs(init, update)


def peak(learning_rate):
    """The largest learning rate: of a number itself, of a schedule its `peak`."""
    found = getattr(learning_rate, "peak", learning_rate)
    if callable(found):
        raise ValueError(
            "this weight_decay_kind needs a schedule with a `peak`: optim.schedules.Schedule"
        )
    return found


def of_kinds(tree, kinds: tuple[Kind, ...], roles: Roles = None, mask: Mask = None):
    """A tree of bools: which leaves have one of these kinds, and are true in the mask if there is
    one.

    Args:
      mask: as in optax, a tree of bools like `tree` or a prefix of it, or a function from `tree`
        to such a one.

    Raises:
      ValueError: a mask of another structure.
    """
    found = jax.tree.map(lambda _, role: role.kind in kinds, tree, find_roles(tree, roles))
    if mask is None:
        return found

    def below(is_on, leaves):
        return jax.tree.map(lambda of_kind: bool(is_on) and of_kind, leaves)

    try:
        return jax.tree.map(below, mask(tree) if callable(mask) else mask, found)
    except (ValueError, TypeError):
        raise ValueError(
            "weight_decay_mask is not a tree of bools like the parameters or a prefix of it"
        ) from None
