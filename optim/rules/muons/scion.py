"""Scion: linear minimisation over norm balls (Pethick et al. 2025, arXiv 2502.07529)."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim.assemble import finish, takes_common
from optim.entry import Entry, Number, Precision
from optim.linalg.newton_schulz import Polynomial
from optim.roles import Kind, Role, Roles, find_roles, stack_shape
from optim.rules.muons.muon import scale_by_muon
from optim.rules.muons.parts import FALLBACK, Scale, by_kind, matrix_flops

OuterNorm = Literal["sign", "sign_per_feature"]


class ScaleBySignumState(NamedTuple):
    mu: optax.Updates  # mean gradient, like the parameters


def scale_by_scion(
    momentum=0.9, scion_epsilon=1e-7, spectral_radius=1.0, *, scale: Scale = "ratio", **ns
):
    """Scion's rule for hidden matrices: Muon's with mean momentum and without Nesterov, times
    `spectral_radius`.

    **ns: `roles` and the static options `ns_*` of `optim.rules.muons.muon.scale_by_muon`.
    """
    rule = scale_by_muon(momentum, scion_epsilon, nesterov=False, averaged=True, scale=scale, **ns)
    return optax.chain(rule, optax.scale(spectral_radius))


def scale_by_signum(
    beta1=0.9,
    sign_radius=1.0,
    spectral_radius=1.0,
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


@takes_common
def scion(
    learning_rate: Number,
    momentum: Number = 0.9,
    beta1: Number = 0.9,
    scion_epsilon: Number = 1e-7,
    scion_to_signum_lr: Number = 1.0,
    spectral_radius: Number = 50.0,
    sign_radius: Number = 3000.0,
    weight_decay: Number = 1.0,
    max_grad_norm: Number = 0.0,
    *,
    roles: Roles = None,
    clipped: tuple[Kind, ...] = FALLBACK,
    outer_norm: OuterNorm = "sign_per_feature",
    ns_steps: int = 5,
    ns_polynomial: Polynomial = "quintic",
    ns_dtype: Literal["bfloat16", "float32", None] = "bfloat16",
    ns_precision: Precision = None,
    scale: Scale = "ratio",
    **common,
) -> optax.GradientTransformationExtraArgs:
    r"""Scion: each layer moves to the edge of a norm ball, spectral for matrices, max-norm outside.

    .. math::
      M_t = \mu M_{t-1} + (1-\mu) G_t, \qquad
      u_t = \rho \sqrt{out/in} \; \mathrm{NS}_K(M_t) \ \text{(matrices)}, \qquad
      u_t = \rho' \, \mathrm{sign}(m_t) / d \ \text{(embedding, head; mean over } \beta_1)

    Args:
      learning_rate: number, array or schedule.
      momentum: mu, the weight of the past. (The authors' argument `momentum` is 1 - mu.)
      beta1: the same for embedding, head and gains.
      scion_epsilon: added to the norm of M_t before the Newton-Schulz iteration.
      scion_to_signum_lr: learning rate outside the matrices over that of the matrices.
      spectral_radius, sign_radius: rho and rho'; gains use rho.
      weight_decay: decoupled. 1 is the authors' constrained variant (iterates stay in the balls: w
        is averaged towards -u), 0 the unconstrained one.
      max_grad_norm: of the kinds in `clipped` only, by their own norm; 0 is off.
      roles: see `optim.roles.find_roles` (static).
      clipped: kinds that are clipped (static).
      outer_norm: see `scale_by_signum` (static).
      ns_steps, ns_polynomial, ns_dtype, ns_precision, scale: as in `muon` (static).
      **common: other static options of `optim.assemble.finish`.

    `authors` is github.com/LIONS-EPFL/scion with the radii of its NanoGPT example. `study` is what
    arXiv 2509.02046 ran: no radii, the factor sqrt(max(1, out/in)) of Muon, K = 10, plain sign
    outside the matrices, AdamW-style decay.
    """
    matrix_rule = scale_by_scion(
        momentum,
        scion_epsilon,
        spectral_radius,
        roles=roles,
        ns_steps=ns_steps,
        ns_polynomial=ns_polynomial,
        ns_dtype=ns_dtype,
        ns_precision=ns_precision,
        scale=scale,
    )
    outer_rule = scale_by_signum(
        beta1, sign_radius, spectral_radius, roles=roles, outer_norm=outer_norm
    )
    return finish(
        by_kind(matrix_rule, outer_rule, roles),
        learning_rate,
        weight_decay,
        max_grad_norm,
        ratios=dict.fromkeys(FALLBACK, scion_to_signum_lr),
        roles=roles,
        clipped=clipped,
        **common,
    )


ENTRY = Entry(
    scion,
    schedule="wsd",
    flops=matrix_flops,
    study=dict(
        learning_rate=16e-3,
        momentum=0.98,
        beta1=0.95,
        scion_epsilon=1e-15,
        scion_to_signum_lr=0.2,
        spectral_radius=1.0,
        sign_radius=1.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        decay=0.4,
        decayed=("matrix", "head"),
        outer_norm="sign",
        ns_steps=10,
        ns_dtype=None,
        scale="spectral",
    ),
)
