"""Sophia-H: momentum over the Hessian's diagonal."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optim.alias import optimizer, takes_options
from optim.assemble import finish
from optim.entry import Entry, Number
from optim.stacks.probes import gaussian_like, probe_key


class ScaleBySophiaState(NamedTuple):
    count: jax.Array  # () int32, updates made
    probes: jax.Array  # (2,) uint32, the key of its probes, see optim.stacks.probes
    mu: Any  # first moment
    nu: Any  # moving average of the estimates of the Hessian's diagonal


@takes_options
def scale_by_sophia(
    beta1: ArrayLike = 0.96,
    beta2: ArrayLike = 0.99,
    gamma: ArrayLike = 0.01,
    epsilon: ArrayLike = 1e-12,
    *,
    refresh_every: int = 10,
    refresh: Literal["before", "after"] = "before",
    correction: Literal["inside", "outside"] = "outside",
    floor: Literal["sum", "max"] = "sum",
    seed: ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum over an estimate of the Hessian's diagonal, clipped to 1 in every coordinate.

    .. math::
      h \leftarrow \beta_2 h + (1 - \beta_2)\, z \odot (H z), \quad z \sim N(0, I), \qquad
      u = \mathrm{clip}(m / d(h), \pm 1)

    h starts at 0 and has no bias correction: until its first estimate every step is a sign step.

    Args:
      beta1: decay rate of m.
      beta2: decay rate of h per estimate (not per step).
      gamma: scale of h in d; smaller clips less.
      epsilon: floor of d.
      refresh_every: steps between estimates, each one Hessian-vector product (static).
      refresh: "after": at the end of update k, 2k, ... from the parameters before that update, to
        be used from the next one on. "before": at the start of update k + 1, 2k + 1, ..., used at
        once (static).
      correction: "inside": the clipped quotient is m / (1 - beta1^t) over d; "outside": m over d is
        clipped and then divided by 1 - beta1^t (static).
      floor: d is "max": max(gamma h, epsilon), or "sum": gamma max(h, 0) + epsilon (static).
      seed: of the probes' key.

    Extra arguments of `update`:
      grad_fn: parameters -> gradients on this step's batch; ValueError without it.
      probes: a tree of z for this step, instead of the random one.
      step: () int32, updates made so far; for members of a `vmap` that step together, not batched.

    Returns:
      An `optax.GradientTransformationExtraArgs`; see the Example of `sophia`.
    """

    def init(params):
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return ScaleBySophiaState(jnp.zeros((), jnp.int32), probe_key(seed), mu, nu)

    def update(gradients, state, params=None, *, grad_fn=None, probes=None, step=None, **_):
        if grad_fn is None or params is None:
            raise ValueError("sophia needs params and grad_fn: update(g, state, params, grad_fn=f)")
        count = optax.safe_increment(state.count)
        done = state.count if step is None else step

        def estimate(nu):
            z = gaussian_like(params, state.probes, count) if probes is None else probes
            z = jax.tree.map(lambda z, p: z.astype(p.dtype), z, params)
            _, h_z = jax.jvp(grad_fn, (params,), (z,))
            diagonal = jax.tree.map(lambda z, hz, h: (z * hz).astype(h.dtype), z, h_z, nu)
            return optax.tree.update_moment(diagonal, nu, beta2, 1)

        nu = state.nu
        if refresh == "before":
            due = (done % refresh_every == 0) & (done > 0)
            nu = jax.lax.cond(due, estimate, lambda h: h, nu)

        mu = optax.tree.update_moment(gradients, state.mu, beta1, 1)
        bias = 1 - beta1**count

        def direction(m, h):
            above = jnp.maximum(gamma * h, epsilon)
            d = above if floor == "max" else gamma * jax.nn.relu(h) + epsilon
            if correction == "inside":
                return jnp.clip(m / bias / d, -1, 1).astype(m.dtype)
            return (jnp.clip(m / d, -1, 1) / bias).astype(m.dtype)

        directions = jax.tree.map(direction, mu, nu)
        if refresh == "after":
            due = (done + 1) % refresh_every == 0
            nu = jax.lax.cond(due, estimate, lambda h: h, nu)
        return directions, ScaleBySophiaState(count, state.probes, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


@optimizer(scale_by_sophia, weight_decay=0.2, max_grad_norm=1.0)
def sophia(rule, learning_rate: Number, *, seed: int = 0, **common):
    """Sophia with Hutchinson's estimator, Gaussian probes.

    A Hessian-vector product costs two to three gradients, every `refresh_every` steps. If it pays,
    about half the coordinates are unclipped; raise `gamma` while nearly all are.

    Args:
      learning_rate: number, array or schedule; the largest step of any coordinate.
      beta1, beta2, gamma, epsilon: see `scale_by_sophia`.
      max_grad_norm: global norm to clip the gradient (not the Hessian) to; 0 is off.
      refresh_every, refresh, correction, floor, seed: see `scale_by_sophia` (static).

    Example:
      >>> import jax, optax, optim
      >>> import jax.numpy as jnp
      >>> params = {"up": {"kernel": jnp.eye(2, 3)}}
      >>> gradient = jax.grad(lambda p: jnp.sum(p["up"]["kernel"] ** 2))
      >>> tx = optim.sophia(learning_rate=0.1)
      >>> state = tx.init(params)
      >>> updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
      >>> jax.tree.map(jnp.shape, optax.apply_updates(params, updates))
      {'up': {'kernel': (2, 3)}}

    References:
      Liu et al, `Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
      Pre-training <https://arxiv.org/abs/2305.14342>`_, 2023. Defaults: the class SophiaH of
      Liuhong99/Sophia at 01af183 (the main branch later kept only Sophia-G), numbers of the paper;
      their loop estimates between two steps, at the new parameters and on the next batch, which
      here is the start of the next update.

      Preset "study": levanter's, as Wen et al, `Fantastic Pretraining Optimizers and Where to Find
      Them <https://arxiv.org/abs/2509.02046>`_, 2025, ran it: the quotient of the corrected m
      clipped, estimate at the end of updates 10, 20, ...
    """
    return finish(rule, learning_rate, **common)


ENTRY = Entry(
    sophia,
    study=dict(
        learning_rate=4e-3,
        beta1=0.95,
        beta2=0.99,
        gamma=0.0125,
        epsilon=1e-12,
        refresh="after",
        correction="inside",
        floor="max",
    ),
)
