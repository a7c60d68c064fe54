"""Kron: PSGD with Kronecker-factored triangular preconditioners."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number, Precision
from optim.linalg import kron_factors
from optim.roles import Role, Roles, find_roles
from optim.stacks.batching import map_grouped
from optim.stacks.blocks import Plan, plan, plan_tree
from optim.stacks.members import any_member
from optim.stacks.placement import share_out
from optim.stacks.probes import gaussian_like, probe_key

Statistics = Literal["leaf", "matrix"]
DAMPING = float(jnp.finfo(jnp.float32).eps ** 0.5)  # for every dtype, as both codes have it
BALANCE_EVERY = 100  # updates of the factors


@dataclass(frozen=True)
class KronOptions:
    """The static options of `scale_by_kron`; the defaults are the authors'.

    normalize_grads            divide gradients by their norm first.
    statistics                 norm of `normalize_grads` and mean |M| are of each "matrix" (layer),
                               or of the whole "leaf".
    damped_direction           in calls that fit, u is made from G instead of M.
    schedule_start             n of the first call.
    preconditioner_init_scale  the first Q is a multiple of I whose product over the sides is this.
    max_size_triangular        longer sides, sides of length 1 and gains have diagonal factors.
    block_size, merge_toward   see `optim.stacks.blocks.plan`.
    turns                      the blocks of each shape are fitted in so many parts, each as often
                               as else but at different times, to spread the work over the steps.
    update_precision           of the matrix products in the fit.
    precision                  of those in u.
    """

    normalize_grads: bool = False
    statistics: Statistics = "matrix"
    damped_direction: bool = True
    schedule_start: Literal[0, 1] = 0
    preconditioner_init_scale: float = 1.0
    max_size_triangular: int = 8192
    block_size: int | None = None
    merge_toward: int | None = None
    turns: int = 1
    update_precision: Precision = "highest"
    precision: Precision = "highest"

    @property
    def cut(self) -> dict[str, Any]:
        """How leaves are cut into blocks: arguments of `optim.stacks.blocks.plan`."""
        return dict(
            largest=self.max_size_triangular,
            vectors=False,
            block_size=self.block_size,
            merge_toward=self.merge_toward,
        )


AUTHORS = KronOptions()  # kron_torch 0.3.3
STUDY = KronOptions(  # levanter's kron.py, as the study ran it
    normalize_grads=True,
    statistics="leaf",
    damped_direction=False,
    schedule_start=1,
    max_size_triangular=25_000,
    block_size=256,
    update_precision="tensorfloat32",
    precision=None,
)


class ScaleByKronState(NamedTuple):
    """`factors` has for each leaf a list with a {side: array} per shape of its blocks; side is
    "inputs" or "outputs", the array (layers * blocks, side, side), or (layers * blocks, side) for a
    diagonal factor."""

    count: jax.Array  # () int32, calls made
    kept: jax.Array  # () int32, how often a factor was kept because the new one was not finite
    probes: jax.Array  # (2,) uint32, the key of its probes, see optim.stacks.probes
    since_update: jax.Array  # () int32, calls since the factors were updated
    since_balance: jax.Array  # () int32, updates since they were balanced
    mu: Any  # first moment
    factors: Any  # Q: upper triangular, or diagonals


@takes_options
def scale_by_kron(
    beta1: ArrayLike = 0.9,
    preconditioner_lr: ArrayLike = 0.1,
    preconditioner_update_probability: ArrayLike = 0.03,
    update_prob_flat_start: ArrayLike = 500,
    options: KronOptions = AUTHORS,
    *,
    roles: Roles = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum whitened by P = Q'Q on both sides, Q fitted to it with random probes.

    With M the corrected momentum as a matrix (inputs, outputs), V a probe and G the damped M,

    .. math::
      G &= M + \sqrt{\epsilon_{32}}\, \mathrm{mean}|M|\, V, \quad V \sim N(0, 1), \\
      A &= Q_i G Q_o^T, \quad B = Q_i^{-T} V Q_o^{-1}, \\
      Q_i &\leftarrow Q_i - \frac{\mu}{|A A^T + B B^T|} \mathrm{triu}(A A^T - B B^T) Q_i,
      \quad \text{and } Q_o \text{ with } A^T A, B^T B, \\
      u &= Q_i^T Q_i M Q_o^T Q_o

    where the norm is a lower bound of the spectral norm, or the largest entry for diagonal factors.
    The fit happens in every call at first and then ever more rarely: always when 1 / p_n calls have
    passed since the last one, with p_n = exp(-0.001 (n - flat_start)) cut to
    [preconditioner_update_probability, 1].

    Args:
      beta1: decay rate of the momentum, with bias correction; the factors see the momentum, too.
      preconditioner_lr: mu.
      preconditioner_update_probability: the least p_n.
      update_prob_flat_start: call until which p_n is 1.
      options: see `KronOptions` (static).
      roles: see `optim.roles.find_roles` (static).
      seed: of the probes' key.

    Extra arguments of `update`:
      probes: a tree of V for this step, instead of the random one.
      step: () int32, updates made so far; for members of a `vmap` that step together, not batched.
      active: () bool, False for a member whose update is not used: it asks for no fit.

    Every 100 fits the factors of a matrix are scaled to equal largest entries, which leaves P as it
    is. Factors that a fit would make infinite or NaN stay as they were, and the state counts them.
    """
    schedule = (preconditioner_update_probability, update_prob_flat_start)

    def init(params):
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
        blocks, zero = plan_tree(params, roles, **options.cut), jnp.zeros((), jnp.int32)
        factors = blocks.make(
            lambda cut, shape: _identities(cut, shape, options.preconditioner_init_scale, dtype)
        )
        mu = jax.tree.map(jnp.zeros_like, params)
        return ScaleByKronState(zero, zero, probe_key(seed), zero, zero, mu, share_out(factors))

    def over(role: Role):
        return None if options.statistics == "leaf" else role.inputs + role.outputs

    def normalize(g, role: Role):
        norm = jnp.sqrt(jnp.sum(g * g, axis=over(role), keepdims=True))
        return g / (norm + 1e-16)

    def damp(m, v, role: Role):
        return m + DAMPING * jnp.mean(jnp.abs(m), axis=over(role), keepdims=True) * v

    def update(gradients, state, params=None, *, probes=None, step=None, active=True, **_):
        del params
        count = optax.safe_increment(state.count)
        role_tree = find_roles(gradients, roles)
        if options.normalize_grads:
            gradients = jax.tree.map(normalize, gradients, role_tree)
        mu = optax.tree.update_moment(gradients, state.mu, beta1, 1)
        momentum = optax.tree.bias_correction(mu, beta1, count)

        n = (state.count if step is None else step) + options.schedule_start
        if options.turns == 1:
            wait = 1 / kron_factors.update_probability(n, *schedule)
            due = (state.since_update + 1 >= wait)[None]
        else:
            due = kron_factors.due_parts(n, options.turns, *schedule)
        fits = jnp.any(due) & active
        balances = fits & (state.since_balance + 1 >= BALANCE_EVERY)
        blocks = plan_tree(gradients, roles, **options.cut)

        def fit(momentum, factors):
            v = gaussian_like(momentum, state.probes, count) if probes is None else probes
            v = jax.tree.map(lambda v, m: v.astype(m.dtype), v, momentum)
            damped = jax.tree.map(damp, momentum, v, role_tree)
            items = list(zip(blocks.split(damped), blocks.split(v), factors, strict=True))
            with jax.default_matmul_precision(options.update_precision):
                rows = map_grouped(
                    lambda block: _fit(*block, preconditioner_lr, balances, due),
                    items,
                    products=True,
                )
            kept = sum((jnp.sum(refused) for _, refused in rows), jnp.zeros((), jnp.int32))
            seen = damped if options.damped_direction else momentum
            found = seen, [q for q, _ in rows], kept.astype(jnp.int32)
            others = keep(momentum, factors)  # of members that do not fit beside one that does
            return jax.tree.map(lambda new, old: jnp.where(fits, new, old), found, others)

        def keep(momentum, factors):
            return momentum, factors, jnp.zeros((), jnp.int32)

        factors = blocks.ungroup(state.factors)
        some = any_member(fits)
        seen, factors, kept = jax.lax.cond(some, fit, keep, momentum, factors)
        with jax.default_matmul_precision(options.precision):
            items = list(zip(blocks.split(seen), factors, strict=True))
            whitened = map_grouped(lambda item: kron_factors.whiten(*item), items, products=True)
        directions = blocks.join(whitened)
        directions = jax.tree.map(lambda u, g: u.astype(g.dtype), directions, gradients)
        return directions, ScaleByKronState(
            count=count,
            kept=state.kept + kept,
            probes=state.probes,
            since_update=jnp.where(fits, 0, state.since_update + 1),
            since_balance=jnp.where(balances, 0, state.since_balance + fits),
            mu=mu,
            factors=share_out(blocks.group(factors)),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _identities(cut: Plan, shape, init_scale: float, dtype) -> dict[str, jax.Array]:
    """The first factors of blocks of one shape: a vector has one, for its outputs."""
    number, height, width = shape
    sides = {} if cut.vector else {"inputs": (height, cut.inputs)}
    sides |= {"outputs": (width, cut.outputs)}
    scale = init_scale ** (1 / len(sides))

    def new(length, full):
        q = jnp.eye(length, dtype=dtype) if full else jnp.ones(length, dtype)
        return jnp.tile(scale * q, (number,) + (1,) * q.ndim)

    return {side: new(*what) for side, what in sides.items()}


def _fit(g, v, factors, learning_rate, balances, due):
    """(factors, kept) after a call that fits blocks (N, rows, columns): those of the parts due."""
    factors = jax.lax.cond(balances, kron_factors.balance, lambda q: q, factors)
    return kron_factors.in_parts(
        lambda block: kron_factors.fit(*block, learning_rate),
        lambda block: (block[2], jnp.zeros(block[0].shape[0], jnp.int32)),
        (g, v, factors),
        due,
    )


def matrix_flops(role: Role, leaf, values: Mapping[str, Any]) -> float:
    """FLOPs of a step's matrix products, with fits as rare as they get."""
    options = KronOptions(**{name: values[name] for name in vars(AUTHORS)})
    often = values["preconditioner_update_probability"]
    # u; a, b and two outer products in a fit, and their product with Q.
    return plan(leaf, role, **options.cut).flops(4 + 7 * often, 2 * often)


def clip_update_rms(
    max_update_rms, *, roles: Roles = None, statistics: Statistics = "matrix"
) -> optax.GradientTransformation:
    """Scale updates down to this root mean square (0 is off), of each "matrix" or "leaf"."""

    def clip(u, role: Role):
        axes = None if statistics == "leaf" else role.inputs + role.outputs
        rms = jnp.sqrt(jnp.mean(u * u, axis=axes, keepdims=True))
        too_large = (rms > max_update_rms) & (max_update_rms > 0)
        return jnp.where(too_large, u / rms * max_update_rms, u).astype(u.dtype)

    def update(updates, state, params=None):
        del params
        return jax.tree.map(clip, updates, find_roles(updates, roles)), state

    return optax.GradientTransformation(optax.init_empty_state, update)


@optimizer(scale_by_kron, decayed=("matrix", "embedding", "head"))
def kron(
    rule,
    learning_rate: Number,
    max_update_rms: Number = 1.1,
    *,
    max_grad_norm,
    roles,
    statistics,
    normalize_grads,
    **common,
):
    """PSGD Kron: momentum, whitened on both sides of every matrix, clipped in root mean square.

    It wants a learning rate a few times smaller than AdamW's and more decay. There is no second
    moment and no epsilon. A call that fits costs two to three times one that does not.

    Args:
      beta1, preconditioner_lr, preconditioner_update_probability, update_prob_flat_start: see
        `scale_by_kron`.
      max_update_rms: updates are scaled down to this root mean square, of each matrix or leaf as
        `statistics` says; 0 is off.
      seed: of the probes (static).

    References:
      Li, `Preconditioner on Matrix Lie Group for SGD <https://arxiv.org/abs/1809.10232>`_, 2018.
      Defaults: kron_torch 0.3.3 (Evan Walters), a matrix a layer; it balances at random instead of
      every 100 fits, which changes nothing but rounding.

      Preset "study": levanter's, as Wen et al, `Fantastic Pretraining Optimizers and Where to Find
      Them <https://arxiv.org/abs/2509.02046>`_, 2025, ran it, gradients normalised (which there
      switches the global clip off) and statistics taken over all layers of a leaf, in blocks of 256
      up to sides of 25,000. At the study's four sizes its merging of small dimensions toward 8192
      leaves matrices as they are; `merge_toward=8192` does the same to smaller ones.
    """
    clip = clip_update_rms(max_update_rms, roles=roles, statistics=statistics)
    max_grad_norm = 0.0 if normalize_grads else max_grad_norm
    return finish(
        optax.chain(rule, clip), learning_rate, max_grad_norm=max_grad_norm, roles=roles, **common
    )


ENTRY = Entry(
    kron,
    version=2,  # its probes follow the run's seed
    flops=matrix_flops,
    study=dict(
        learning_rate=2e-3,
        beta1=0.98,
        preconditioner_lr=0.1,
        preconditioner_update_probability=0.05,
        update_prob_flat_start=500,
        weight_decay=0.9,
        **vars(STUDY),
    ),
)
