"""NorMuon: Muon with a second moment per neuron (Li et al. 2025, arXiv 2510.05491)."""

import optax

from optim.assemble import finish, takes_common
from optim.entry import BELOW_ONE, Entry, Number
from optim.roles import Kind, Roles
from optim.rules.muons.parts import (
    FALLBACK,
    JORDAN,
    NewtonSchulz,
    Scale,
    by_kind,
    fit_shape,
    matrix_flops,
    momentum,
    normalize_rows,
    orthogonalize,
)


def scale_by_normuon(
    beta=0.95,
    muon_beta2=0.95,
    muon_epsilon=1e-7,
    normuon_epsilon=1e-10,
    options: NewtonSchulz = JORDAN,
    *,
    roles: Roles = None,
    nesterov: bool = True,
    averaged: bool = True,
    scale: Scale = "spectral",
) -> optax.GradientTransformation:
    """NorMuon's rule for matrices, heads and embeddings; a gain raises ValueError.

    Arguments as in `normuon`, whose `momentum` is `beta`.
    """
    return optax.chain(
        momentum(beta, nesterov=nesterov, averaged=averaged),
        orthogonalize(muon_epsilon, options, roles=roles),
        normalize_rows(muon_beta2, normuon_epsilon, roles=roles),
        fit_shape(scale, roles=roles),
    )


@takes_common
def normuon(
    learning_rate: Number,
    momentum: Number = 0.95,
    muon_beta2: Number = 0.95,
    beta1: Number = 0.9,
    beta2: Number = 0.95,
    epsilon: Number = 1e-10,
    muon_epsilon: Number = 1e-7,
    normuon_epsilon: Number = 1e-10,
    muon_to_adam_lr: Number = 0.015,
    weight_decay: Number = 0.0,
    max_grad_norm: Number = 0.0,
    *,
    roles: Roles = None,
    options: NewtonSchulz = JORDAN,
    clipped: tuple[Kind, ...] = FALLBACK,
    nesterov: bool = True,
    averaged: bool = True,
    scale: Scale = "spectral",
    **common,
) -> optax.GradientTransformationExtraArgs:
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
        `optim.rules.muons.muon.muon`.
      muon_beta2: decay of v.
      beta1, beta2, epsilon: of the fallback AdamW.
      normuon_epsilon: beside the root of v and beside the new norm.
      weight_decay: decoupled, times the learning rate of the leaf's group.
      max_grad_norm: of the kinds in `clipped` only, by their own norm; 0 is off.
      roles: see `optim.roles.find_roles` (static).
      clipped: kinds that are clipped (static).
      options: see `optim.rules.muons.parts.NewtonSchulz`; its fields may also be given one by one
        (static).
      **common: other static options of `optim.assemble.finish`.

    authors: zichongli5/NorMuon at d45c9a4, normuon.py 36-57 and the optimizer with its auxiliary
    Adam. Its paper scales by 0.2 sqrt(in out) instead (`fit_rms`). dion's NorMuon has other
    defaults (no Nesterov, Polar Express, epsilon 1e-8). study: the rule with Muon's surroundings in
    arXiv 2509.02046, which did not run it.
    """
    rule = scale_by_normuon(
        momentum,
        muon_beta2,
        muon_epsilon,
        normuon_epsilon,
        options,
        roles=roles,
        nesterov=nesterov,
        averaged=averaged,
        scale=scale,
    )
    return finish(
        by_kind(rule, optax.scale_by_adam(beta1, beta2, epsilon), roles),
        learning_rate,
        weight_decay,
        max_grad_norm,
        ratios=dict.fromkeys(FALLBACK, muon_to_adam_lr),
        roles=roles,
        clipped=clipped,
        **common,
    )


ENTRY = Entry(
    normuon,
    schedule="wsd",
    flops=matrix_flops,
    bounds={"muon_beta2": (0.0, BELOW_ONE)},
    study=dict(
        learning_rate=16e-3,
        beta1=0.95,
        epsilon=1e-15,
        muon_to_adam_lr=0.2,
        weight_decay=0.1,
        max_grad_norm=1.0,
        decay=0.6,
        decayed=("matrix", "head"),
        ns_dtype=None,
    ),
)
