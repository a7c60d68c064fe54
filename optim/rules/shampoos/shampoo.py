"""Shampoo as its distributed form computes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number, Precision
from optim.linalg import eigenbasis, lapack
from optim.roles import Role, Roles
from optim.stacks.batching import map_grouped
from optim.stacks.blocks import Plan, plan, plan_tree
from optim.stacks.placement import share_out

Grafting = Literal["none", "sgd", "adagrad", "rmsprop", "adam"]
NO_LIMIT = 2**31  # every side has factors, in blocks


@dataclass(frozen=True)
class ShampooOptions:
    """The static options of `scale_by_shampoo`; the defaults are the authors'.

    precondition_frequency     calls between computations of the roots.
    start_preconditioning_step the first of them; None is `precondition_frequency`. Until then the
                               direction is the grafted one, or the mean gradient without grafting.
    grafting                   whose norm each block takes; "none" keeps Shampoo's.
    bias_correction            of the mean gradient and of the factors.
    block_size                 longest side of a block, each with factors of its own.
    merge_small                a matrix of at most `block_size` entries is one vector.
    precision                  of the matrix products.
    """

    precondition_frequency: int = 1
    start_preconditioning_step: int | None = None
    grafting: Grafting = "none"
    bias_correction: bool = True
    block_size: int = 1024
    merge_small: bool = True
    precision: Precision = "highest"

    @property
    def cut(self) -> dict[str, Any]:
        """How leaves are cut into blocks: arguments of `optim.stacks.blocks.plan`."""
        small = self.block_size if self.merge_small else None
        return dict(largest=NO_LIMIT, vectors=True, block_size=self.block_size, merge_up_to=small)

    @property
    def start(self) -> int:
        return self.start_preconditioning_step or self.precondition_frequency


AUTHORS = ShampooOptions()


class ScaleByShampooState(NamedTuple):
    """`factors` and `roots` have for each leaf a list with a {side: array} per shape of its blocks;
    side is "inputs" or "outputs", the array (layers * blocks, side, side)."""

    count: jax.Array  # () int32, calls made
    kept: jax.Array  # () int32, how often a root was kept because the new one was not finite
    mu: Any  # mean gradient, like the parameters
    nu: Any  # mean or sum of squares for grafting, like the parameters; () without
    factors: Any  # means or sums of G G' and of G' G
    roots: Any  # their inverse roots


@takes_options
def scale_by_shampoo(
    beta1: ArrayLike = 0.9,
    beta2: ArrayLike = 1.0,
    epsilon: ArrayLike = 1e-12,
    exponent: ArrayLike = 0.25,
    grafting_beta2: ArrayLike = 0.999,
    grafting_epsilon: ArrayLike = 1e-10,
    options: ShampooOptions = AUTHORS,
    *,
    roles: Roles = None,
) -> optax.GradientTransformationExtraArgs:
    """Shampoo's direction; numbers as in `shampoo`, options (static) as in `ShampooOptions`.

    Extra arguments of `update`:
      step: () int32, updates made so far; for members of a `vmap` that step together, not batched.
    """

    def init(params):
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
        blocks = plan_tree(params, roles, **options.cut)
        factors = blocks.make(lambda *b: squares(*b, lambda d: jnp.zeros((d, d), dtype)))
        inverse = blocks.make(lambda *b: squares(*b, lambda d: jnp.eye(d, dtype=dtype)))
        mu = jax.tree.map(jnp.zeros_like, params)
        nu = jax.tree.map(jnp.zeros_like, params) if has_squares(options) else ()
        zero = jnp.zeros((), jnp.int32)
        return ScaleByShampooState(zero, zero, mu, nu, *share_out((factors, inverse)))

    def update(gradients, state, params=None, *, step=None, **_):
        del params
        count = optax.safe_increment(state.count)
        call = count if step is None else step + 1
        blocks = plan_tree(gradients, roles, **options.cut)
        sums = jnp.asarray(beta2) == 1
        weight = jnp.where(sums, 1, 1 - beta2)
        correction = jnp.where(sums, 1, 1 - beta2**count) if options.bias_correction else 1
        mu = optax.tree.update_moment(gradients, state.mu, beta1, 1)
        mean = optax.tree.bias_correction(mu, beta1, count) if options.bias_correction else mu
        grafted, nu = graft(mean, gradients, state.nu, count)

        def gather(block):
            g, factors = block
            outer = {"inputs": g @ g.mT, "outputs": g.mT @ g}
            return {side: beta2 * f + weight * outer[side] for side, f in factors.items()}

        def precondition(block):
            m, target, inverse = block
            u = eigenbasis.rotate(m, inverse)  # the roots are symmetric
            if options.grafting == "none":
                return u
            u = jnp.where(count < options.start, target, u)
            return u * (size(target) / (size(u) + 1e-16))

        with jax.default_matmul_precision(options.precision):
            olds = blocks.ungroup(state.factors)
            pieces = list(zip(blocks.split(gradients), olds, strict=True))
            factors = map_grouped(gather, pieces, products=True)
            last = blocks.ungroup(state.roots)
            exponents = [exponent if p.inputs and p.outputs else 0.5 for p in plans(blocks)]
            inverse, kept = new_roots(factors, last, exponents, correction, call)
            columns = (blocks.split(mean), blocks.split(grafted), inverse)
            u = map_grouped(precondition, list(zip(*columns, strict=True)), products=True)
        u = jax.tree.map(lambda u, g: u.astype(g.dtype), blocks.join(u), gradients)
        placed = share_out((blocks.group(factors), blocks.group(inverse)))
        return u, ScaleByShampooState(count, state.kept + kept, mu, nu, *placed)

    def graft(mean, gradients, nu, count):
        """The direction whose norms are taken, and the squares it needs."""
        if not has_squares(options):
            return mean, nu
        old, new, last = {
            "adagrad": (1, 1, 1),
            "rmsprop": (grafting_beta2, 1 - grafting_beta2, 1),
            "adam": (grafting_beta2, 1 - grafting_beta2, 1 - grafting_beta2**count),
        }[options.grafting]
        nu = jax.tree.map(lambda v, g: old * v + new * g * g, nu, gradients)

        def divide(m, v):
            return (m / (jnp.sqrt(v / last) + grafting_epsilon)).astype(m.dtype)

        return jax.tree.map(divide, mean, nu), nu

    def new_roots(factors, last, exponents, correction, call):
        """(roots, kept): computed when it is time, else as before."""

        def compute(factors, last):
            powers = [
                {side: jnp.full(f.shape[:1], e, f.dtype) for side, f in sides.items()}
                for sides, e in zip(factors, exponents, strict=True)
            ]
            corrected = jax.tree.map(lambda f: f / correction, factors)
            root = partial(inverse_root, epsilon=epsilon)
            roots, kept, *_ = each(root, corrected, powers, last)
            return roots, number(kept)

        def keep(factors, last):
            del factors
            return last, jnp.zeros((), jnp.int32)

        due = (call % options.precondition_frequency == 0) & (call > options.start)
        return jax.lax.cond(due | (call == options.start), compute, keep, factors, last)

    return optax.GradientTransformationExtraArgs(init, update)


def inverse_root(matrices, exponents, last, epsilon):
    """(A^-e, kept) of symmetric (N, d, d), exponents (N,): eigenvalues are raised to epsilon as a
    whole if the least is below it. `last` where the result is not finite, and which these are."""
    values, vectors = lapack.eigh(matrices)
    least = jnp.min(values, axis=1, keepdims=True)
    values = jnp.where(least < epsilon, values - least + epsilon, values)
    powers = values ** -exponents[:, None]
    found = (vectors * powers[:, None, :]) @ vectors.mT
    finite = eigenbasis.is_finite(found)
    return jnp.where(finite, found, last), ~finite[:, 0, 0]


def size(u):
    """Frobenius norms (N, 1, 1)."""
    return jnp.sqrt(jnp.sum(u * u, axis=(1, 2), keepdims=True))


def squares(cut: Plan, shape, make) -> dict[str, jax.Array]:
    """{side: make(length) of each block}, for the preconditioned sides of blocks of one shape."""
    number, height, width = shape
    lengths = {"inputs": height} if cut.inputs else {}
    lengths |= {"outputs": width} if cut.outputs else {}
    return {side: jnp.tile(make(d), (number, 1, 1)) for side, d in lengths.items()}


def each(decomposition, *trees):
    """The results of a decomposition of each leaf of the trees, like the last of them: all of the
    same side length at once, of whatever parameter."""
    leaves, treedef = jax.tree.flatten(trees[-1])
    items = list(zip(*map(jax.tree.leaves, trees[:-1]), leaves, strict=True))
    columns = zip(*map_grouped(lambda item: decomposition(*item), items), strict=True)
    return [treedef.unflatten(column) for column in columns] if leaves else [trees[-1]] * 3


def number(flags) -> jax.Array:
    """How many of the flags of a tree are set, () int32."""
    return sum(map(jnp.sum, jax.tree.leaves(flags)), jnp.zeros((), jnp.int32)).astype(jnp.int32)


def plans(blocks):
    """The plan of each piece."""
    return [p for p in blocks.plans for _ in range(len(p.rows) * len(p.columns))]


def has_squares(options: ShampooOptions) -> bool:
    return options.grafting not in ("none", "sgd")


def matrix_flops(role: Role, leaf, values: Mapping[str, Any]) -> float:
    """FLOPs of a step's products and, spread over the steps between, of the eigendecompositions
    (about 25 d^3)."""
    options = ShampooOptions(**{name: values[name] for name in vars(AUTHORS)})
    # The factor and the direction; the decomposition.
    return plan(leaf, role, **options.cut).flops(4, 25 / options.precondition_frequency)


@optimizer(scale_by_shampoo)
def shampoo(rule, learning_rate: Number, **common):
    r"""Shampoo: the mean gradient between inverse roots of its outer products.

    .. math::
      L \leftarrow \beta_2 L + \nu G G^T, \quad R \leftarrow \beta_2 R + \nu G^T G, \quad
      u = \hat L^{-e} \, \hat M \, \hat R^{-e}

    with nu = 1 - beta2, or 1 if beta2 is 1 (AdaGrad), e = 1/4; a vector has one factor and e = 1/2.
    Hats are bias corrections. Every leaf is preconditioned, in blocks.

    Args:
      learning_rate: number, array or schedule; with `grafting` that of the grafted method.
      beta1: decay of the mean gradient.
      beta2: decay of the factors; 1 sums them up.
      epsilon: least eigenvalue of a factor: below it all eigenvalues are raised.
      exponent: e of matrices.
      grafting_beta2, grafting_epsilon: of the method whose norm is taken.

    References:
      Gupta et al, `Shampoo: Preconditioned Stochastic Tensor Optimization
      <https://arxiv.org/abs/1802.09568>`_, 2018; Shi et al, `A Distributed Data-Parallel PyTorch
      Implementation of the Distributed Shampoo Optimizer for Training Neural Networks At-Scale
      <https://arxiv.org/abs/2309.06497>`_, 2023. Defaults: facebookresearch/optimizers at f606606,
      distributed_shampoo with its default RootInvShampooPreconditionerConfig:
      distributed_shampoo.py 1083-1240, 1384-1470, preconditioner/shampoo_preconditioner_list.py
      315-360, 1393-1540, 1673-1760 and matrix_functions.py 150-240. Deviations: beta3 is beta1; a
      side of length 1 is never a factor; a root that is not finite is kept and counted, where
      theirs raises an error.

      Preset "study": with Adam's norm and AdamW's surroundings in Wen et al, `Fantastic Pretraining
      Optimizers and Where to Find Them <https://arxiv.org/abs/2509.02046>`_, 2025, which did not
      run it, every tenth step and in blocks of 256.
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(
    shampoo,
    flops=matrix_flops,
    study=dict(
        learning_rate=8e-3,
        beta1=0.95,
        beta2=0.95,
        grafting_beta2=0.95,
        grafting_epsilon=1e-15,
        precondition_frequency=10,
        grafting="adam",
        block_size=256,
        merge_small=False,
    ),
)
