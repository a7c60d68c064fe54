"""Schedule-Free AdamW: an average of iterates in the place of momentum and schedule."""

import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.averaging import schedule_free as wrap
from optim.entry import Entry, Number


@takes_options
def scale_by_mean_square(
    beta2: ArrayLike = 0.999, epsilon: ArrayLike = 1e-8
) -> optax.GradientTransformation:
    """The gradient over the root of its mean square, with bias correction."""
    return optax.scale_by_rms(beta2, epsilon, eps_in_sqrt=False, bias_correction=True)


@wrap
@optimizer(scale_by_mean_square)
def schedule_free_adamw(rule, learning_rate: Number, **common):
    r"""AdamW without momentum, whose average takes the place of momentum and of a schedule.

    .. math::
      u_t = \frac{g_t}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}, \quad
      z \leftarrow z - \eta (u_t + \lambda y), \quad
      x \leftarrow (1-c_t) x + c_t z, \quad y = \beta x + (1-\beta) z

    with the gradient g at y, which are the parameters that train; losses are reported at x.

    Args:
      learning_rate: larger than AdamW's, 1 to 10 times; number, array or schedule with warm-up.
      interpolation, weight_power, weight_lr_power: see `optim.averaging.schedule_free`.
      beta2, epsilon: as in AdamW.
      weight_decay: lambda.

    References:
      Defazio et al, `The Road Less Scheduled <https://arxiv.org/abs/2405.15682>`_, 2024. Defaults:
      facebookresearch/schedule_free at 70785b5, adamw_schedulefree_reference.py, without inner
      momentum; deviations in `optim.averaging.schedule_free`.

      Preset "study": the rule with AdamW's surroundings in Wen et al, `Fantastic Pretraining
      Optimizers and Where to Find Them <https://arxiv.org/abs/2509.02046>`_, 2025, which did not
      run it, at a constant rate.
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(
    schedule_free_adamw,
    schedule="constant",
    study=dict(
        learning_rate=16e-3,
        beta2=0.95,
        epsilon=1e-15,
    ),
)
