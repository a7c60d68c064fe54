"""Scion: linear minimisation over norm balls."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number
from optim.roles import Role, Roles, find_roles, stack_shape
from optim.rules.muons.muon import scale_by_muon
from optim.rules.muons.parts import FALLBACK, JORDAN, NewtonSchulz, Scale, by_kind, matrix_flops

OuterNorm = Literal["sign", "sign_per_feature"]


class ScaleBySignumState(NamedTuple):
    mu: optax.Updates  # mean gradient, like the parameters


@takes_options
def scale_by_scion(
    momentum: ArrayLike = 0.9,
    scion_epsilon: ArrayLike = 1e-7,
    spectral_radius: ArrayLike = 1.0,
    options: NewtonSchulz = JORDAN,
    *,
    roles: Roles = None,
    scale: Scale = "ratio",
) -> optax.GradientTransformation:
    """Scion's rule for hidden matrices: Muon's with mean momentum and without Nesterov, times
    `spectral_radius`. Arguments as in `scion`."""
    muon = {"nesterov": False, "averaged": True, "scale": scale, "roles": roles}
    rule = scale_by_muon(momentum, scion_epsilon, options=options, **muon)
    return optax.chain(rule, optax.scale(spectral_radius))


@takes_options
def scale_by_signum(
    beta1: ArrayLike = 0.9,
    sign_radius: ArrayLike = 1.0,
    spectral_radius: ArrayLike = 1.0,
    *,
    roles: Roles = None,
    outer_norm: OuterNorm = "sign",
) -> optax.GradientTransformationExtraArgs:
    """The sign of a mean gradient, times `sign_radius`, for gains `spectral_radius`; for embedding,
    head and gains.

    outer_norm (static): "sign" for every leaf; "sign_per_feature" divides embedding and head by
    their number of features, and takes m / rms(m) for gains, as the authors' Sign(normalized) and
    BiasRMS do.
    """

    def direction(m, role: Role):
        if outer_norm == "sign":
            return (spectral_radius if role.kind == "gain" else sign_radius) * jnp.sign(m)
        if role.kind == "gain":
            mean_square = jnp.mean(m * m, axis=role.outputs or None, keepdims=True)
            return spectral_radius * m / (jnp.sqrt(mean_square) + 1e-8)
        _, fan_in, fan_out = stack_shape(m, role)
        features = fan_out if role.kind == "embedding" else fan_in
        return sign_radius / max(features, 1) * jnp.sign(m)

    def init(params):
        return ScaleBySignumState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None, **_):
        del params
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        return jax.tree.map(direction, mu, find_roles(mu, roles)), ScaleBySignumState(mu)

    return optax.GradientTransformationExtraArgs(init, update)


@optimizer(
    scale_by_scion,
    scale_by_signum,
    spectral_radius=50.0,
    sign_radius=3000.0,
    outer_norm="sign_per_feature",
    weight_decay=1.0,
    clipped=FALLBACK,
)
def scion(rule, outer, learning_rate: Number, scion_to_signum_lr: Number = 1.0, *, roles, **common):
    r"""Scion: each layer moves to the edge of a norm ball, spectral for matrices, max-norm outside.

    .. math::
      M_t = \mu M_{t-1} + (1-\mu) G_t, \qquad
      u_t = \rho \sqrt{out/in} \; \mathrm{NS}_K(M_t) \ \text{(matrices)}, \qquad
      u_t = \rho' \, \mathrm{sign}(m_t) / d \ \text{(embedding, head; mean over } \beta_1)

    Args:
      momentum: mu, the weight of the past. (The authors' argument `momentum` is 1 - mu.)
      beta1: the same for embedding, head and gains.
      scion_epsilon: added to the norm of M_t before the Newton-Schulz iteration.
      scion_to_signum_lr: learning rate outside the matrices over that of the matrices.
      spectral_radius, sign_radius: rho and rho'; gains use rho.
      weight_decay: decoupled. 1 is the authors' constrained variant (iterates stay in the balls: w
        is averaged towards -u), 0 the unconstrained one.
      outer_norm: see `scale_by_signum` (static).
      scale: as in `muon` (static).

    References:
      Pethick et al, `Training Deep Learning Models with Norm-Constrained LMOs
      <https://arxiv.org/abs/2502.07529>`_, 2025. Defaults: https://github.com/LIONS-EPFL/scion with
      the radii of its NanoGPT example.

      Preset "study": what Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them
      <https://arxiv.org/abs/2509.02046>`_, 2025, ran: no radii, the factor sqrt(max(1, out/in)) of
      Muon, K = 10, plain sign outside the matrices, AdamW-style decay.
    """
    ratios = dict.fromkeys(FALLBACK, scion_to_signum_lr)
    both = by_kind(rule, outer, roles)
    return finish(both, learning_rate, ratios=ratios, roles=roles, **common)


ENTRY = Entry(
    scion,
    schedule="wsd",
    flops=matrix_flops,
    version=2,  # bfloat16 keeps its coefficients
    study=dict(
        learning_rate=16e-3,
        momentum=0.98,
        beta1=0.95,
        scion_epsilon=1e-15,
        scion_to_signum_lr=0.2,
        spectral_radius=1.0,
        sign_radius=1.0,
        weight_decay=0.0,
        decay=0.4,
        outer_norm="sign",
        ns_steps=10,
        ns_dtype=None,
        scale="spectral",
    ),
)
