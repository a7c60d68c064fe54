"""Dion: low-rank orthonormal updates by power iteration."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.entry import Entry, Number, Precision
from optim.linalg import lapack
from optim.roles import Role, Roles, find_roles, from_stack, stack_shape, to_stack
from optim.rules.adamw import scale_by_adamw
from optim.rules.muons.parts import FALLBACK, Scale, fit_shape, with_adam
from optim.stacks.batching import map_grouped, turn
from optim.stacks.placement import share_out
from optim.stacks.probes import gaussian_like, probe_key


class ScaleByDionState(NamedTuple):
    mu: Any  # momentum, like the parameters, without the part that was taken out of it
    bases: Any  # {"short": Q} of each leaf, (stack, short side, rank)


@takes_options
def scale_by_dion(
    momentum: ArrayLike = 0.95,
    dion_epsilon: ArrayLike = 1e-8,
    *,
    roles: Roles = None,
    rank_fraction: float = 1.0,
    rank_multiple_of: int = 1,
    power_iterations: int = 1,
    precision: Precision = "highest",
    scale: Scale = "ratio",
    seed: int = 0,
) -> optax.GradientTransformation:
    """Dion's rule for matrices, heads and embeddings; arguments as in `dion`."""

    def rank(short: int) -> int:
        multiple = rank_multiple_of * math.ceil(rank_fraction * short / rank_multiple_of)
        return min(multiple, short)

    def init(params):
        def basis(p, role: Role):
            stack, *sides = stack_shape(p, role)
            return {"short": jnp.zeros((stack, min(sides), rank(min(sides))), p.dtype)}

        bases = jax.tree.map(basis, params, find_roles(params, roles))
        bases = gaussian_like(bases, probe_key(seed), 0)
        return ScaleByDionState(jax.tree.map(jnp.zeros_like, params), share_out(bases))

    def step(block):
        """Of momenta (N, short, long) and bases (N, short, rank): what is taken out of the
        momenta, new bases, and u."""
        b_NSL, start_NSR = block
        q_NSR = start_NSR
        for _ in range(power_iterations):
            p_NLR = lapack.qr(b_NSL.mT @ q_NSR)
            q_NSR = b_NSL @ p_NLR
        nothing = jnp.all(b_NSL == 0, axis=(1, 2), keepdims=True)
        p_NLR = jnp.where(nothing, 0, p_NLR)
        taken_NSL = (1 - momentum) * q_NSR @ p_NLR.mT
        size = jnp.sqrt(jnp.sum(q_NSR * q_NSR, axis=1, keepdims=True)) + dion_epsilon
        q_NSR = jnp.where(nothing, start_NSR, q_NSR / size)
        return taken_NSL, q_NSR, q_NSR @ p_NLR.mT

    def update(updates, state, params=None):
        del params
        whole = jax.tree.map(jnp.add, state.mu, updates)
        leaves, treedef = jax.tree.flatten(whole)
        found = treedef.flatten_up_to(find_roles(updates, roles))
        tall = [shape[1] > shape[2] for shape in map(stack_shape, leaves, found)]
        stacks = [turn(to_stack(x, r), t) for x, r, t in zip(leaves, found, tall, strict=True)]
        starts = [basis["short"] for basis in treedef.flatten_up_to(state.bases)]
        pairs = list(zip(stacks, starts, strict=True))
        with jax.default_matmul_precision(precision):
            rows = map_grouped(step, pairs)

        def leaf(stack, t, role, like):
            return from_stack(turn(stack, t), role, like.shape).astype(like.dtype)

        taken, directions = (
            treedef.unflatten(
                [leaf(row[i], *of) for row, *of in zip(rows, tall, found, leaves, strict=True)]
            )
            for i in (0, 2)
        )
        bases = treedef.unflatten([{"short": row[1]} for row in rows])
        mu = jax.tree.map(jnp.subtract, whole, taken)
        return directions, ScaleByDionState(mu, share_out(bases))

    rule = optax.GradientTransformation(init, update)
    return optax.chain(rule, fit_shape(scale, roles=roles))


def matrix_flops(role: Role, leaf, values) -> float:
    """FLOPs of hidden matrices: four products of rank r and the QR of a (long, r) matrix."""
    if role.kind != "matrix":
        return 0.0
    stack, *sides = stack_shape(leaf, role)
    short, long = min(sides), max(sides)
    r = min(short, math.ceil(values["rank_fraction"] * short))
    power = values["power_iterations"] * (4.0 * short * long * r + 4.0 * long * r * r)
    return stack * (power + 4.0 * short * long * r)


@optimizer(scale_by_dion, scale_by_adamw, beta2=0.95, weight_decay=0.01, clipped=FALLBACK)
def dion(rule, adam, learning_rate: Number, adam_lr_ratio: Number = 1.0, **common):
    r"""Dion for hidden matrices, AdamW for embedding, head and gains.

    .. math::
      B_t = M_{t-1} + G_t, \quad P_t = \mathrm{QR}(B_t Q_{t-1}), \quad R_t = B_t^T P_t, \quad
      M_t = B_t - (1-\mu) P_t R_t^T, \\
      Q_t = R_t / (\|R_t\|_{columns} + \epsilon), \quad u_t = \sqrt{out/in} \, P_t Q_t^T

    One warm-started power iteration finds the leading r directions of the momentum; only these are
    taken out of it, the rest waits (error feedback). At full rank it costs more than Muon and does
    much the same; a fraction of the rank costs that fraction, and devices need only exchange P and
    R. Q is on the shorter side of a matrix.

    Args:
      learning_rate: of the matrices; the authors share it with the rest.
      momentum: mu, the part of the leading directions that stays.
      beta1, beta2, epsilon: of the fallback AdamW.
      dion_epsilon: beside the norms of R's columns.
      adam_lr_ratio: learning rate of the fallback over that of the matrices.
      rank_fraction, rank_multiple_of: r is this share of the shorter side, rounded up (static).
      power_iterations: of each step (static).
      precision: of the matrix products (static).
      scale: see `optim.rules.muons.parts.scale_factor` (static).
      seed: of Q's start, normal numbers by path, the same on any mesh (static).

    References:
      Ahn et al, `Dion: Distributed Orthonormalized Updates <https://arxiv.org/abs/2504.05295>`_,
      2025. Defaults: microsoft/dion at 0a059a4, dion/dion_reference.py 541-720 and dion_simple.py.
      Deviations: QR by Householder where theirs is a randomised Cholesky QR, the same up to signs
      that cancel; it is in the gradients' dtype, theirs in float32; a NaN stays NaN.

      Preset "study": the rule with Muon's surroundings in Wen et al, `Fantastic Pretraining
      Optimizers and Where to Find Them <https://arxiv.org/abs/2509.02046>`_, 2025, which did not
      run it.
    """
    return with_adam(rule, adam, learning_rate, adam_lr_ratio, **common)


ENTRY = Entry(
    dion,
    schedule="wsd",
    flops=matrix_flops,
    study=dict(
        learning_rate=16e-3,
        beta1=0.95,
        epsilon=1e-15,
        adam_lr_ratio=0.2,
        decay=0.6,
        rank_fraction=0.25,
    ),
)
