"""Cautious AdamW: no step against the gradient."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number
from optim.roles import Role, Roles, find_roles

Statistics = Literal["leaf", "matrix"]


@takes_options
def scale_by_cautious(
    beta1: ArrayLike = 0.9,
    beta2: ArrayLike = 0.999,
    epsilon: ArrayLike = 1e-6,
    *,
    roles: Roles = None,
    statistics: Statistics = "matrix",
    normalizer: Literal["clamp", "epsilon"] = "clamp",
) -> optax.GradientTransformation:
    r"""Adam's direction where it agrees in sign with the gradient, rescaled to keep its mean size.

    .. math::
      u = \hat m / (\sqrt{\hat v} + \epsilon), \qquad \phi = 1[u g > 0], \qquad
      u \leftarrow u \phi / s(\mathrm{mean}\,\phi)

    Args:
      beta1, beta2, epsilon: as in Adam.
      roles: see `optim.roles.find_roles`; only used with statistics="matrix" (static).
      statistics: the mean of the mask runs over each "matrix" (each layer of a stack by itself) or
        over the whole "leaf" with all its layers (static).
      normalizer: s(x) is "clamp": max(x, 1e-3), or "epsilon": x + epsilon (static).

    State: `optax.ScaleByAdamState`. A zero gradient gives a zero update.
    """
    adam = optax.scale_by_adam(beta1, beta2, epsilon)

    def update(gradients, state, params=None):
        directions, state = adam.update(gradients, state, params)

        def mask(u, g, role: Role | None):
            phi = (~(u * g <= 0)).astype(u.dtype)  # u g > 0, or NaN, which is not to be hidden
            axes = None if role is None else role.inputs + role.outputs
            mean = jnp.mean(phi, axis=axes, keepdims=True)
            scale = jnp.maximum(mean, 1e-3) if normalizer == "clamp" else mean + epsilon
            return u * phi / scale

        if statistics == "leaf":
            return jax.tree.map(lambda u, g: mask(u, g, None), directions, gradients), state
        return jax.tree.map(mask, directions, gradients, find_roles(gradients, roles)), state

    return optax.GradientTransformation(adam.init, update)


@optimizer(scale_by_cautious)
def cautious(rule, learning_rate: Number, **common):
    """AdamW that skips the coordinates whose update points against the gradient.

    It wants AdamW's hyper-parameters; usually 30 to 45 % of the coordinates are skipped, and the
    others grow by as much.

    Args:
      beta1, beta2, epsilon: as in AdamW.
      weight_decay: decoupled; not masked by the gradient's sign.
      statistics, normalizer: see `scale_by_cautious` (static).

    References:
      Liang et al, `Cautious Optimizers: Improving Training with One Line of Code
      <https://arxiv.org/abs/2411.16085>`_, 2024. Defaults: kyleliang919/C-Optim `c_adamw.py` on its
      default path: epsilon beside the corrected sqrt(v), mean per tensor clamped at 1e-3. (Its
      other path puts epsilon beside the uncorrected sqrt(v); the paper's factor d / (nnz + 1) is in
      neither.)

      Preset "study": Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them
      <https://arxiv.org/abs/2509.02046>`_, 2025: mean + epsilon, over all layers of a stacked leaf
      at once.
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(
    cautious,
    study=dict(
        learning_rate=16e-3,
        beta1=0.95,
        beta2=0.98,
        epsilon=1e-20,
        statistics="leaf",
        normalizer="epsilon",
    ),
)
