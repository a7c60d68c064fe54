"""When a run has diverged: the only early stop there is."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

SHORT = 16  # steps, a smoothing 1/16 of each


def ceiling(vocab_size: int) -> float:
    """The loss, in nats per token, that a run past its patience may not reach.

    6 in the study (arXiv 2509.02046), half of what its vocabulary of 128,256 starts from. A small
    vocabulary starts below 6: there it is a nat above a uniform guess.
    """
    guess = math.log(vocab_size)
    return 6.0 if guess > 6.0 else guess + 1.0


def recent(mean: Array, loss: Array, step: Array) -> Array:
    """The mean loss of about the last SHORT steps, with that of update `step`, the first being 1.

    One batch of hard text says nothing of a run; a loss that is not finite makes the mean so.
    """
    return mean + (loss - mean) / jnp.minimum(step, SHORT)


def diverged(loss: Array, step: Array, steps: Array, ceiling: float) -> Array:
    """Whether a mean training loss at update `step` of `steps` says that the run has diverged.

    Not finite, at any step; or at the ceiling, past the study's patience of 2,000 steps or 40 % of
    a shorter run.
    """
    patience = jnp.minimum(2000.0, 0.4 * steps)
    return ~jnp.isfinite(loss) | ((step >= patience) & (loss >= ceiling))
