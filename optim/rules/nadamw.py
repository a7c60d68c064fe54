"""NAdamW: AdamW with Nesterov momentum."""

import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number


@takes_options
def scale_by_nadamw(
    beta1: ArrayLike = 0.9, beta2: ArrayLike = 0.999, epsilon: ArrayLike = 1e-8
) -> optax.GradientTransformation:
    """NAdamW's direction; arguments as in `nadamw`."""
    return optax.scale_by_adam(beta1, beta2, epsilon, nesterov=True)


@optimizer(scale_by_nadamw, weight_decay=1e-4)
def nadamw(rule, learning_rate: Number, **common):
    r"""NAdamW: AdamW whose momentum looks one step ahead.

    .. math::
      u_t = \frac{\beta_1 m_t / (1-\beta_1^{t+1}) + (1-\beta_1) g_t / (1-\beta_1^t)}
                 {\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    with m and v of Adam; note t+1 in the first correction.

    Args:
      beta1, beta2, epsilon: as in `adamw`.

    References:
      Dozat, `Incorporating Nesterov Momentum into Adam
      <https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ>`_, 2016, Algorithm 2 with a constant
      momentum, as optax runs it and with its defaults. Deviation: torch.optim.NAdam also warms the
      momentum up, and AlgoPerf's baseline corrects both terms by 1 - beta1^t.

      Preset "study": numbers of Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them
      <https://arxiv.org/abs/2509.02046>`_, 2025.
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(
    nadamw,
    study=dict(
        learning_rate=16e-3,
        beta1=0.95,
        beta2=0.95,
        epsilon=1e-25,
    ),
)
