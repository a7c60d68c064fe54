"""AdamC: AdamW with corrected weight decay."""

from optim.alias import optimizer
from optim.assemble import finish
from optim.entry import Entry, Number
from optim.rules.adamw import scale_by_adamw


@optimizer(
    scale_by_adamw,
    beta2=0.95,
    weight_decay=0.1,
    max_grad_norm=1.0,
    decayed=("matrix", "head"),
    weight_decay_kind="corrected",
)
def adamc(rule, learning_rate: Number, **common):
    r"""AdamC: AdamW whose decay falls with the square of the scheduled learning rate.

    .. math::
      w \leftarrow w - \eta_t (u_t + \lambda \frac{\eta_t}{\eta_{max}} w)

    with u AdamW's direction. Below a norm layer the gradient grows as the weights shrink; AdamW
    lets their norm follow sqrt(eta / lambda), so it collapses as eta falls at the end of a run.
    Here the norm settles at one value.

    Args:
      beta1, beta2, epsilon: as in `adamw`.
      weight_decay: lambda.

    References:
      Defazio, `Why Gradients Rapidly Increase Near the End of Training
      <https://arxiv.org/abs/2506.02285>`_, 2025. Defaults: levanter's AdamConfig with
      adamc_weight_decay (marin-community/marin at 0f45aa1, lib/levanter/src/levanter/optim/
      config.py), which corrects every decayed leaf. The paper corrects only layers that a norm
      follows; the output layer keeps plain decay there.

      Preset "study": the best rate of the recorded Qwen3 ladder at 130M.
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(adamc, study=dict(learning_rate=10e-3, epsilon=1e-15))
