"""Schedule-Free AdamW (Defazio et al. 2024, arXiv 2405.15682)."""

import optax

from optim.assemble import finish, takes_common
from optim.averaging import schedule_free as wrap
from optim.entry import Entry, Number
from optim.roles import Roles


@wrap
@takes_common
def schedule_free(
    learning_rate: Number,
    beta2: Number = 0.999,
    epsilon: Number = 1e-8,
    weight_decay: Number = 0.0,
    max_grad_norm: Number = 0.0,
    *,
    roles: Roles = None,
    **common,
) -> optax.GradientTransformationExtraArgs:
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
      max_grad_norm: global norm to clip to; 0 is off.
      roles: see `optim.roles.find_roles` (static).
      **common: static options of `optim.assemble.finish`.

    authors: facebookresearch/schedule_free at 70785b5, adamw_schedulefree_reference.py, without
    inner momentum; deviations in `optim.averaging.schedule_free`. study: the rule with AdamW's
    surroundings in arXiv 2509.02046, which did not run it, at a constant rate.
    """
    rule = optax.scale_by_rms(beta2, epsilon, eps_in_sqrt=False, bias_correction=True)
    return finish(rule, learning_rate, weight_decay, max_grad_norm, roles=roles, **common)


ENTRY = Entry(
    schedule_free,
    schedule="constant",
    study=dict(
        learning_rate=16e-3,
        beta2=0.95,
        epsilon=1e-15,
        weight_decay=0.1,
        max_grad_norm=1.0,
        decayed=("matrix", "head"),
    ),
)
