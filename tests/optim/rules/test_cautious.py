"""Cautious AdamW against its transcriptions, and what makes it cautious."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_cautious
import replay

import optim
from optim.rules.cautious import scale_by_cautious

PARAMS, GRADS = replay.random_tree(0), replay.gradients(30)
HPARAMS = dict(learning_rate=0.05, beta1=0.9, beta2=0.98, epsilon=1e-6, weight_decay=0.1)
RULE = (0.05, 0.9, 0.98, 1e-6, 0.1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_authors_trajectory(dtype):
    tx = optim.build("cautious", HPARAMS, preset="authors")
    grads = [replay.to_torch(g) for g in GRADS]
    reference = reference_cautious.authors(replay.to_torch(PARAMS), grads, *RULE)
    reference = [replay.from_torch(x) for x in reference]
    replay.check(replay.run(tx, GRADS, PARAMS, dtype), reference, PARAMS, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_study_trajectory(dtype):
    tx = optim.build("cautious", HPARAMS | {"max_grad_norm": 0.0}, preset="study")
    reference = list(reference_cautious.study(PARAMS, GRADS, *RULE, replay.decayed_in_study))
    replay.check(replay.run(tx, GRADS, PARAMS, dtype), reference, PARAMS, dtype)


def test_never_moves_against_the_gradient():
    tx = scale_by_cautious()
    g = {"final_norm/scale": jnp.linspace(-1.0, 2.0, 7)}
    _, state = tx.update(g, tx.init(g))
    u, _ = tx.update(jax.tree.map(lambda x: -0.01 * x, g), state)  # momentum still points along g
    assert not u["final_norm/scale"].any()


def test_statistics_are_per_matrix_or_per_leaf():
    """A stack whose second layer is masked entirely rescales the first only per leaf."""
    role = optim.Role("matrix", (0,), (1,), (2,))
    g = {"w": jnp.ones((2, 3, 4))}
    turned = {"w": jnp.ones((2, 3, 4)) * jnp.array([1.0, -0.01]).reshape(2, 1, 1)}

    def first_layer(statistics):
        tx = scale_by_cautious(0.9, 0.9, 0.0, roles={"w": role}, statistics=statistics)
        _, state = tx.update(g, tx.init(g))
        return tx.update(turned, state)[0]["w"][0]

    np.testing.assert_allclose(first_layer("leaf"), 2 * first_layer("matrix"), rtol=1e-6)
