"""Adam-mini: one second moment per block of parameters."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number
from optim.roles import Role, Roles, find_roles

GainBlocks = Literal["entry", "vector"]


class ScaleByAdamMiniState(NamedTuple):
    count: jax.Array  # () int32, updates made
    mu: Any  # first moment, an entry per parameter
    nu: Any  # second moment, an entry per block: the parameter's axes, those of a block of size 1


def block_axes(role: Role, gain_blocks: GainBlocks = "vector") -> tuple[int, ...]:
    """The axes of a leaf that one second moment is shared over.

    Embedding and head: per token. Query and key: per head, if the role has a head axis. Other
    matrices: per output. Gains: per "entry" or per "vector"; biases always per entry.
    """
    if role.kind == "gain":
        return () if gain_blocks == "entry" or role.part == "bias" else role.outputs
    if role.kind == "embedding":
        return role.outputs
    if role.part in ("query", "key") and role.heads is not None:
        return tuple(axis for axis in role.inputs + role.outputs if axis != role.heads)
    return role.inputs


@takes_options
def scale_by_adam_mini(
    beta1: ArrayLike = 0.9,
    beta2: ArrayLike = 0.999,
    epsilon: ArrayLike = 1e-8,
    *,
    roles: Roles = None,
    gain_blocks: GainBlocks = "vector",
) -> optax.GradientTransformation:
    r"""Adam with one second moment, the mean of the squares, for each block of parameters.

    .. math::
      v_b = \beta_2 v_b + (1 - \beta_2) \mathrm{mean}_{i \in b}\, g_i^2, \qquad
      u_i = \hat m_i / (\sqrt{\hat v_{b(i)}} + \epsilon)

    Args:
      beta1, beta2, epsilon: as in Adam.
      roles: see `optim.roles.find_roles` (static).
      gain_blocks: see `block_axes`, which says what the blocks are (static).
    """

    def axes_tree(tree):
        return jax.tree.map(lambda role: block_axes(role, gain_blocks), find_roles(tree, roles))

    def init(params):
        def blocks(p, axes):
            return jnp.zeros([1 if i in axes else n for i, n in enumerate(p.shape)], p.dtype)

        mu = jax.tree.map(jnp.zeros_like, params)
        return ScaleByAdamMiniState(
            jnp.zeros((), jnp.int32), mu, jax.tree.map(blocks, params, axes_tree(params))
        )

    def update(gradients, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradients, state.mu, beta1, 1)

        def second_moment(g, v, axes):
            return beta2 * v + (1 - beta2) * jnp.mean(g * g, axis=axes, keepdims=True)

        nu = jax.tree.map(second_moment, gradients, state.nu, axes_tree(gradients))
        m_hat = optax.tree.bias_correction(mu, beta1, count)
        v_hat = optax.tree.bias_correction(nu, beta2, count)
        directions = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), m_hat, v_hat)
        return directions, ScaleByAdamMiniState(count, mu, nu)

    return optax.GradientTransformation(init, update)


@optimizer(scale_by_adam_mini, decayed=("matrix", "embedding", "head"))
def adam_mini(rule, learning_rate: Number, **common):
    """AdamW with about half its memory: one second moment per block instead of per entry.

    It wants AdamW's hyper-parameters. The roles of query and key matter: without `part` and
    `heads` they are treated like other matrices, in finer blocks.

    Args:
      beta1, beta2, epsilon: as in AdamW.
      gain_blocks: see `block_axes` (static).

    References:
      Zhang et al, `Adam-mini: Use Fewer Learning Rates To Gain More
      <https://arxiv.org/abs/2406.16793>`_, 2024. Defaults: zyushun/Adam-mini 1.1.1; gains are one
      block each and neither they nor biases decay.

      Preset "study": Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them
      <https://arxiv.org/abs/2509.02046>`_, 2025: gains by AdamW, and only gains are clipped, by
      their own norm (as it was run); decay on matrices and head. It stored v at full size; the
      numbers are the same.
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(
    adam_mini,
    study=dict(
        learning_rate=8e-3,
        beta1=0.9,
        beta2=0.98,
        epsilon=1e-20,
        gain_blocks="entry",
        clipped=("gain",),
    ),
)
