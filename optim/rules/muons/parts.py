"""Parts that matrix rules are chained from: momentum, direction, normalisation, size.

    optax.chain(momentum(0.95), orthogonalize(), fit_shape())                       # Muon
    optax.chain(momentum(0.95), orthogonalize(), normalize_rows(0.95), fit_shape()) # NorMuon
    optax.chain(momentum(0.95), signs(), orthogonalize(), normalize_entries(0.95), fit_rms())

(the last is AdaMuon). Each maps directions to directions; `optim.assemble.finish` puts the clip in
front, and decay, constraint and learning rate behind. A matrix is one of a leaf's stack, as its
role says. Weights are (inputs, outputs); a row of the papers' (outputs, inputs) is an output here.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim.assemble import finish, of_kinds
from optim.entry import Precision
from optim.linalg.newton_schulz import (
    Form,
    Polynomial,
    newton_schulz,
    newton_schulz_flops,
)
from optim.roles import Kind, Role, Roles, find_roles, stack_shape
from optim.sphere import norm
from optim.stacks.batching import map_matrices

Scale = Literal["spectral", "ratio", "rms", "none"]
FALLBACK: tuple[Kind, ...] = ("embedding", "head", "gain")  # what a matrix rule leaves to another


class MomentumState(NamedTuple):
    mu: optax.Updates  # like the parameters


def momentum(
    beta=0.95, *, nesterov: bool = True, averaged: bool = True
) -> optax.GradientTransformation:
    """B <- beta B + nu G, and out comes beta B + nu G (`nesterov`) or B; nu is 1 - beta if
    `averaged`, else 1."""
    new = 1 - beta if averaged else 1

    def accumulate(m, g):
        return beta * m + new * g

    def init(params):
        return MomentumState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        mu = jax.tree.map(accumulate, state.mu, updates)
        ahead = jax.tree.map(accumulate, mu, updates) if nesterov else mu
        return ahead, MomentumState(mu)

    return optax.GradientTransformation(init, update)


@dataclass(frozen=True)
class NewtonSchulz:
    """Static options of Newton-Schulz, see `optim.linalg.newton_schulz.newton_schulz`:

    ns_steps, ns_polynomial    how many steps of which polynomials.
    ns_form                    "standard", or "gram": the same map on the Gram matrix.
    ns_dtype, ns_precision     of the iteration; None is the gradients', None JAX's.
    """

    ns_steps: int = 5
    ns_polynomial: Polynomial = "quintic"
    ns_form: Form = "standard"
    ns_dtype: Literal["bfloat16", "float32", None] = "bfloat16"
    ns_precision: Precision = None


JORDAN = NewtonSchulz()  # Keller Jordan's Muon
LEVANTER = NewtonSchulz(ns_polynomial="you", ns_dtype=None)


def orthogonalize(
    epsilon=1e-7, options: NewtonSchulz = JORDAN, *, roles: Roles = None
) -> optax.GradientTransformation:
    """The polar factor of each matrix, approximately; a gain raises ValueError.

    epsilon is added to the norm of a matrix before the iteration.
    """

    def polar(x):
        return newton_schulz(
            x,
            epsilon,
            steps=options.ns_steps,
            polynomial=options.ns_polynomial,
            form=options.ns_form,
            dtype=options.ns_dtype,
            precision=options.ns_precision,
        )

    return stateless(lambda updates: map_matrices(polar, updates, roles, products=True))


def signs() -> optax.GradientTransformation:
    """The sign of every entry."""
    return stateless(lambda updates: jax.tree.map(jnp.sign, updates))


def fit_shape(scale: Scale = "spectral", *, roles: Roles = None) -> optax.GradientTransformation:
    """Each matrix times its `scale_factor`."""
    return by_role(lambda u, role: scale_factor(u, role, scale) * u, roles)


def scale_factor(leaf: jax.Array, role: Role, scale: Scale) -> float:
    """By which the orthogonal factor of an (in, out) matrix is multiplied.

    "spectral": sqrt(max(1, out / in)), Jordan's; "ratio": sqrt(out / in), Scion's; "rms": 0.2
    sqrt(max(in, out)), to match the size of AdamW's updates (arXiv 2502.16982); "none": 1.
    """
    fan_in, fan_out = (max(size, 1) for size in stack_shape(leaf, role)[1:])
    factors = {
        "spectral": math.sqrt(max(1, fan_out / fan_in)),
        "ratio": math.sqrt(fan_out / fan_in),
        "rms": 0.2 * math.sqrt(max(fan_in, fan_out)),
        "none": 1.0,
    }
    return factors[scale]


def fit_rms(rms=0.2, epsilon=1e-8, *, roles: Roles = None) -> optax.GradientTransformation:
    """Each matrix (m, n) times rms sqrt(m n) / (its Frobenius norm + epsilon)."""

    def fit(u, role: Role):
        _, fan_in, fan_out = stack_shape(u, role)
        return rms * (fan_in * fan_out) ** 0.5 / (norm(u, role) + epsilon) * u

    return by_role(fit, roles)


def fit_rank(epsilon=1e-8, *, roles: Roles = None) -> optax.GradientTransformation:
    """Each matrix (m, n) to Frobenius norm sqrt(min(m, n)), which it has if it is orthogonal."""

    def fit(u, role: Role):
        return min(stack_shape(u, role)[1:]) ** 0.5 / jnp.maximum(norm(u, role), epsilon) * u

    return by_role(fit, roles)


class SecondMomentState(NamedTuple):
    nu: optax.Updates  # mean squares, like the parameters or with their reduced axes of size 1


def normalize_rows(
    beta2=0.95, epsilon=1e-10, *, roles: Roles = None
) -> optax.GradientTransformation:
    """Each output neuron over the root of the mean square of its weights' updates, averaged over
    time; each matrix keeps its Frobenius norm. NorMuon's normalisation."""

    def reduced(p, role: Role):
        return jnp.zeros([1 if i in role.inputs else n for i, n in enumerate(p.shape)], p.dtype)

    def init(params):
        return SecondMomentState(jax.tree.map(reduced, params, find_roles(params, roles)))

    def update(updates, state, params=None):
        del params
        found = find_roles(updates, roles)

        def average(v, u, role: Role):
            return beta2 * v + (1 - beta2) * jnp.mean(u * u, axis=role.inputs, keepdims=True)

        def divide(u, v, role: Role):
            even = u / (jnp.sqrt(v) + epsilon)
            return even * (norm(u, role) / (norm(even, role) + epsilon))

        nu = jax.tree.map(average, state.nu, updates, found)
        return jax.tree.map(divide, updates, nu, found), SecondMomentState(nu)

    return optax.GradientTransformation(init, update)


def normalize_entries(beta2=0.95, epsilon=1e-8) -> optax.GradientTransformation:
    """Each entry over the root of its mean square, without bias correction. AdaMuon's
    normalisation."""

    def init(params):
        return SecondMomentState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        nu = jax.tree.map(lambda v, u: beta2 * v + (1 - beta2) * u * u, state.nu, updates)
        even = jax.tree.map(lambda u, v: u / (jnp.sqrt(v) + epsilon), updates, nu)
        return even, SecondMomentState(nu)

    return optax.GradientTransformation(init, update)


def stateless(fn) -> optax.GradientTransformation:
    """`fn` of the updates."""
    return optax.stateless(lambda updates, params: fn(updates))


def by_role(fn, roles: Roles) -> optax.GradientTransformation:
    """`fn(leaf, role)` of every leaf."""
    return stateless(lambda updates: jax.tree.map(fn, updates, find_roles(updates, roles)))


def by_kind(
    matrix_rule: optax.GradientTransformation,
    fallback_rule: optax.GradientTransformation,
    roles: Roles = None,
) -> optax.GradientTransformationExtraArgs:
    """`matrix_rule` for hidden matrices, `fallback_rule` for everything else."""
    rules = {"matrix": matrix_rule, "fallback": fallback_rule}

    def labels(tree):
        is_matrix = of_kinds(tree, ("matrix",), roles)
        return jax.tree.map(lambda yes: "matrix" if yes else "fallback", is_matrix)

    return optax.partition(rules, labels)


def with_adam(
    rule: optax.GradientTransformation,
    adam: optax.GradientTransformation,
    learning_rate,
    ratio,
    *,
    roles: Roles = None,
    **common,
) -> optax.GradientTransformationExtraArgs:
    """The whole optimizer of a matrix rule: `adam` for everything else, at `ratio` times the
    learning rate. Other arguments as in `optim.assemble.finish`."""
    ratios = dict.fromkeys(FALLBACK, ratio)
    return finish(by_kind(rule, adam, roles), learning_rate, ratios=ratios, roles=roles, **common)


def matrix_flops(role: Role, leaf, values) -> float:
    """FLOPs of the Newton-Schulz iteration, for hidden matrices."""
    if role.kind != "matrix":
        return 0.0
    form = values.get("ns_form", "standard")
    return newton_schulz_flops(stack_shape(leaf, role), values["ns_steps"], form)
