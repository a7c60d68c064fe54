"""AdamH: Adam with its matrices on the hyperball (Wen et al. 2026, arXiv 2606.16899)."""

import optax

from optim.assemble import clip_by_norm, finish, takes_common
from optim.entry import Entry, Number
from optim.roles import KINDS, Kind, Roles
from optim.rules.adamw import scale_by_adamw

SPHERE: tuple[Kind, ...] = ("matrix", "head")


@takes_common
def adamh(
    learning_rate: Number,
    beta1: Number = 0.9,
    beta2: Number = 0.95,
    epsilon: Number = 1e-8,
    adam_lr_ratio: Number = 1.0,
    weight_decay: Number = 0.0,
    max_grad_norm: Number = 1.0,
    *,
    roles: Roles = None,
    clipped: tuple[Kind, ...] = KINDS,
    **common,
) -> optax.GradientTransformationExtraArgs:
    """Adam whose matrices and head keep their norm; plain AdamW for embedding and gains.

    The step is that of `optim.sphere` with Adam's direction.

    Args:
      learning_rate: a share of the weights: 0.01 moves a matrix by 1 % of its norm.
      beta1, beta2, epsilon: as in Adam.
      adam_lr_ratio: learning rate of embedding and gains, in AdamW's units, over `learning_rate`.
      weight_decay: of embedding and gains; decoupled.
      max_grad_norm: matrices and head together, embedding and gains together are each clipped to
        this norm; 0 is off.
      roles: see `optim.roles.find_roles` (static).
      clipped: kinds that are clipped (static).
      **common: other static options of `optim.assemble.finish`.

    authors: levanter's optim/adamh.py (marin-community/marin at 0084342). study: the best rate of
    the recorded Qwen3 ladder at 130M, whose ratio is 3/13.
    """
    others = tuple(kind for kind in KINDS if kind not in SPHERE)
    groups = [tuple(kind for kind in group if kind in clipped) for group in (SPHERE, others)]
    clips = [clip_by_norm(max_grad_norm, group, roles=roles) for group in groups]
    return finish(
        optax.chain(*clips, scale_by_adamw(beta1, beta2, epsilon)),
        learning_rate,
        weight_decay,
        ratios=dict.fromkeys(others, adam_lr_ratio),
        constrained=SPHERE,
        roles=roles,
        **common,
    )


ENTRY = Entry(
    adamh, study=dict(learning_rate=20e-3, adam_lr_ratio=3 / 13, decayed=("matrix", "head"))
)
