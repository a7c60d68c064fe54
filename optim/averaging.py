"""Averages of the iterates: where gradients are taken and where a model is judged may differ.

An optimizer whose parameters are judged elsewhere than where they train says so by its state: any
NamedTuple in it that has the method

    evaluation_params(params) -> params

with the arrays to evaluate, in the structure and dtypes of `params`. Programs call
`optim.evaluation_params(state, params)` before they evaluate, export or score; checkpoints hold the
state and the parameters as they train, so that a run resumes as it was.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim.alias import Signature
from optim.entry import Number


def evaluation_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """The parameters to evaluate: what the optimizer's state offers, else `params` themselves.

    Args:
      state: an optimizer's state, of any transformation.
      params: the parameters as they train.

    Returns:
      Arrays in the structure and dtypes of `params`.

    Raises:
      ValueError: several parts of the state offer parameters.

    Example:
      >>> import optim
      >>> import jax.numpy as jnp
      >>> params = {"up": {"kernel": jnp.eye(2, 3)}}
      >>> state = optim.schedule_free_adamw(learning_rate=0.01).init(params)
      >>> optim.evaluation_params(state, params)["up"]["kernel"].shape
      (2, 3)
    """

    def offers(node):
        return hasattr(node, "evaluation_params")

    found = [node for node in jax.tree.leaves(state, is_leaf=offers) if offers(node)]
    if len(found) > 1:
        names = ", ".join(type(node).__name__ for node in found)
        raise ValueError(f"{len(found)} parts of the optimizer state offer parameters: {names}")
    return found[0].evaluation_params(params) if found else params


class ScheduleFreeState(NamedTuple):
    count: jax.Array  # () int32, updates made
    weight_sum: jax.Array  # () sum of the weights of the average
    peak: jax.Array  # () the largest learning rate so far
    x: Any  # the average, like the parameters: where the model is judged
    z: Any  # the iterate that the steps move, like the parameters

    def evaluation_params(self, params):
        return jax.tree.map(lambda x, p: x.astype(p.dtype), self.x, params)


def average_iterates(
    learning_rate, interpolation=0.9, weight_power=0.0, weight_lr_power=2.0
) -> optax.GradientTransformation:
    r"""Steps that move z become steps of y, where gradients are taken, between z and its average x.

    .. math::
      z \leftarrow z + \Delta_t, \quad
      c_t = \frac{w_t}{\sum_{s \le t} w_s}, \quad w_t = t^r (\max_{s \le t} \eta_s)^p, \quad
      x \leftarrow (1 - c_t) x + c_t z, \quad y = \beta x + (1 - \beta) z

    To be the last of a chain, after the learning rate. Arguments as in `schedule_free`.
    """

    def init(params):
        x, z = (jax.tree.map(lambda p: jnp.array(p, copy=True), params) for _ in range(2))
        zero = jnp.zeros((), float)
        return ScheduleFreeState(jnp.zeros((), jnp.int32), zero, zero, x, z)

    def update(steps, state, params=None):
        if params is None:
            raise ValueError("averaging needs params: call update(grads, state, params)")
        count = optax.safe_increment(state.count)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        peak = jnp.maximum(state.peak, rate)
        weight = jnp.asarray(count, float) ** weight_power * peak**weight_lr_power
        total = state.weight_sum + weight
        c = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
        z = jax.tree.map(lambda z, step: z + step, state.z, steps)
        x = jax.tree.map(lambda x, z: ((1 - c) * x + c * z).astype(x.dtype), state.x, z)

        def move(x, z, y):
            return (interpolation * x + (1 - interpolation) * z - y).astype(y.dtype)

        moved = jax.tree.map(move, x, z, params)
        return moved, ScheduleFreeState(count, total.astype(float), peak.astype(float), x, z)

    return optax.GradientTransformation(init, update)


def schedule_free(rule: Callable) -> Callable:
    """`rule` without a schedule: it steps z, takes gradients at y and is judged at the average x.

    Args:
      rule: an optimizer made by `optim.alias.optimizer`; so is the result, with three more numbers
        after the learning rate:

          interpolation    beta, how near y is to the average; the momentum of the method. A rule
                           with a momentum of its own wants that small or 0.
          weight_power     r, by which later iterates weigh more.
          weight_lr_power  p; with warm-up the early iterates weigh less.

    Decay acts at y. Use the schedule "constant", with warm-up if any.

    Returns:
      An optimizer with the arguments of `rule` and these.

    Example:
      >>> import optim
      >>> tx = optim.schedule_free(optim.lion)(learning_rate=0.001, interpolation=0.9)

    References:
      `average_iterates` is Defazio et al. 2024, arXiv 2405.15682; facebookresearch/schedule_free at
      70785b5, adamw_schedulefree_reference.py 150-230 and wrap_schedulefree_reference.py 100-175
      (whose decay of the base rule acts at z). Deviations: warm-up is the schedule's, which starts
      at a rate of 0 and climbs one step later; x and z are both kept, so that bfloat16 parameters
      lose nothing, for 4 bytes a parameter more than the authors' code, which finds x again from y
      and z.
    """
    names = {"interpolation": 0.9, "weight_power": 0.0, "weight_lr_power": 2.0}
    rows = list(inspect.signature(rule).parameters.values())
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    more = [inspect.Parameter(k, kind, default=v, annotation=Number) for k, v in names.items()]

    signature = Signature([rows[0], *more, *rows[1:]])

    @functools.wraps(rule)
    def free(*args, **kwargs):
        given = signature.given(rule.__name__, args, kwargs)
        values = {name: given.pop(name) for name in names if name in given}
        return rule(**given, last=average_iterates(given["learning_rate"], **values))

    free.__signature__ = signature
    return free
