"""MARS: its approximate form on AdamW."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish, of_kinds
from optim.entry import Entry, Number
from optim.roles import Role, Roles, find_roles

ClipScope = Literal["tree", "matrix"]


class CorrectGradientState(NamedTuple):
    previous_gradient: Any  # as it came, before any clipping


def correct_gradient(
    strength, max_norm=0.0, *, roles: Roles = None, clip_scope: ClipScope = "matrix"
) -> optax.GradientTransformation:
    """c = g + strength (g - previous g), clipped; the previous g of the first step is 0.

    Args:
      strength: gamma beta1 / (1 - beta1) in MARS.
      max_norm: norm that c is clipped to; 0 is off.
      roles: see `optim.roles.find_roles` (static).
      clip_scope: the norm is of the whole "tree", c * min(1, max / (norm + 1e-6)), or of each
        "matrix" of a stack, c * max / norm where norm > max (static).
    """

    def init(params):
        return CorrectGradientState(jax.tree.map(jnp.zeros_like, params))

    def clip(c, role: Role):
        norm = jnp.sqrt(jnp.sum(c * c, axis=role.inputs + role.outputs, keepdims=True))
        return jnp.where((norm > max_norm) & (max_norm > 0), c / norm * max_norm, c)

    def update(gradients, state, params=None):
        del params
        old = state.previous_gradient
        corrected = jax.tree.map(lambda g, o: g + strength * (g - o), gradients, old)
        if clip_scope == "matrix":
            corrected = jax.tree.map(clip, corrected, find_roles(gradients, roles))
        else:
            scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(corrected) + 1e-6))
            scale = jnp.where(max_norm > 0, scale, 1.0)
            corrected = jax.tree.map(lambda c: (c * scale).astype(c.dtype), corrected)
        return corrected, CorrectGradientState(gradients)

    return optax.GradientTransformation(init, update)


@takes_options
def scale_by_mars(
    beta1: ArrayLike = 0.95,
    beta2: ArrayLike = 0.99,
    gamma: ArrayLike = 0.025,
    epsilon: ArrayLike = 1e-8,
    max_grad_norm: ArrayLike = 1.0,
    *,
    roles: Roles = None,
    clip_scope: ClipScope = "matrix",
) -> optax.GradientTransformation:
    r"""Adam on gradients corrected by their change since the last step.

    .. math::
      c_t = \mathrm{clip}\Big(g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1})\Big),
      \quad g_0 = 0, \qquad u_t = \mathrm{Adam}(c_t)

    Args:
      beta1, beta2, epsilon: as in Adam.
      gamma: strength of the correction; 0 is Adam on the clipped gradient. Stable is
        gamma < (1 - beta1) / beta1 or so: beyond, the correction outweighs the gradient.
      max_grad_norm: norm that the corrected gradient is clipped to; 0 is off.
      roles, clip_scope: see `correct_gradient` (static).

    State: the previous gradient, then `optax.ScaleByAdamState`.
    """
    strength = gamma * beta1 / (1 - beta1)
    return optax.chain(
        correct_gradient(strength, max_grad_norm, roles=roles, clip_scope=clip_scope),
        optax.scale_by_adam(beta1, beta2, epsilon),
    )


@optimizer(scale_by_mars)
def mars(
    rule,
    learning_rate: Number,
    gain_learning_rate_ratio: Number = 1.0,
    gain_beta1: Number = 0.9,
    gain_beta2: Number = 0.95,
    gain_weight_decay: Number = 0.1,
    *,
    gains_by_adamw: bool = True,
    epsilon,
    max_grad_norm,
    roles,
    decayed,
    weight_decay_mask,
    **common,
):
    """AdamW on variance-reduced gradients, from the last minibatch's gradient at no extra pass.

    Args:
      beta1, beta2, gamma, epsilon, max_grad_norm: see `scale_by_mars`; there is no other clipping.
      gain_learning_rate_ratio, gain_beta1, gain_beta2, gain_weight_decay: AdamW of the gains,
        unclipped and uncorrected; the ratio is to `learning_rate`.
      clip_scope: see `correct_gradient` (static).
      gains_by_adamw: gains by AdamW (`gain_*`) instead of MARS (static).

    References:
      Yuan et al, `MARS: Unleashing the Power of Variance Reduction for Training Large Models
      <https://arxiv.org/abs/2411.10438>`_, 2024. Defaults: AGI-Arena/MARS `mars.py` with is_approx
      and mars-adamw: each tensor's c is clipped to norm 1 without an epsilon; tensors that are not
      2-D go to AdamW (here: gains, so that a stack of layers counts as its matrices).

      Preset "study": Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them
      <https://arxiv.org/abs/2509.02046>`_, 2025: c clipped by its norm over the tree, everything by
      MARS.
    """
    del max_grad_norm  # the rule clips
    ratios = {}
    if gains_by_adamw:
        # Gains have a decay of their own: theirs is added to the direction here, not by `finish`.
        adamw = [optax.scale_by_adam(gain_beta1, gain_beta2, epsilon)]
        if "gain" in decayed:
            mask = lambda tree: of_kinds(tree, ("gain",), roles, weight_decay_mask)  # noqa: E731
            adamw.append(optax.add_decayed_weights(gain_weight_decay, mask))
        rules = {True: optax.chain(*adamw), False: rule}
        rule = optax.partition(rules, lambda tree: of_kinds(tree, ("gain",), roles))
        ratios = {"gain": gain_learning_rate_ratio}
        decayed = tuple(kind for kind in decayed if kind != "gain")
    shared = dict(roles=roles, decayed=decayed, weight_decay_mask=weight_decay_mask)
    return finish(rule, learning_rate, ratios=ratios, **shared, **common)


ENTRY = Entry(
    mars,
    study=dict(
        learning_rate=16e-3,
        beta1=0.95,
        beta2=0.95,
        gamma=0.025,
        epsilon=1e-25,
        clip_scope="tree",
        gains_by_adamw=False,
    ),
)
