"""Muon: momentum orthogonalised by Newton-Schulz."""

from typing import Unpack

import optax
from jax.typing import ArrayLike

from optim.alias import Common, takes_common, takes_options
from optim.entry import Entry, Number
from optim.roles import Roles
from optim.rules.muons import parts
from optim.rules.muons.parts import FALLBACK, JORDAN, NewtonSchulz, Scale, matrix_flops


@takes_options
def scale_by_muon(
    momentum: ArrayLike = 0.95,
    muon_epsilon: ArrayLike = 1e-7,
    options: NewtonSchulz = JORDAN,
    *,
    roles: Roles = None,
    nesterov: bool = True,
    averaged: bool = True,
    scale: Scale = "spectral",
) -> optax.GradientTransformation:
    """Muon's rule for matrices, heads and embeddings; arguments as in `muon`.

    Raises:
      ValueError: for a gain, which is no matrix.
    """
    return optax.chain(
        parts.momentum(momentum, nesterov=nesterov, averaged=averaged),
        parts.orthogonalize(muon_epsilon, options, roles=roles),
        parts.fit_shape(scale, roles=roles),
    )


@takes_common(clipped=FALLBACK)
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
    options: NewtonSchulz = JORDAN,
    nesterov: bool = True,
    averaged: bool = True,
    scale: Scale = "spectral",
    **common: Unpack[Common],
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
      nesterov: use U_t, else B_t (static).
      averaged: momentum as a mean of gradients rather than a sum (static).
      scale: see `optim.rules.muons.parts.scale_factor` (static).

    References:
      Jordan et al, `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024. Defaults: Keller Jordan's code
      (https://github.com/KellerJordan/Muon), mean momentum, K = 5, bfloat16.

      Preset "study": what Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them
      <https://arxiv.org/abs/2509.02046>`_, 2025, ran: summed momentum, K = 10 (its text says 5),
      in the gradients' dtype.
    """
    rule = scale_by_muon(
        momentum,
        muon_epsilon,
        options=options,
        roles=roles,
        nesterov=nesterov,
        averaged=averaged,
        scale=scale,
    )
    adam = (beta1, beta2, epsilon)
    rest = (learning_rate, weight_decay, max_grad_norm, muon_to_adam_lr)
    return parts.with_adam(rule, adam, *rest, roles=roles, **common)


ENTRY = Entry(
    muon,
    schedule="wsd",
    flops=matrix_flops,
    version=2,  # bfloat16 keeps its coefficients
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
