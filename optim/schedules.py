"""Learning rate against step, safe for traced hyper-parameters.

The first update is step 0. As in the study, warm-up climbs linearly from 0, so with `warmup` > 0
the first update has learning rate 0, and the last one (step `steps` - 1) is one step short of the
end of the decay.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

Shape = Literal["cosine", "linear", "wsd", "power", "constant"]

# What shapes the schedule beside its peak; without `steps` there is no decay.
NUMBERS = {
    "warmup": 0,
    "steps": None,
    "decay": 1.0,
    "min_lr_ratio": 0.0,
    "lr_floor": 0.0,
    "decay_power": 1.0,
    "auxiliary_decay": 0.0,
}


@dataclass(frozen=True, eq=False)
class Schedule:
    """step -> learning rate, from a flat mapping of numbers; see `learning_rate`."""

    hparams: Mapping[str, Any]
    shape: Shape = "cosine"

    @property
    def peak(self):
        return self.hparams["learning_rate"]

    def __call__(self, step):
        return learning_rate(step, self.hparams, self.shape)

    def auxiliary(self, step):
        """The rate of what is no matrix: as `step`'s, with the cooldown `auxiliary_decay`."""
        own = self.hparams.get("auxiliary_decay", 0.0)
        both = jnp.where(own > 0, own, {**NUMBERS, **self.hparams}["decay"])
        return learning_rate(step, {**self.hparams, "decay": both}, self.shape)


def learning_rate(step, hparams: Mapping[str, Any], schedule: Shape = "cosine"):
    """The learning rate of update number `step` (0 for the first), a scalar.

    hparams:
      learning_rate  the peak; or a function of the step, which then is the whole schedule.
      warmup         steps of the linear climb from 0 to the peak (default 0).
      steps          length of training; without it (None) the rate stays at its peak after warm-up.
      decay          "wsd" and "power" only: fraction of `steps` in the final decay, rounded down to
                     whole steps.
      min_lr_ratio   learning rate at `steps` over the peak (default 0); all of the decay is
                     squeezed above it.
      lr_floor       after warm-up the rate never falls below this share of the peak (default 0):
                     the decay is cut off there.
      decay_power    "power" only: k of 1 - p^k, p the share of the decay that is done (default 1).

    schedule: after warm-up, "cosine" or "linear" down to the end; "wsd" constant, then linear;
    "power" constant, then 1 - p^k; "constant". All numbers may be traced; `schedule` is static.
    Sources: arXiv 2509.02046 as it was run; "power" and floors as in track 3 of modded-nanogpt,
    where k = 0.4 and 0.5 were worth 3 % of the steps to MuonH.
    """
    peak = hparams["learning_rate"]
    if callable(peak):
        return peak(step)
    if schedule not in get_args(Shape):
        raise ValueError(f"schedule={schedule!r} is not one of {', '.join(get_args(Shape))}")
    numbers = {**NUMBERS, **hparams}
    warmup, steps, decay, floor = (numbers[n] for n in ("warmup", "steps", "decay", "min_lr_ratio"))
    step = jnp.asarray(step, float)
    factor = jnp.where(step < warmup, step / jnp.maximum(warmup, 1), 1.0)
    if steps is not None and schedule != "constant":
        start = warmup
        if schedule in ("wsd", "power"):
            # 1e-3: 0.7 * 10 is 6.9999995 in float32 and 7 steps.
            start = jnp.maximum(warmup, steps - jnp.floor(decay * steps + 1e-3))
        progress = jnp.clip((step - start) / jnp.maximum(steps - start, 1), 0.0, 1.0)
        fall = 1 - progress
        if schedule == "cosine":
            fall = (1 + jnp.cos(jnp.pi * progress)) / 2
        elif schedule == "power":
            fall = 1 - progress ** numbers["decay_power"]
        after = jnp.maximum(floor + (1 - floor) * fall, numbers["lr_floor"])
        factor = factor * jnp.where(step < warmup, 1.0, after)
    return peak * factor


class ScheduledState(NamedTuple):
    count: jax.Array  # () int32
    numbers: dict[str, jax.Array]  # () float32 each, of the last update
    inner: Any


def scheduled(make, moving: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
    """`make(numbers)` in every update, with each function of `moving` read at the step (0 first).

    Args:
      make: from {name: scalar} to a transformation whose state does not depend on the numbers.
      moving: {name: function of the step}.
    """

    def at(step):
        return {name: value(step) for name, value in moving.items()}

    def init(params):
        used = {name: jnp.zeros((), jnp.float32) for name in moving}
        return ScheduledState(jnp.zeros((), jnp.int32), used, make(at(0)).init(params))

    def update(updates, state, params=None, **extra_args):
        numbers = at(state.count)
        updates, new = make(numbers).update(updates, state.inner, params, **extra_args)
        used = {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}
        return updates, ScheduledState(optax.safe_increment(state.count), used, new)

    return optax.GradientTransformationExtraArgs(init, update)
