"""AdEMAMix: a fast and a slow mean gradient."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number


class ScaleByAdEMAMixState(NamedTuple):
    count: jax.Array  # () int32, updates made
    mu: Any  # fast mean gradient
    mu_slow: Any  # slow mean gradient
    nu: Any  # mean square


@takes_options
def scale_by_ademamix(
    beta1: ArrayLike = 0.9,
    beta2: ArrayLike = 0.999,
    beta3: ArrayLike = 0.9999,
    alpha: ArrayLike = 2.0,
    epsilon: ArrayLike = 1e-8,
    alpha_warmup: ArrayLike = 0,
    beta3_warmup: ArrayLike = 0,
) -> optax.GradientTransformation:
    """AdEMAMix's direction; arguments as in `ademamix`."""

    def init(params):
        zeros = (jax.tree.map(jnp.zeros_like, params) for _ in range(3))
        return ScaleByAdEMAMixState(jnp.zeros((), jnp.int32), *zeros)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mix = alpha * progress(count, alpha_warmup)
        new = slow_rate(count, beta1, beta3, beta3_warmup)
        mu = optax.tree.update_moment(updates, state.mu, beta1, 1)
        slow = jax.tree.map(
            lambda m, g: m + (new * (g - m)).astype(m.dtype), state.mu_slow, updates
        )
        nu = optax.tree.update_moment(updates, state.nu, beta2, 2)
        first, second = 1 - beta1**count, jnp.sqrt(1 - beta2**count)

        def direction(m, s, v):
            return ((m / first + mix * s) / (jnp.sqrt(v) / second + epsilon)).astype(m.dtype)

        directions = jax.tree.map(direction, mu, slow, nu)
        return directions, ScaleByAdEMAMixState(count, mu, slow, nu)

    return optax.GradientTransformation(init, update)


def progress(count, warmup):
    """count / warmup up to 1; 1 without warm-up."""
    count = jnp.asarray(count, float)
    return jnp.where(count < warmup, count / jnp.maximum(warmup, 1), 1.0)


def slow_rate(count, beta1, beta3, warmup):
    """1 - beta3_t. The half-life grows in a straight line from that of beta1 to that of beta3.

    The authors add 1e-8 to a beta in its half-life. All is computed from 1 - beta, which float32
    holds to seven digits; beta3 itself it holds to three of 1 - beta3.
    """
    if isinstance(warmup, int | float) and warmup == 0:
        return 1 - beta3

    def half_life(rate):
        return -math.log(2.0) / jnp.log1p(1e-8 - rate) - 1

    a = progress(count, warmup)
    steps = (1 - a) * half_life(1 - beta1) + a * half_life(1 - beta3)
    return jnp.where(count < warmup, -jnp.expm1(-math.log(2.0) / (steps + 1)), 1 - beta3)


@optimizer(scale_by_ademamix)
def ademamix(rule, learning_rate: Number, **common):
    r"""AdEMAMix: AdamW whose numerator adds a mean over tens of thousands of old gradients.

    .. math::
      m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad s_t = \beta_3 s_{t-1} + (1-\beta_3) g_t, \quad
      u_t = \frac{m_t / (1-\beta_1^t) + \alpha s_t}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    v is Adam's. s starts at 0 and has no bias correction, so it comes in slowly by itself. A beta3
    of 0.9999 forgets half in 6,900 steps: short runs want a smaller one.

    Args:
      learning_rate: number, array or schedule, as AdamW's; the update is up to 1 + alpha times
        larger.
      beta1, beta2, epsilon: as in AdamW.
      beta3: decay of the slow mean.
      alpha: weight of the slow mean.
      alpha_warmup, beta3_warmup: steps in which alpha grows from 0 and beta3's half-life from that
        of beta1, both in a straight line; 0 is none. The authors take the length of the run.

    References:
      Pagliardini et al, `The AdEMAMix Optimizer: Better, Faster, Older
      <https://arxiv.org/abs/2409.03137>`_, 2024. Defaults: apple/ml-ademamix at c3d73c0,
      pytorch/ademamix.py 6-22, 120-160, whose steps count from 1. (Its optax/ademamix.py counts
      warm-ups from 0 and defaults to alpha 5; optax.contrib follows that one.)

      Preset "study": the rule with AdamW's surroundings in Wen et al, `Fantastic Pretraining
      Optimizers and Where to Find Them <https://arxiv.org/abs/2509.02046>`_, 2025, which did not
      run it, with the paper's alpha and a beta3 for thousands of steps.
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(
    ademamix,
    study=dict(
        learning_rate=8e-3,
        beta2=0.95,
        beta3=0.999,
        alpha=8.0,
        epsilon=1e-15,
    ),
)
