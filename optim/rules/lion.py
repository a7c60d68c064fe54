"""Lion (Chen et al. 2023, arXiv 2302.06675)."""

import optax

from optim.assemble import finish, takes_common
from optim.entry import Entry, Number
from optim.roles import Roles

scale_by_lion = optax.scale_by_lion


@takes_common
def lion(
    learning_rate: Number,
    beta1: Number = 0.9,
    beta2: Number = 0.99,
    weight_decay: Number = 0.0,
    max_grad_norm: Number = 0.0,
    *,
    roles: Roles = None,
    **common,
) -> optax.GradientTransformationExtraArgs:
    r"""Lion: the sign of an interpolated momentum.

    .. math::
      u_t = \mathrm{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \qquad
      m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t

    Every coordinate moves by the learning rate, so it wants a learning rate 3 to 10 times smaller,
    and a weight decay as much larger, than AdamW. There is no epsilon: a zero gradient and momentum
    gives a zero update.

    Args:
      learning_rate: number, array or schedule.
      beta1: weight of the old momentum in the update's sign.
      beta2: decay of the momentum itself.
      weight_decay: decoupled, multiplied by the learning rate.
      max_grad_norm: global norm to clip to; 0 is off.
      roles: see `optim.roles.find_roles` (static).
      **common: static options of `optim.assemble.finish`.

    The authors' code and the study's (optax's) are the same rule.
    """
    rule = scale_by_lion(beta1, beta2)
    return finish(rule, learning_rate, weight_decay, max_grad_norm, roles=roles, **common)


ENTRY = Entry(
    lion,
    study=dict(
        learning_rate=2e-3,
        beta1=0.95,
        beta2=0.95,
        weight_decay=0.7,
        max_grad_norm=1.0,
        decayed=("matrix", "head"),
    ),
)
