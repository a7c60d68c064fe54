"""KL-Shampoo and KL-SOAP: factors fitted by the Kullback-Leibler divergence."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options, with_defaults
from optim.entry import Entry, Number, Precision
from optim.linalg import eigenbasis, lapack
from optim.roles import Role, Roles
from optim.rules.muons.parts import with_adam
from optim.rules.shampoos.shampoo import NO_LIMIT, each, number, squares
from optim.rules.shampoos.soap import decay_after_step
from optim.stacks.batching import map_grouped
from optim.stacks.blocks import plan, plan_tree
from optim.stacks.placement import share_out

MAX_SCALE = 4000  # of 1 / sqrt(eigenvalue), and no more than the side, but at least 10


@dataclass(frozen=True)
class KLOptions:
    """The static options of `scale_by_kl`; the defaults are the authors' of KL-Shampoo.

    adam                    KL-SOAP: Adam in the factors' eigenbases.
    precondition_frequency  calls between refreshes of the bases.
    init_eigenvalue         with which the factors' eigenvalues start.
    block_size              longest side of a block, each with its own factors; None does not cut.
    precision               of the matrix products.
    """

    adam: bool = False
    precondition_frequency: int = 10
    init_eigenvalue: float = 0.1
    block_size: int | None = None
    precision: Precision = "highest"


AUTHORS = KLOptions()


class ScaleByKLState(NamedTuple):
    """`factors`, `bases` and `scales` have for each leaf a list with a {side: array} per shape of
    its blocks; side is "inputs" or "outputs", the array (layers * blocks, side, side), of scales
    (layers * blocks, side)."""

    count: jax.Array  # () int32, calls made, the first included
    kept: jax.Array  # () int32, how often a basis was kept because the new one was not finite
    mu: Any  # mean gradient, like the parameters
    nu: Any  # KL-SOAP: mean square in the rotated basis, like the parameters; else ()
    factors: Any  # S, means of the gradient's outer products, whitened on the other side
    bases: Any  # their eigenvectors, in columns
    scales: Any  # 1 / sqrt of their eigenvalues, which are means of their own


@takes_options
def scale_by_kl(
    beta1: ArrayLike = 0.9,
    beta2: ArrayLike = 0.98,
    shampoo_beta: ArrayLike | None = None,
    epsilon: ArrayLike = 1e-8,
    options: KLOptions = AUTHORS,
    *,
    roles: Roles = None,
) -> optax.GradientTransformationExtraArgs:
    """The direction of KL-Shampoo or KL-SOAP for matrices; a gain raises ValueError.

    Numbers as in `kl_shampoo`, options (static) as in `KLOptions`.

    Extra arguments of `update`:
      step: () int32, updates made so far; for members of a `vmap` that step together, not batched.

    Where a new basis would not be finite a block keeps its last one, and the state counts it.
    """
    beta = beta2 if shampoo_beta is None else shampoo_beta
    cut = dict(largest=NO_LIMIT, vectors=False, block_size=options.block_size)

    def init(params):
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
        blocks = plan_tree(params, roles, **cut)
        if any(p.role.kind == "gain" for p in blocks.plans):
            raise ValueError("a gain has no factors: a matrix rule needs inputs and outputs")
        start = options.init_eigenvalue**-0.5
        factors = blocks.make(lambda *b: squares(*b, lambda d: jnp.zeros((d, d), dtype)))
        bases = blocks.make(lambda *b: squares(*b, lambda d: jnp.eye(d, dtype=dtype)))
        scales = jax.tree.map(lambda q: jnp.full(q.shape[:2], start, dtype), bases)
        mu = jax.tree.map(jnp.zeros_like, params)
        nu = jax.tree.map(jnp.zeros_like, params) if options.adam else ()
        zero = jnp.zeros((), jnp.int32)
        return ScaleByKLState(zero, zero, mu, nu, *share_out((factors, bases, scales)))

    def update(gradients, state, params=None, *, step=None, **_):
        del params
        count = optax.safe_increment(state.count)
        call = count if step is None else step + 1
        first = count == 1
        blocks = plan_tree(gradients, roles, **cut)
        moved = optax.tree.update_moment(gradients, state.mu, beta1, 1)
        mu = jax.tree.map(lambda new, old: jnp.where(first, old, new), moved, state.mu)

        def step(block):
            g, m, v, factors, bases, scales = block
            rotated = eigenbasis.rotate(g, bases)
            if options.adam:
                v = jnp.where(first, v, beta2 * v + (1 - beta2) * rotated**2)
                u = eigenbasis.rotate(m, bases) / (jnp.sqrt(v) + epsilon)
            else:
                both = whiten(jnp.ones_like(m), scales)
                u = eigenbasis.rotate(m, bases) * (both / (1 + epsilon * both))
            u = eigenbasis.rotate_back(u, bases)
            factors, scales = fit(g, rotated, factors, bases, scales)
            return jnp.where(first, 0, u), v, factors, scales

        def fit(g, rotated, factors, bases, scales):
            """Means of the outer products of the gradient whitened on the other side, which in the
            first call it is not, and of their diagonals in the basis."""
            new_factors, new_scales = {}, {}
            for side, factor in factors.items():
                other = {k: bases[k] for k in bases if k != side}
                by = {k: scales[k] for k in scales if k != side}
                half = whiten(eigenbasis.rotate(g, other), by)
                half = jnp.where(first, g, half)
                axis = 2 if side == "inputs" else 1
                outer = half @ half.mT if axis == 2 else half.mT @ half
                new_factors[side] = beta * factor + (1 - beta) * outer / g.shape[axis]
                seen = jnp.mean(whiten(rotated, by) ** 2, axis=axis)
                value = beta * invert(scales[side] ** 2) + (1 - beta) * seen
                limit = max(10, min(factor.shape[-1], MAX_SCALE))
                scale = jnp.minimum(invert(jnp.sqrt(value)), limit)
                new_scales[side] = jnp.where(first, scales[side], scale)
            return new_factors, new_scales

        columns = [blocks.split(tree) for tree in (gradients, mu, state.nu if options.adam else mu)]
        columns += [blocks.ungroup(t) for t in (state.factors, state.bases, state.scales)]
        with jax.default_matmul_precision(options.precision):
            rows = map_grouped(step, list(zip(*columns, strict=True)), products=True)
            u, v, factors, scales = map(list, zip(*rows, strict=True)) if rows else [[]] * 4
            bases, kept = new_bases(factors, columns[4], call)
        u = jax.tree.map(lambda u, g: u.astype(g.dtype), blocks.join(u), gradients)
        # On a mesh the choice places the new one like the old.
        settle = lambda new, old: jnp.where(first, old, new.astype(old.dtype))  # noqa: E731
        nu = jax.tree.map(settle, blocks.join(v), state.nu) if options.adam else ()
        placed = share_out(tuple(map(blocks.group, (factors, bases, scales))))
        return u, ScaleByKLState(count, state.kept + kept, mu, nu, *placed)

    def new_bases(factors, bases, call):
        """(bases, kept) after a call: found in the first, refreshed when it is time."""

        def keep(factors, bases):
            return bases, jnp.zeros((), jnp.int32)

        def refresh(factors, bases):
            bases, kept, *_ = each(power_step, factors, bases)
            return bases, number(kept)

        def find(factors, bases):
            bases, kept, *_ = each(partial(eigenbasis.decompose, shift=1e-30), factors, bases)
            return bases, number(kept)

        due = (call - 1) % options.precondition_frequency == 0
        branch = jnp.where(call == 1, 2, jnp.where(due, 1, 0))
        return jax.lax.switch(branch, [keep, refresh, find], factors, bases)

    return optax.GradientTransformationExtraArgs(init, update)


def power_step(factors, bases):
    """QR of factors @ bases, columns as they are; and which are kept, not being finite. Columns in
    the null space of their factor stay, but for what makes them orthogonal to the others."""
    product = factors @ bases
    null = eigenbasis.is_null(jnp.sum(bases * product, axis=1))[:, None]
    new = lapack.qr(jnp.where(null, bases * jnp.finfo(bases.dtype).tiny ** 0.5, product))
    finite = eigenbasis.is_finite(new)
    return jnp.where(finite, new, bases), ~finite[:, 0, 0]


def whiten(x, scales):
    """Rows and columns of x (N, inputs, outputs) times their scales {side: (N, length)}."""
    if "inputs" in scales:
        x = x * scales["inputs"][:, :, None]
    return x * scales["outputs"][:, None, :] if "outputs" in scales else x


def invert(x):
    """1 / x, 0 where x is 0."""
    return jnp.where(x == 0, 0, 1 / jnp.where(x == 0, 1, x))


def matrix_flops(role: Role, leaf, values: Mapping[str, Any]) -> float:
    """FLOPs of a step's products of hidden matrices and, spread over the steps, of a refresh."""
    if role.kind != "matrix":
        return 0.0
    cut = plan(leaf, role, largest=NO_LIMIT, vectors=False, block_size=values["block_size"])
    return cut.flops(10, (2 + 8 / 3) / values["precondition_frequency"])


@optimizer(scale_by_kl, weight_decay=0.01)
def kl_shampoo(
    rule,
    learning_rate: Number,
    adam_beta1: Number = 0.9,
    adam_beta2: Number = 0.95,
    adam_epsilon: Number = 1e-8,
    adam_lr_ratio: Number = 1.0,
    *,
    weight_decay,
    roles,
    decayed,
    weight_decay_mask,
    weight_decay_kind,
    **common,
):
    r"""KL-Shampoo for hidden matrices, AdamW for embedding, head and gains.

    .. math::
      S_1 \leftarrow \beta S_1 + \tfrac{1-\beta}{n} G S_2^{-1} G^T, \quad
      S_2 \leftarrow \beta S_2 + \tfrac{1-\beta}{m} G^T S_1^{-1} G, \quad
      u = S_1^{-1/2} M S_2^{-1/2}

    for G (m, n), in eigenbases Q_i that follow the S_i by a step of power iteration every
    `precondition_frequency` calls, with eigenvalues D_i that are means of their own,
    D_1 <- beta D_1 + (1 - beta) mean((Q_1' G Q_2 D_2^-1/2)^2). They start at `init_eigenvalue`,
    and 1 / sqrt(D) is at most max(10, min(side, 4000)). Nothing is bias corrected. The first call
    only starts the factors. Unlike Shampoo's, the size of the update needs no grafting.

    Args:
      learning_rate: number, array or schedule; about AdamW's.
      beta1: decay of the mean gradient M.
      shampoo_beta: beta; None is beta2.
      beta2: of S if `shampoo_beta` is None; decay of KL-SOAP's mean square.
      epsilon: damping beside sqrt(D_1 D_2), in KL-SOAP beside the root.
      adam_beta1, adam_beta2, adam_epsilon, adam_lr_ratio: of the fallback AdamW.
      weight_decay: decoupled; of the parameters after the step, and not in the first call.

    References:
      Lin et al, `Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization
      <https://arxiv.org/abs/2509.03378>`_, 2025. Defaults: yorkerlin/KL-Methods at a02e622,
      optim/kl_opt.py 77-330, which takes neither vectors nor stacks. Deviations: all is in the
      gradients' dtype, theirs in bfloat16 by default with its decompositions in float32; null
      spaces have definite eigenvectors.

      Preset "study": the rule with AdamW's surroundings in Wen et al, `Fantastic Pretraining
      Optimizers and Where to Find Them <https://arxiv.org/abs/2509.02046>`_, 2025, which did not
      run it.
    """
    shared = dict(roles=roles, weight_decay_mask=weight_decay_mask)
    if weight_decay_kind == "decoupled":
        after = tuple(kind for kind in decayed if kind == "matrix")
        late = decay_after_step(learning_rate, weight_decay, decayed=after, **shared)
        rule = optax.chain(rule, late)
    adam = optax.scale_by_adam(adam_beta1, adam_beta2, adam_epsilon)
    shared |= dict(weight_decay=weight_decay, weight_decay_kind=weight_decay_kind, decayed=decayed)
    return with_adam(rule, adam, learning_rate, adam_lr_ratio, **shared, **common)


kl_soap = with_defaults(
    kl_shampoo,
    "kl_soap",
    r"""KL-SOAP for hidden matrices, AdamW for embedding, head and gains.

    .. math::
      V \leftarrow \beta_2 V + (1-\beta_2) (Q_1^T G Q_2)^2, \quad
      u = Q_1 \frac{Q_1^T M Q_2}{\sqrt{V} + \epsilon} Q_2^T

    in the eigenbases of KL-Shampoo's factors.
    """,
    adam=True,
)

STUDY = dict(
    learning_rate=8e-3,
    beta1=0.95,
    beta2=0.95,
    shampoo_beta=0.95,
    epsilon=1e-15,
    adam_epsilon=1e-15,
    block_size=256,
)
KL_SHAMPOO = Entry(kl_shampoo, flops=matrix_flops, study=STUDY)
KL_SOAP = Entry(kl_soap, flops=matrix_flops, study=STUDY)
