"""NAdamW: AdamW with Nesterov momentum (Dozat 2016, ICLR workshop)."""

from functools import partial

import optax

from optim.assemble import finish, takes_common
from optim.entry import Entry, Number
from optim.roles import Roles

scale_by_nadamw = partial(optax.scale_by_adam, nesterov=True)


@takes_common
def nadamw(
    learning_rate: Number,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    epsilon: Number = 1e-8,
    weight_decay: Number = 1e-4,
    max_grad_norm: Number = 0.0,
    *,
    roles: Roles = None,
    **common,
) -> optax.GradientTransformationExtraArgs:
    r"""NAdamW: AdamW whose momentum looks one step ahead.

    .. math::
      u_t = \frac{\beta_1 m_t / (1-\beta_1^{t+1}) + (1-\beta_1) g_t / (1-\beta_1^t)}
                 {\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    with m and v of Adam; note t+1 in the first correction.

    Args:
      learning_rate, beta1, beta2, epsilon, weight_decay, max_grad_norm, roles, **common: as
      `adamw`.

    The rule is Dozat's Algorithm 2 with a constant momentum, as optax runs it; `authors` has
    optax's defaults, `study` the study's. Deviation: torch.optim.NAdam also warms the momentum up,
    and AlgoPerf's baseline corrects both terms by 1 - beta1^t.
    """
    rule = scale_by_nadamw(beta1, beta2, epsilon)
    return finish(rule, learning_rate, weight_decay, max_grad_norm, roles=roles, **common)


ENTRY = Entry(
    nadamw,
    study=dict(
        learning_rate=16e-3,
        beta1=0.95,
        beta2=0.95,
        epsilon=1e-25,
        weight_decay=0.1,
        max_grad_norm=1.0,
        decayed=("matrix", "head"),
    ),
)
