"""MuonH: Muon with its matrices on the hyperball."""

import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number
from optim.roles import Roles
from optim.rules.adamh import REST, SPHERE, clip_apart
from optim.rules.adamw import scale_by_adamw
from optim.rules.muons import parts
from optim.rules.muons.parts import LEVANTER, NewtonSchulz, matrix_flops


@takes_options
def scale_by_polar_factor(
    momentum: ArrayLike = 0.95,
    muon_epsilon: ArrayLike = 1e-8,
    options: NewtonSchulz = LEVANTER,
    *,
    roles: Roles = None,
    nesterov: bool = True,
    averaged: bool = False,
) -> optax.GradientTransformation:
    """Muon's direction without a size."""
    return optax.chain(
        parts.momentum(momentum, nesterov=nesterov, averaged=averaged),
        parts.orthogonalize(muon_epsilon, options, roles=roles),
    )


@optimizer(scale_by_polar_factor, scale_by_adamw, beta2=0.95, max_grad_norm=1.0)
def muonh(
    rule,
    adam,
    learning_rate: Number,
    muon_to_adam_lr: Number = 1.0,
    *,
    max_grad_norm,
    clipped,
    roles,
    **common,
):
    """Muon whose matrices keep their norm; Adam for the rest, the head on the hyperball too.

    The step is that of `optim.sphere` with Muon's direction, whose size and shape factor
    therefore do not matter.

    Args:
      learning_rate: of matrices and head, a share of the weights: 0.01 moves a matrix by 1 % of its
        norm.
      momentum, muon_epsilon, nesterov, averaged: as in `muon`.
      beta1, beta2, epsilon: of Adam.
      muon_to_adam_lr: learning rate of embedding and gains, in AdamW's units, over `learning_rate`.
      weight_decay: of embedding and gains; decoupled.
      max_grad_norm: matrices, head, and embedding and gains together are each clipped to this norm;
        0 is off.

    References:
      Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them II: Hyperball Optimization
      <https://arxiv.org/abs/2606.16899>`_, 2026. Defaults: levanter's optim/muonh.py
      (marin-community/marin at 05422e2) with the five polynomials of its optim/util.py at 054a715.
      MuonH of modded-nanogpt's track 3 has a mean momentum and twelve "cubic" steps.

      Preset "study": the best rate of the recorded Qwen3 ladder at 130M, whose ratio is 3/13.
    """
    clip = clip_apart(max_grad_norm, (("matrix",), ("head",), REST), clipped, roles=roles)
    return finish(
        optax.chain(clip, parts.by_kind(rule, adam, roles)),
        learning_rate,
        ratios=dict.fromkeys(REST, muon_to_adam_lr),
        constrained=SPHERE,
        roles=roles,
        **common,
    )


ENTRY = Entry(
    muonh,
    flops=matrix_flops,
    study=dict(learning_rate=20e-3, muon_to_adam_lr=3 / 13, weight_decay=0.0),
)
