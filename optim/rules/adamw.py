"""AdamW: Adam with decoupled weight decay."""

import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number


@takes_options
def scale_by_adamw(
    beta1: ArrayLike = 0.9, beta2: ArrayLike = 0.999, epsilon: ArrayLike = 1e-8
) -> optax.GradientTransformation:
    """Adam's direction; arguments as in `adamw`."""
    return optax.scale_by_adam(beta1, beta2, epsilon)


@optimizer(scale_by_adamw, weight_decay=0.01)
def adamw(rule, learning_rate: Number, **common):
    r"""AdamW: Adam with decoupled weight decay.

    .. math::
      m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2,
      \quad u_t = \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    Args:
      learning_rate: number, array or schedule; about the size of a step in every coordinate.
      beta1: decay of the mean gradient.
      beta2: decay of the mean square; the longer the memory, the slower it forgets a spike.
      epsilon: outside the root, after bias correction; below it, small gradients make small steps.
      weight_decay: decoupled, times the scheduled learning rate as in optax and torch. (The paper
        has it independent of the learning rate: `weight_decay_kind="independent"`.)

    References:
      Loshchilov and Hutter, `Decoupled Weight Decay Regularization
      <https://arxiv.org/abs/1711.05101>`_, 2017. Defaults: torch.optim.AdamW's, which decays every
      parameter it is given.

      Preset "study": Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them
      <https://arxiv.org/abs/2509.02046>`_, 2025: its starting point, its clipping, and no decay of
      embedding and gains.
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(
    adamw,
    study=dict(
        learning_rate=16e-3,
        beta1=0.9,
        beta2=0.95,
        epsilon=1e-20,
    ),
)
