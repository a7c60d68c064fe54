"""MuonC: Muon with corrected weight decay, as marin's optimizer ladder ran it."""

import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.entry import Entry, Number
from optim.roles import Roles
from optim.rules.adamw import scale_by_adamw
from optim.rules.muons import parts
from optim.rules.muons.parts import FALLBACK, LEVANTER, NewtonSchulz, Scale, matrix_flops, with_adam


@takes_options
def scale_by_muonc(
    momentum: ArrayLike = 0.95,
    muon_epsilon: ArrayLike = 1e-8,
    options: NewtonSchulz = LEVANTER,
    *,
    roles: Roles = None,
    nesterov: bool = True,
    averaged: bool = True,
    renormalized: bool = True,
    scale: Scale = "spectral",
) -> optax.GradientTransformation:
    """MuonC's rule for matrices, heads and embeddings; arguments as in `muonc`."""
    return optax.chain(
        parts.momentum(momentum, nesterov=nesterov, averaged=averaged),
        parts.orthogonalize(muon_epsilon, options, roles=roles),
        parts.fit_rank(roles=roles) if renormalized else optax.identity(),
        parts.fit_shape(scale, roles=roles),
    )


@optimizer(
    scale_by_muonc,
    scale_by_adamw,
    beta2=0.95,
    max_grad_norm=1.0,
    clipped=FALLBACK,
    decayed=("matrix", "head"),
    weight_decay_kind="corrected",
)
def muonc(rule, adam, learning_rate: Number, muon_to_adam_lr: Number = 0.03, **common):
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
    return with_adam(rule, adam, learning_rate, muon_to_adam_lr, **common)


ENTRY = Entry(
    muonc,
    schedule="wsd",
    flops=matrix_flops,
    study=dict(learning_rate=20e-3, muon_to_adam_lr=0.2, decay=0.8),
)
