"""AdaMuon: a second moment on orthogonalised signs (Si et al. 2025, arXiv 2507.11005)."""

import optax

from optim.assemble import finish, takes_common
from optim.entry import BELOW_ONE, Entry, Number
from optim.roles import Kind, Roles
from optim.rules.muons.parts import (
    FALLBACK,
    JORDAN,
    NewtonSchulz,
    by_kind,
    fit_rms,
    matrix_flops,
    momentum,
    normalize_entries,
    orthogonalize,
    signs,
)


def scale_by_adamuon(
    beta=0.95,
    muon_beta2=None,
    muon_epsilon=1e-7,
    adamuon_epsilon=1e-8,
    rms=0.2,
    options: NewtonSchulz = JORDAN,
    *,
    roles: Roles = None,
    nesterov: bool = True,
    averaged: bool = True,
    sign: bool = True,
) -> optax.GradientTransformation:
    """AdaMuon's rule for matrices, heads and embeddings; a gain raises ValueError.

    Arguments as in `adamuon`, whose `momentum` is `beta`.
    """
    return optax.chain(
        momentum(beta, nesterov=nesterov, averaged=averaged),
        signs() if sign else optax.identity(),
        orthogonalize(muon_epsilon, options, roles=roles),
        normalize_entries(beta if muon_beta2 is None else muon_beta2, adamuon_epsilon),
        fit_rms(rms, adamuon_epsilon, roles=roles),
    )


@takes_common
def adamuon(
    learning_rate: Number,
    momentum: Number = 0.95,
    muon_beta2: Number | None = None,
    beta1: Number = 0.9,
    beta2: Number = 0.95,
    epsilon: Number = 1e-8,
    muon_epsilon: Number = 1e-7,
    adamuon_epsilon: Number = 1e-8,
    rms: Number = 0.2,
    muon_to_adam_lr: Number = 1.0,
    weight_decay: Number = 0.01,
    max_grad_norm: Number = 0.0,
    *,
    roles: Roles = None,
    options: NewtonSchulz = JORDAN,
    clipped: tuple[Kind, ...] = FALLBACK,
    nesterov: bool = True,
    averaged: bool = True,
    sign: bool = True,
    **common,
) -> optax.GradientTransformationExtraArgs:
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
      momentum, muon_epsilon, nesterov, averaged: as in `optim.rules.muons.muon.muon`.
      muon_beta2: decay of V; None is `momentum`, which the authors' code uses for both.
      beta1, beta2, epsilon: of the fallback AdamW.
      adamuon_epsilon: beside the root of V and beside the norm.
      rms: rho, of the entries of u.
      muon_to_adam_lr: learning rate of the fallback over that of the matrices.
      weight_decay: decoupled, times the learning rate of the leaf's group.
      max_grad_norm: of the kinds in `clipped` only, by their own norm; 0 is off.
      roles: see `optim.roles.find_roles` (static).
      clipped: kinds that are clipped (static).
      sign: orthogonalise the signs of the momentum, else the momentum itself (static).
      options: see `optim.rules.muons.parts.NewtonSchulz`; its fields may also be given one by one
        (static).
      **common: other static options of `optim.assemble.finish`.

    authors: Chongjie-Si/AdaMuon at 369f0b3, gpt2/models/optimizers/adamuon.py 60-100, with AdamW
    (0.9, 0.95) at the same learning rate as in its gpt2/models/model.py 357-370. Deviation: the
    authors hand the update over in bfloat16, here it keeps its dtype. Marin's AdaMuon has neither
    signs nor a mean momentum; 2512.05620's has bias correction and no signs. study: the rule with
    AdamW's surroundings in arXiv 2509.02046, which did not run it.
    """
    rule = scale_by_adamuon(
        momentum,
        muon_beta2,
        muon_epsilon,
        adamuon_epsilon,
        rms,
        options,
        roles=roles,
        nesterov=nesterov,
        averaged=averaged,
        sign=sign,
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
    adamuon,
    flops=matrix_flops,
    bounds={"muon_beta2": (0.0, BELOW_ONE)},
    study=dict(
        learning_rate=8e-3,
        muon_beta2=0.95,
        epsilon=1e-15,
        weight_decay=0.1,
        max_grad_norm=1.0,
        decayed=("matrix", "head"),
        ns_dtype=None,
    ),
)
