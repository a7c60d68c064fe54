"""MuonC: Muon with corrected weight decay, as marin's optimizer ladder ran it (2026)."""

import optax

from optim.assemble import WeightDecay, finish, takes_common
from optim.entry import Entry, Number
from optim.roles import Kind, Roles
from optim.rules.muons.parts import (
    FALLBACK,
    LEVANTER,
    NewtonSchulz,
    Scale,
    by_kind,
    fit_rank,
    fit_shape,
    matrix_flops,
    orthogonalize,
)
from optim.rules.muons.parts import momentum as momentum_part


@takes_common
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
    clipped: tuple[Kind, ...] = FALLBACK,
    decayed: tuple[Kind, ...] = ("matrix", "head"),
    weight_decay_kind: WeightDecay = "corrected",
    nesterov: bool = True,
    averaged: bool = True,
    renormalized: bool = True,
    scale: Scale = "spectral",
    **common,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon for hidden matrices, AdamC for embedding, head and gains.

    .. math::
      O_t = \mathrm{NS}_K(U_t), \quad
      u_t = \sqrt{\max(1, out/in)} \, \frac{\sqrt{\min(in, out)}}{\|O_t\|_F} O_t, \quad
      w \leftarrow w - \eta_t (u_t + \lambda \frac{\eta_t}{\eta_{max}} w)

    Args:
      learning_rate, momentum, beta1, beta2, epsilon, muon_epsilon, muon_to_adam_lr, nesterov,
        averaged, scale: as in `optim.rules.muons.muon.muon`.
      weight_decay: lambda, of both groups, each with its own learning rate.
      max_grad_norm: of the kinds in `clipped` only, by their own norm; 0 is off.
      roles: see `optim.roles.find_roles` (static).
      clipped, decayed: kinds that are clipped and that decay (static).
      weight_decay_kind: see `optim.assemble.descend` (static).
      renormalized: each update to the norm of an orthogonal matrix (static).
      options: see `optim.rules.muons.parts.NewtonSchulz`; its fields may also be given one by one
        (static).
      **common: other static options of `optim.assemble.finish`.

    authors: marin-community/marin at c1be944,
    experiments/speedrun/muonc_qwen3_scaling/muonc_optimizer.py. Its helper that renormalises was
    not available: it is taken as the plain quotient above. study: the best rate of that ladder at
    130M.
    """
    rule = optax.chain(
        momentum_part(momentum, nesterov=nesterov, averaged=averaged),
        orthogonalize(muon_epsilon, options, roles=roles),
        fit_rank(roles=roles) if renormalized else optax.identity(),
        fit_shape(scale, roles=roles),
    )
    return finish(
        by_kind(rule, optax.scale_by_adam(beta1, beta2, epsilon), roles),
        learning_rate,
        weight_decay,
        max_grad_norm,
        ratios=dict.fromkeys(FALLBACK, muon_to_adam_lr),
        roles=roles,
        clipped=clipped,
        decayed=decayed,
        weight_decay_kind=weight_decay_kind,
        **common,
    )


ENTRY = Entry(
    muonc,
    schedule="wsd",
    flops=matrix_flops,
    study=dict(learning_rate=20e-3, muon_to_adam_lr=0.2, weight_decay=0.1, decay=0.8),
)
