"""Muon: momentum orthogonalised by Newton-Schulz."""

import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.entry import Entry, Number
from optim.roles import Roles
from optim.rules.adamw import scale_by_adamw
from optim.rules.muons import parts
from optim.rules.muons.parts import FALLBACK, JORDAN, NewtonSchulz, Scale, matrix_flops, with_adam


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


@optimizer(scale_by_muon, scale_by_adamw, beta2=0.95, epsilon=1e-10, clipped=FALLBACK)
def muon(rule, adam, learning_rate: Number, muon_to_adam_lr: Number = 0.015, **common):
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
    return with_adam(rule, adam, learning_rate, muon_to_adam_lr, **common)


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
        decay=0.6,
        averaged=False,
        ns_steps=10,
        ns_dtype=None,
    ),
)
