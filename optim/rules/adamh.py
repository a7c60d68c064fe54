"""AdamH: Adam with its matrices on the hyperball."""

from collections.abc import Sequence

import optax

from optim.alias import optimizer
from optim.assemble import clip_by_norm, finish
from optim.entry import Entry, Number
from optim.roles import Kind, Roles
from optim.rules.adamw import scale_by_adamw

SPHERE: tuple[Kind, ...] = ("matrix", "head")
REST: tuple[Kind, ...] = ("embedding", "gain")


def clip_apart(
    max_norm, groups: Sequence[tuple[Kind, ...]], clipped: tuple[Kind, ...], *, roles: Roles = None
) -> optax.GradientTransformationExtraArgs:
    """Each group of kinds clipped to `max_norm` by its own norm, but for kinds not in `clipped`."""
    kept = [tuple(kind for kind in group if kind in clipped) for group in groups]
    return optax.chain(*[clip_by_norm(max_norm, group, roles=roles) for group in kept])


@optimizer(scale_by_adamw, beta2=0.95, max_grad_norm=1.0)
def adamh(
    rule,
    learning_rate: Number,
    adam_lr_ratio: Number = 1.0,
    *,
    max_grad_norm,
    clipped,
    roles,
    **common,
):
    """Adam whose matrices and head keep their norm; plain AdamW for embedding and gains.

    The step is that of `optim.sphere` with Adam's direction.

    Args:
      learning_rate: a share of the weights: 0.01 moves a matrix by 1 % of its norm.
      beta1, beta2, epsilon: as in Adam.
      adam_lr_ratio: learning rate of embedding and gains, in AdamW's units, over `learning_rate`.
      weight_decay: of embedding and gains; decoupled.
      max_grad_norm: matrices and head together, embedding and gains together are each clipped to
        this norm; 0 is off.

    References:
      Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them II: Hyperball Optimization
      <https://arxiv.org/abs/2606.16899>`_, 2026. Defaults: levanter's optim/adamh.py
      (marin-community/marin at 0084342).

      Preset "study": the best rate of the recorded Qwen3 ladder at 130M, whose ratio is 3/13.
    """
    clip = clip_apart(max_grad_norm, (SPHERE, REST), clipped, roles=roles)
    return finish(
        optax.chain(clip, rule),
        learning_rate,
        ratios=dict.fromkeys(REST, adam_lr_ratio),
        constrained=SPHERE,
        roles=roles,
        **common,
    )


ENTRY = Entry(adamh, study=dict(learning_rate=20e-3, adam_lr_ratio=3 / 13, weight_decay=0.0))
