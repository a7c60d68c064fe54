"""optim/stacks/members.py: what a rule does seldom stays a choice where members step together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import optim

ROLES = {"w": optim.Role("matrix", (0,), (1,), (2,))}
W = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)  # three members
# The operations of seldom work, and options by which it is not due in every step.
SELDOM = {
    "soap": ({"eigh", "householder_product"}, {"precondition_frequency": 3}),
    "kl_soap": ({"eigh", "householder_product"}, {"precondition_frequency": 3}),
    "shampoo": ({"eigh"}, {"precondition_frequency": 3}),
    "kron": (
        {"triangular_solve"},
        {"preconditioner_update_probability": 0.3, "update_prob_flat_start": -9000},
    ),
    "sophia": ({"sin"}, {"refresh_every": 3}),
}


def loss(params):
    return jnp.sum(jnp.cos(params["w"]))  # its gradient has sines


def member(name, step_is_shared=True):
    """step(params, state, number, active) -> (params, state) of one member."""
    tx = optim.build(name, learning_rate=0.01, roles=ROLES, **SELDOM[name][1])

    def step(params, state, number, active):
        grads = jax.tree.map(lambda w: w * w, params)
        extra = {"step": number, "active": active} if step_is_shared else {}
        updates, new = tx.update(grads, state, params, grad_fn=jax.grad(loss), **extra)
        moved = jax.tree.map(jnp.add, params, updates)
        return jax.tree.map(lambda x, y: jnp.where(active, x, y), (moved, new), (params, state))

    return tx, step


def operations(jaxpr, chosen=False):
    """(name, whether it lies in a branch of the program's own) of every operation."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, chosen
        platforms = "branches_platforms" in eqn.params and eqn.params["branches_platforms"]
        own = eqn.primitive.name == "cond" and not platforms
        for inner in jaxprs_in_params(eqn.params):
            yield from operations(inner, chosen or own)


@pytest.mark.parametrize("name", SELDOM)
def test_seldom_work_is_a_branch(name):
    tx, step = member(name)
    states = jax.vmap(tx.init)({"w": W})
    many = jax.vmap(step, (0, 0, None, 0))
    jaxpr = jax.make_jaxpr(many)({"w": W}, states, jnp.int32(0), jnp.ones(3, bool)).jaxpr
    found = [chosen for op, chosen in operations(jaxpr) if op in SELDOM[name][0]]
    assert found and all(found)


def test_members_with_reasons_of_their_own_are_the_runs_alone():
    """Kron's fits, one member standing still in between."""
    tx, step = member("kron")
    many = jax.jit(jax.vmap(step, (0, 0, None, 0)))
    params, states = {"w": W}, jax.vmap(tx.init)({"w": W})
    for number in range(9):
        alive = jnp.array([True, number < 4, True])
        params, states = many(params, states, jnp.int32(number), alive)
    tx, alone = member("kron", step_is_shared=False)
    alone = jax.jit(alone)
    for i, steps in enumerate((9, 4, 9)):
        one = {"w": W[i]}
        state = tx.init(one)
        for number in range(steps):
            one, state = alone(one, state, number, True)
        np.testing.assert_allclose(params["w"][i], one["w"], rtol=1e-4, atol=1e-5)
