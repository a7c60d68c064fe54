"""AdamC: AdamW with corrected weight decay (Defazio 2025, arXiv 2506.02285)."""

import optax

from optim.assemble import WeightDecay, finish, takes_common
from optim.entry import Entry, Number
from optim.roles import Kind, Roles
from optim.rules.adamw import scale_by_adamw


@takes_common
def adamc(
    learning_rate: Number,
    beta1: Number = 0.9,
    beta2: Number = 0.95,
    epsilon: Number = 1e-8,
    weight_decay: Number = 0.1,
    max_grad_norm: Number = 1.0,
    *,
    roles: Roles = None,
    decayed: tuple[Kind, ...] = ("matrix", "head"),
    weight_decay_kind: WeightDecay = "corrected",
    **common,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamC: AdamW whose decay falls with the square of the scheduled learning rate.

    .. math::
      w \leftarrow w - \eta_t (u_t + \lambda \frac{\eta_t}{\eta_{max}} w)

    with u AdamW's direction. Below a norm layer the gradient grows as the weights shrink; AdamW
    lets their norm follow sqrt(eta / lambda), so it collapses as eta falls at the end of a run.
    Here the norm settles at one value.

    Args:
      learning_rate, beta1, beta2, epsilon, max_grad_norm: as in `optim.rules.adamw.adamw`.
      weight_decay: lambda.
      roles: see `optim.roles.find_roles` (static).
      decayed: kinds of leaves that decay (static).
      weight_decay_kind: see `optim.assemble.descend` (static).
      **common: other static options of `optim.assemble.finish`.

    authors: levanter's AdamConfig with adamc_weight_decay (marin-community/marin at 0f45aa1,
    lib/levanter/src/levanter/optim/config.py), which corrects every decayed leaf. The paper
    corrects only layers that a norm follows; the output layer keeps plain decay there.
    study: the best rate of the recorded Qwen3 ladder at 130M.
    """
    rule = scale_by_adamw(beta1, beta2, epsilon)
    return finish(
        rule,
        learning_rate,
        weight_decay,
        max_grad_norm,
        roles=roles,
        decayed=decayed,
        weight_decay_kind=weight_decay_kind,
        **common,
    )


ENTRY = Entry(adamc, study=dict(learning_rate=10e-3, epsilon=1e-15))
