"""The one door for programs: a name and a flat mapping of numbers to a whole optax optimizer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import catalogue
from optim.entry import SCHEDULE
from optim.roles import Roles
from optim.schedules import Schedule


def build(
    name: str,
    hparams: Mapping[str, Any],
    *,
    preset: str = "study",
    roles: Roles = None,
    **options,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer `name` for a parameter tree of any framework: clip, rule, decay with its mask,
    schedule.

    Args:
      name: a name of `optim.catalogue.CATALOGUE`.
      hparams: flat mapping of numbers, scalar arrays, tracers or schedules (functions of the step);
        what is not given comes from the preset. `steps`, `warmup`, `decay`, `min_lr_ratio` shape
        the schedule; without `steps` the learning rate is constant after warm-up.
      preset: "study" (arXiv 2509.02046 as it was run) or "authors" (the reference code of each
        optimizer).
      roles: what each leaf is, see `optim.roles.find_roles`; None finds Flax names.
      **options: static options of the optimizer, `schedule` among them; see
      `optim.catalogue.defaults`.

    Raises:
      ValueError: in one line, with field, value and allowed range or nearest name.

    The result may be built inside `jit` or `vmap` from traced numbers; `init` uses none of them.
    The loop should pass `value=` and `grad_fn=` to `update`: rules that need more than gradients
    take them from there.
    """
    entry = catalogue.get(name)
    given = entry.defaults(preset) | dict(hparams) | options
    numbers, static = catalogue.check(name, given)
    if misplaced := set(options) & set(numbers) or set(hparams) & set(static):
        raise ValueError(
            f"optimizer {name}: {min(misplaced)!r}: numbers go into hparams, options do not"
        )
    if numbers["learning_rate"] is None:
        raise ValueError(f"optimizer {name}: learning_rate has no default in preset {preset!r}")
    shape = {k: numbers.pop(k) for k in ("learning_rate", *SCHEDULE)}
    learning_rate = Schedule(shape, static.pop("schedule"))

    def make(values):
        return entry.alias(learning_rate, **values, roles=roles, **static)

    return scheduled(make, numbers) if any(map(callable, numbers.values())) else make(numbers)


class ScheduledState(NamedTuple):
    count: jax.Array  # () int32
    inner: Any


def scheduled(make, hparams: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
    """`make(hparams)` with the callable entries evaluated at the step (0 first) in every update."""

    def at(step):
        return {k: v(step) if callable(v) else v for k, v in hparams.items()}

    def init(params):
        return ScheduledState(jnp.zeros((), jnp.int32), make(at(0)).init(params))

    def update(updates, state, params=None, **extra_args):
        inner = make(at(state.count))
        updates, new = inner.update(updates, state.inner, params, **extra_args)
        return updates, ScheduledState(optax.safe_increment(state.count), new)

    return optax.GradientTransformationExtraArgs(init, update)
