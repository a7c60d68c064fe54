"""NorMuon: Muon with a second moment per neuron."""

import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.entry import Entry, Number
from optim.roles import Roles
from optim.rules.adamw import scale_by_adamw
from optim.rules.muons import parts
from optim.rules.muons.parts import FALLBACK, JORDAN, NewtonSchulz, Scale, matrix_flops, with_adam


@takes_options
def scale_by_normuon(
    momentum: ArrayLike = 0.95,
    muon_beta2: ArrayLike = 0.95,
    muon_epsilon: ArrayLike = 1e-7,
    normuon_epsilon: ArrayLike = 1e-10,
    options: NewtonSchulz = JORDAN,
    *,
    roles: Roles = None,
    nesterov: bool = True,
    averaged: bool = True,
    scale: Scale = "spectral",
) -> optax.GradientTransformation:
    """NorMuon's rule for matrices, heads and embeddings; arguments as in `normuon`.

    Raises:
      ValueError: for a gain, which is no matrix.
    """
    return optax.chain(
        parts.momentum(momentum, nesterov=nesterov, averaged=averaged),
        parts.orthogonalize(muon_epsilon, options, roles=roles),
        parts.normalize_rows(muon_beta2, normuon_epsilon, roles=roles),
        parts.fit_shape(scale, roles=roles),
    )


@optimizer(scale_by_normuon, scale_by_adamw, beta2=0.95, epsilon=1e-10, clipped=FALLBACK)
def normuon(rule, adam, learning_rate: Number, muon_to_adam_lr: Number = 0.015, **common):
    r"""NorMuon for hidden matrices, AdamW for embedding, head and gains.

    .. math::
      O_t = \mathrm{NS}_K(U_t) \ \text{(as in Muon)}, \quad
      v_t = \beta_2 v_{t-1} + (1-\beta_2) \, \mathrm{mean}_{in}(O_t^2), \quad
      N_t = \frac{O_t}{\sqrt{v_t} + \epsilon}, \quad
      u_t = \sqrt{\max(1, out/in)} \, \frac{\|O_t\|_F}{\|N_t\|_F + \epsilon} N_t

    The rows of an orthogonalised update differ in size when Newton-Schulz is cut short or the
    matrix is tall; v evens them out over time, at one number per output neuron. There is no bias
    correction: the division by the new norm makes it void.

    Args:
      learning_rate, momentum, muon_epsilon, muon_to_adam_lr, nesterov, averaged, scale: as in
        `muon`.
      muon_beta2: decay of v.
      beta1, beta2, epsilon: of the fallback AdamW.
      normuon_epsilon: beside the root of v and beside the new norm.

    References:
      Li et al, `NorMuon: Making Muon more efficient and scalable
      <https://arxiv.org/abs/2510.05491>`_, 2025. Defaults: zichongli5/NorMuon at d45c9a4,
      normuon.py 36-57 and the optimizer with its auxiliary Adam. Its paper scales by
      0.2 sqrt(in out) instead (`optim.rules.muons.parts.fit_rms`). dion's NorMuon has other
      defaults (no Nesterov, Polar Express, epsilon 1e-8).

      Preset "study": the rule with Muon's surroundings in Wen et al, `Fantastic Pretraining
      Optimizers and Where to Find Them <https://arxiv.org/abs/2509.02046>`_, 2025, which did not
      run it.
    """
    return with_adam(rule, adam, learning_rate, muon_to_adam_lr, **common)


ENTRY = Entry(
    normuon,
    schedule="wsd",
    flops=matrix_flops,
    version=2,  # bfloat16 keeps its coefficients
    study=dict(
        learning_rate=16e-3,
        beta1=0.95,
        epsilon=1e-15,
        muon_to_adam_lr=0.2,
        decay=0.6,
        ns_dtype=None,
    ),
)
