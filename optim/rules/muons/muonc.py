"""MuonC: Muon with corrected weight decay, as marin's optimizer ladder ran it."""

from typing import Unpack

import optax

from optim.alias import Common, takes_common
from optim.entry import Entry, Number
from optim.roles import Roles
from optim.rules.muons import parts
from optim.rules.muons.parts import FALLBACK, LEVANTER, NewtonSchulz, Scale, matrix_flops


@takes_common(clipped=FALLBACK, decayed=("matrix", "head"), weight_decay_kind="corrected")
def muonc(
    learning_rate: Number,
    momentum: Number = 0.95,
    beta1: Number = 0.9,
    beta2: Number = 0.95,
    epsilon: Number = 1e-8,
    muon_epsilon: Number = 1e-8,
    muon_to_adam_lr: Number = 0.03,
    weight_decay: Number = 0.0,
    max_grad_norm: Number = 1.0,
    *,
    roles: Roles = None,
    options: NewtonSchulz = LEVANTER,
    nesterov: bool = True,
    averaged: bool = True,
    renormalized: bool = True,
    scale: Scale = "spectral",
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""Muon for hidden matrices, AdamC for embedding, head and gains.

    .. math::
      O_t = \mathrm{NS}_K(U_t), \quad
      u_t = \sqrt{\max(1, out/in)} \, \frac{\sqrt{\min(in, out)}}{\|O_t\|_F} O_t, \quad
      w \leftarrow w - \eta_t (u_t + \lambda \frac{\eta_t}{\eta_{max}} w)

    Args:
      learning_rate, momentum, beta1, beta2, epsilon, muon_epsilon, muon_to_adam_lr, nesterov,
        averaged, scale: as in `muon`.
      weight_decay: lambda, of both groups, each with its own learning rate.
      renormalized: each update to the norm of an orthogonal matrix (static).

    References:
      marin-community/marin at c1be944, experiments/speedrun/muonc_qwen3_scaling/muonc_optimizer.py.
      It imports `normalize_2d_update_fro_norm` from a file beside it that we did not find: that
      function is taken as the plain quotient above. Decay: `adamc`.

      Preset "study": the best rate of that ladder at 130M.
    """
    rule = optax.chain(
        parts.momentum(momentum, nesterov=nesterov, averaged=averaged),
        parts.orthogonalize(muon_epsilon, options, roles=roles),
        parts.fit_rank(roles=roles) if renormalized else optax.identity(),
        parts.fit_shape(scale, roles=roles),
    )
    adam = (beta1, beta2, epsilon)
    rest = (learning_rate, weight_decay, max_grad_norm, muon_to_adam_lr)
    return parts.with_adam(rule, adam, *rest, roles=roles, **common)


ENTRY = Entry(
    muonc,
    schedule="wsd",
    flops=matrix_flops,
    study=dict(learning_rate=20e-3, muon_to_adam_lr=0.2, weight_decay=0.1, decay=0.8),
)
