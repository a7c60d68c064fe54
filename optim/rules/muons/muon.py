"""Muon: momentum orthogonalised by Newton-Schulz (Jordan et al. 2024)."""

from typing import Literal

import optax

from optim.assemble import finish, takes_common
from optim.entry import Entry, Number, Precision
from optim.linalg.newton_schulz import Polynomial
from optim.roles import Kind, Roles
from optim.rules.muons import parts
from optim.rules.muons.parts import FALLBACK, Scale, by_kind, matrix_flops


def scale_by_muon(
    momentum=0.95,
    muon_epsilon=1e-7,
    *,
    roles: Roles = None,
    nesterov: bool = True,
    averaged: bool = True,
    scale: Scale = "spectral",
    **ns,
) -> optax.GradientTransformation:
    """Muon's rule for matrices, heads and embeddings; a gain raises ValueError.

    Arguments as in `muon`; **ns: fields of `optim.rules.muons.parts.NewtonSchulz`.
    """
    return optax.chain(
        parts.momentum(momentum, nesterov=nesterov, averaged=averaged),
        parts.orthogonalize(muon_epsilon, parts.NewtonSchulz(**ns), roles=roles),
        parts.fit_shape(scale, roles=roles),
    )


@takes_common
def muon(
    learning_rate: Number,
    momentum: Number = 0.95,
    beta1: Number = 0.9,
    beta2: Number = 0.95,
    epsilon: Number = 1e-10,
    muon_epsilon: Number = 1e-7,
    muon_to_adam_lr: Number = 0.015,
    weight_decay: Number = 0.0,
    max_grad_norm: Number = 0.0,
    *,
    roles: Roles = None,
    clipped: tuple[Kind, ...] = FALLBACK,
    nesterov: bool = True,
    averaged: bool = True,
    ns_steps: int = 5,
    ns_polynomial: Polynomial = "quintic",
    ns_dtype: Literal["bfloat16", "float32", None] = "bfloat16",
    ns_precision: Precision = None,
    scale: Scale = "spectral",
    **common,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon for hidden matrices, AdamW for embedding, head and gains.

    .. math::
      B_t = \mu B_{t-1} + \nu G_t, \quad U_t = \mu B_t + \nu G_t, \quad
      u_t = \sqrt{\max(1, out/in)} \; \mathrm{NS}_K(U_t)

    with nu = 1 - mu if `averaged`, else 1, and NS of `optim.linalg.newton_schulz`, so that
    every update has singular values near one whatever the gradient's size. All layers and all
    leaves with equal shapes (q, k, v, o; gate, up, down) go through one batched iteration.

    Args:
      learning_rate: of the matrices, in units of spectral norm; number, array or schedule.
      momentum: mu.
      beta1, beta2, epsilon: of the fallback AdamW.
      muon_epsilon: added to the norm of U_t before the iteration; with `averaged=False` U_t is
        1/(1-mu) times larger, so the same number means less.
      muon_to_adam_lr: learning rate of the fallback over that of the matrices; same schedule.
      weight_decay: decoupled, times the learning rate of the leaf's group.
      max_grad_norm: of the kinds in `clipped` only, by their own norm; 0 is off.
      roles: which leaves are matrices, and their axes; see `optim.roles.find_roles` (static).
      clipped: kinds that are clipped (static).
      nesterov: use U_t, else B_t (static).
      averaged: momentum as a mean of gradients rather than a sum (static).
      ns_steps, ns_polynomial, ns_dtype, ns_precision: of the iteration (static).
      scale: see `optim.rules.muons.parts.scale_factor` (static).
      **common: other static options of `optim.assemble.finish`.

    `authors` is Keller Jordan's code (github.com/KellerJordan/Muon): mean momentum, K = 5,
    bfloat16. `study` is what arXiv 2509.02046 ran: summed momentum, K = 10 (its text says 5), in
    the gradients' dtype.
    """
    matrix_rule = scale_by_muon(
        momentum,
        muon_epsilon,
        roles=roles,
        nesterov=nesterov,
        averaged=averaged,
        ns_steps=ns_steps,
        ns_polynomial=ns_polynomial,
        ns_dtype=ns_dtype,
        ns_precision=ns_precision,
        scale=scale,
    )
    return finish(
        by_kind(matrix_rule, optax.scale_by_adam(beta1, beta2, epsilon), roles),
        learning_rate,
        weight_decay,
        max_grad_norm,
        ratios=dict.fromkeys(FALLBACK, muon_to_adam_lr),
        roles=roles,
        clipped=clipped,
        **common,
    )


ENTRY = Entry(
    muon,
    schedule="wsd",
    flops=matrix_flops,
    study=dict(
        learning_rate=16e-3,
        momentum=0.98,
        beta1=0.95,
        beta2=0.95,
        epsilon=1e-15,
        muon_epsilon=1e-15,
        muon_to_adam_lr=0.2,
        weight_decay=0.1,
        max_grad_norm=1.0,
        decay=0.6,
        decayed=("matrix", "head"),
        averaged=False,
        ns_steps=10,
        ns_dtype=None,
    ),
)
