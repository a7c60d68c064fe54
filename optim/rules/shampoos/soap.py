"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import Mask, finish, of_kinds
from optim.entry import Entry, Number, Precision
from optim.linalg import eigenbasis
from optim.roles import KINDS, Kind, Role, Roles, find_roles
from optim.rules.shampoos.shampoo import each, number, squares
from optim.stacks.batching import map_grouped
from optim.stacks.blocks import plan, plan_tree
from optim.stacks.placement import replicate, share_out


@dataclass(frozen=True)
class SoapOptions:
    """The static options of `scale_by_soap`; the defaults are the authors'.

    precondition_frequency    calls between refreshes; the fewer the better and dearer.
    refresh_from              factors before ("old") or after ("new") this call's gradient.
    count_first_call          s and the refreshes count calls with the first one, else without.
    eigh_epsilon              added to the diagonals of L and R for the eigendecomposition: the
                              rule's "epsilon", or "tiny", 1e-30.
    max_precond_dim           longer sides are not rotated.
    precondition_1d           gains are rotated, with a full factor; else they take Adam.
    block_size, merge_toward  see `optim.stacks.blocks.plan`.
    staggered                 refresh a `precondition_frequency`-th of the blocks of each shape in
                              every call instead of all at once, so that all steps cost the same.
    precision                 of the matrix products.
    """

    precondition_frequency: int = 10
    refresh_from: Literal["new", "old"] = "new"
    count_first_call: bool = False
    eigh_epsilon: Literal["tiny", "epsilon"] = "tiny"
    max_precond_dim: int = 10_000
    precondition_1d: bool = False
    block_size: int | None = None
    merge_toward: int | None = None
    staggered: bool = False
    precision: Precision = "highest"

    @property
    def cut(self) -> dict[str, Any]:
        """How leaves are cut into blocks: arguments of `optim.stacks.blocks.plan`."""
        return dict(
            largest=self.max_precond_dim,
            vectors=self.precondition_1d,
            block_size=self.block_size,
            merge_toward=self.merge_toward,
        )


AUTHORS = SoapOptions()  # nikhilvyas/SOAP soap.py
STUDY = SoapOptions(  # levanter's soap.py, as the study ran it
    refresh_from="old",
    count_first_call=True,
    eigh_epsilon="epsilon",
    max_precond_dim=9_999,
    precondition_1d=True,
    block_size=256,
)


class ScaleBySoapState(NamedTuple):
    """`factors` and `bases` have for each leaf a list with a {side: array} per shape of its blocks;
    side is "inputs" or "outputs", the array (layers * blocks, side, side)."""

    count: jax.Array  # () int32, calls made, the first included
    kept: jax.Array  # () int32, how often a basis was kept because the new one was not finite
    mu: Any  # first moment, like the parameters
    nu: Any  # second moment in the rotated basis, like the parameters
    factors: Any  # means of G G' and of G' G
    bases: Any  # their eigenvectors, in columns, largest eigenvalue first


@takes_options
def scale_by_soap(
    beta1: ArrayLike = 0.95,
    beta2: ArrayLike = 0.95,
    shampoo_beta: ArrayLike | None = None,
    epsilon: ArrayLike = 1e-8,
    options: SoapOptions = AUTHORS,
    *,
    roles: Roles = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam on gradients rotated into the eigenbases of their mean outer products.

    With G a matrix (inputs, outputs), L and R its factors, P and Q their eigenbases, s the step,

    .. math::
      M &= \beta_1 M + (1 - \beta_1) G, \quad
      V = \beta_2 V + (1 - \beta_2) (P^T G Q)^2, \\
      u &= P \frac{P^T M Q}{\sqrt{V} + \epsilon} Q^T
           \frac{\sqrt{1-\beta_2^s}}{1-\beta_1^s}, \\
      L &\leftarrow \beta_s L + (1-\beta_s) G G^T, \quad
      R \leftarrow \beta_s R + (1-\beta_s) G^T G

    The first call only sets L and R, and P and Q by eigendecomposition; its update is zero. A
    refresh is one step of power iteration, P = QR(L P), after P's columns, and V with them, are
    sorted by falling estimated eigenvalue. M stays in the original basis.

    Args:
      beta1, beta2, epsilon: as in Adam, but epsilon is beside the uncorrected root.
      shampoo_beta: decay rate of L and R; None is beta2.
      options: see `SoapOptions` (static).
      roles: see `optim.roles.find_roles` (static).

    Extra arguments of `update`:
      step: () int32, updates made so far; for members of a `vmap` that step together, not batched.

    Where a new basis would not be finite a block keeps its last one, and the state counts it.
    """
    shampoo_beta = beta2 if shampoo_beta is None else shampoo_beta
    shift = epsilon if options.eigh_epsilon == "epsilon" else 1e-30

    def init(params):
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
        blocks = plan_tree(params, roles, **options.cut)
        factors = blocks.make(lambda *block: squares(*block, lambda d: jnp.zeros((d, d), dtype)))
        bases = blocks.make(lambda *block: squares(*block, lambda d: jnp.eye(d, dtype=dtype)))
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        zero = jnp.zeros((), jnp.int32)
        return ScaleBySoapState(zero, zero, mu, nu, *share_out((factors, bases)))

    def update(gradients, state, params=None, *, step=None, **_):
        del params
        count = optax.safe_increment(state.count)
        call = count if step is None else step + 1
        step = count if options.count_first_call else state.count
        first = count == 1
        correction = jnp.sqrt(1 - beta2**step) / (1 - beta1 ** jnp.maximum(step, 1))
        mu = optax.tree.update_moment(gradients, state.mu, beta1, 1)
        mu = jax.tree.map(lambda new, old: jnp.where(first, old, new), mu, state.mu)

        def adam(block):
            g, m, v, factors, bases = block
            new_v = beta2 * v + (1 - beta2) * jnp.square(eigenbasis.rotate(g, bases))
            rotated = eigenbasis.rotate(m, bases) / (jnp.sqrt(new_v) + epsilon) * correction
            u = eigenbasis.rotate_back(rotated, bases)
            outer = {"inputs": g @ g.mT, "outputs": g.mT @ g}
            new = {side: f + (1 - shampoo_beta) * (outer[side] - f) for side, f in factors.items()}
            return jnp.where(first, 0, u), new_v, new

        blocks = plan_tree(gradients, roles, **options.cut)
        columns = [blocks.split(tree) for tree in (gradients, mu, state.nu)]
        columns += [blocks.ungroup(tree) for tree in (state.factors, state.bases)]
        with jax.default_matmul_precision(options.precision):
            rows = map_grouped(adam, list(zip(*columns, strict=True)), products=True)
            u, v, factors = map(list, zip(*rows, strict=True)) if rows else ([], [], [])
            source = columns[3] if options.refresh_from == "old" else factors
            source = jax.tree.map(lambda new, old: jnp.where(call == 1, new, old), factors, source)
            bases, v, kept = _new_bases(source, columns[4], v, call, options, shift)
        directions = jax.tree.map(lambda u, g: u.astype(g.dtype), blocks.join(u), gradients)

        def settle(new, old, role: Role):
            # On a mesh the choice places the new one like the old. Gains, small, are told where.
            new = replicate(new) if role.kind == "gain" else new
            return jnp.where(first, old, new.astype(old.dtype))

        nu = jax.tree.map(settle, blocks.join(v), state.nu, find_roles(gradients, roles))
        factors, bases = share_out((blocks.group(factors), blocks.group(bases)))
        return directions, ScaleBySoapState(count, state.kept + kept, mu, nu, factors, bases)

    return optax.GradientTransformationExtraArgs(init, update)


def _new_bases(factors, bases, v, call, options: SoapOptions, shift):
    """(bases, v, kept) after a call: found in the first, refreshed when it is time, else as before.

    Args:
      factors, bases: a {side: array} for each piece of the tree.
      v: second moments of the pieces, which follow the columns of their bases.
      call: () int32, 1 in the first call.
      shift: added to the diagonals of the factors in the first call.

    All factors of the same side length go through one decomposition, of whatever leaf.
    """
    every = options.precondition_frequency
    tick = call if options.count_first_call else call - 1

    def keep(factors, bases, v):
        return bases, v, jnp.zeros((), jnp.int32)

    def refresh(factors, bases, v):
        step = eigenbasis.power_step
        if options.staggered:
            step = partial(eigenbasis.power_step_of_some, tick=tick, every=every)
        bases, orders, kept = each(step, factors, bases)
        return bases, list(map(eigenbasis.sort, v, orders)), number(kept)

    def find(factors, bases, v):
        bases, kept, *_ = each(partial(eigenbasis.decompose, shift=shift), factors, bases)
        return bases, v, number(kept)

    due = True if options.staggered else tick % every == 0
    branch = jnp.where(call == 1, 2, jnp.where(due, 1, 0))
    return jax.lax.switch(branch, [keep, refresh, find], factors, bases, v)


def matrix_flops(role: Role, leaf, values: Mapping[str, Any]) -> float:
    """FLOPs of a step's matrix products and, spread over the steps between, of a refresh."""
    options = SoapOptions(**{name: values[name] for name in vars(AUTHORS)})
    # g and m forth, u back, the factor; one product and QR.
    return plan(leaf, role, **options.cut).flops(8, (2 + 8 / 3) / options.precondition_frequency)


def decay_after_step(
    learning_rate,
    weight_decay,
    *,
    roles: Roles = None,
    decayed: tuple[Kind, ...] = KINDS,
    weight_decay_mask: Mask = None,
) -> optax.GradientTransformation:
    """u -> u - decay * (w in the first call, later lr_t u), to be followed by decoupled decay.

    Together w <- (1 - lr_t decay) (w - lr_t u), and nothing at all in the first call.
    """

    def init(params):
        del params
        return DecayAfterStepState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        lr = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def correct(u, w, decays):
            taken = jnp.where(state.count == 0, w, lr * u)
            return (u - weight_decay * taken).astype(u.dtype) if decays else u

        chosen = of_kinds(updates, decayed, roles, weight_decay_mask)
        updates = jax.tree.map(correct, updates, params, chosen)
        return updates, DecayAfterStepState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


class DecayAfterStepState(NamedTuple):
    count: jax.Array  # () int32, updates made


@optimizer(scale_by_soap, weight_decay=0.01)
def soap(
    rule,
    learning_rate: Number,
    *,
    decay_on: Literal["new", "old"] = "new",
    weight_decay,
    roles,
    decayed,
    weight_decay_mask,
    weight_decay_kind,
    **common,
):
    """AdamW in the eigenbasis of Shampoo's preconditioner.

    It wants AdamW's learning rate. A step costs 8 to 10 matrix products of each matrix's size and
    a refresh a QR of each factor; `block_size` bounds both the cost and the memory, which unblocked
    is 24 bytes for an entry of a square matrix and more for others.

    Args:
      beta1, beta2, shampoo_beta, epsilon: see `scale_by_soap`.
      decay_on: the parameters before ("old") or after ("new") the step decay; with "new" there is
        no decay in the first call either (static).

    References:
      Vyas et al, `SOAP: Improving and Stabilizing Shampoo using Adam
      <https://arxiv.org/abs/2409.11321>`_, 2024. Defaults: nikhilvyas/SOAP `soap.py`, a matrix a
      layer.

      Preset "study": levanter's, as Wen et al, `Fantastic Pretraining Optimizers and Where to Find
      Them <https://arxiv.org/abs/2509.02046>`_, 2025, ran it, with every leaf's sides below 10,000
      rotated, gains too, in blocks of 256. Its merging of small dimensions toward 2048 only makes
      matrices of projections with a head axis, as roles do: at the study's four sizes
      `merge_toward=2048` changes nothing, but below 256 or so it would flatten whole matrices.
    """
    shared = dict(roles=roles, decayed=decayed, weight_decay_mask=weight_decay_mask)
    if decay_on == "new":
        if weight_decay_kind != "decoupled":
            raise ValueError(
                'decay_on="new" is for weight_decay_kind="decoupled"; give decay_on="old"'
            )
        rule = optax.chain(rule, decay_after_step(learning_rate, weight_decay, **shared))
    shared |= dict(weight_decay=weight_decay, weight_decay_kind=weight_decay_kind)
    return finish(rule, learning_rate, **shared, **common)


ENTRY = Entry(
    soap,
    flops=matrix_flops,
    study=dict(
        learning_rate=8e-3,
        beta1=0.95,
        beta2=0.95,
        shampoo_beta=0.95,
        epsilon=1e-15,
        decay_on="old",
        **vars(STUDY),
    ),
)
