"""AdaMuon: a second moment on orthogonalised signs."""

import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.entry import Entry, Number
from optim.roles import Roles
from optim.rules.adamw import scale_by_adamw
from optim.rules.muons import parts
from optim.rules.muons.parts import FALLBACK, JORDAN, NewtonSchulz, matrix_flops, with_adam


@takes_options
def scale_by_adamuon(
    momentum: ArrayLike = 0.95,
    muon_beta2: ArrayLike | None = None,
    muon_epsilon: ArrayLike = 1e-7,
    adamuon_epsilon: ArrayLike = 1e-8,
    rms: ArrayLike = 0.2,
    options: NewtonSchulz = JORDAN,
    *,
    roles: Roles = None,
    nesterov: bool = True,
    averaged: bool = True,
    sign: bool = True,
) -> optax.GradientTransformation:
    """AdaMuon's rule for matrices, heads and embeddings; arguments as in `adamuon`.

    Raises:
      ValueError: for a gain, which is no matrix.
    """
    beta2 = momentum if muon_beta2 is None else muon_beta2
    return optax.chain(
        parts.momentum(momentum, nesterov=nesterov, averaged=averaged),
        parts.signs() if sign else optax.identity(),
        parts.orthogonalize(muon_epsilon, options, roles=roles),
        parts.normalize_entries(beta2, adamuon_epsilon),
        parts.fit_rms(rms, adamuon_epsilon, roles=roles),
    )


@optimizer(scale_by_adamuon, scale_by_adamw, beta2=0.95, weight_decay=0.01, clipped=FALLBACK)
def adamuon(rule, adam, learning_rate: Number, muon_to_adam_lr: Number = 1.0, **common):
    r"""AdaMuon for hidden matrices, AdamW for embedding, head and gains.

    .. math::
      O_t = \mathrm{NS}_K(\mathrm{sign}(U_t)), \quad
      V_t = \beta_2 V_{t-1} + (1-\beta_2) O_t^2, \quad
      N_t = \frac{O_t}{\sqrt{V_t} + \epsilon}, \quad
      u_t = \frac{\rho \sqrt{in \, out}}{\|N_t\|_F + \epsilon} N_t

    with U the momentum of Muon. Its updates have AdamW's size (rho = 0.2), so it wants AdamW's
    learning rate and decay, one for all leaves.

    Args:
      learning_rate: of all leaves, about AdamW's.
      momentum, muon_epsilon, nesterov, averaged: as in `muon`.
      muon_beta2: decay of V; None is `momentum`, which the authors' code uses for both.
      beta1, beta2, epsilon: of the fallback AdamW.
      adamuon_epsilon: beside the root of V and beside the norm.
      rms: rho, of the entries of u.
      muon_to_adam_lr: learning rate of the fallback over that of the matrices.
      sign: orthogonalise the signs of the momentum, else the momentum itself (static).

    References:
      Si et al, `AdaMuon: Adaptive Muon Optimizer <https://arxiv.org/abs/2507.11005>`_, 2025.
      Defaults: Chongjie-Si/AdaMuon at 369f0b3, gpt2/models/optimizers/adamuon.py 60-100, with AdamW
      (0.9, 0.95) at the same learning rate as in its gpt2/models/model.py 357-370. Deviation: the
      authors hand the update over in bfloat16, here it keeps its dtype. Marin's AdaMuon has neither
      signs nor a mean momentum; that of arXiv 2512.05620 has bias correction and no signs.

      Preset "study": the rule with AdamW's surroundings in Wen et al, `Fantastic Pretraining
      Optimizers and Where to Find Them <https://arxiv.org/abs/2509.02046>`_, 2025, which did not
      run it.
    """
    return with_adam(rule, adam, learning_rate, muon_to_adam_lr, **common)


ENTRY = Entry(
    adamuon,
    flops=matrix_flops,
    version=2,  # bfloat16 keeps its coefficients
    study=dict(
        learning_rate=8e-3,
        muon_beta2=0.95,
        epsilon=1e-15,
        ns_dtype=None,
    ),
)
