"""Lion: the sign of an interpolated momentum."""

import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number


@takes_options
def scale_by_lion(beta1: ArrayLike = 0.9, beta2: ArrayLike = 0.99) -> optax.GradientTransformation:
    """Lion's direction; arguments as in `lion`."""
    return optax.scale_by_lion(beta1, beta2)


@optimizer(scale_by_lion)
def lion(rule, learning_rate: Number, **common):
    r"""Lion: the sign of an interpolated momentum.

    .. math::
      u_t = \mathrm{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \qquad
      m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t

    Every coordinate moves by the learning rate, so it wants a learning rate 3 to 10 times smaller,
    and a weight decay as much larger, than AdamW. There is no epsilon: a zero gradient and momentum
    gives a zero update.

    Args:
      beta1: weight of the old momentum in the update's sign.
      beta2: decay of the momentum itself.

    References:
      Chen et al, `Symbolic Discovery of Optimization Algorithms
      <https://arxiv.org/abs/2302.06675>`_, 2023.

      Preset "study": the same rule with the numbers of Wen et al, `Fantastic Pretraining Optimizers
      and Where to Find Them <https://arxiv.org/abs/2509.02046>`_, 2025.
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(
    lion,
    study=dict(
        learning_rate=2e-3,
        beta1=0.95,
        beta2=0.95,
        weight_decay=0.7,
    ),
)
