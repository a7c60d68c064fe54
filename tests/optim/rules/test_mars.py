"""MARS against its transcriptions, and its corrected gradient."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_mars
import replay

import optim
from optim.rules.mars import correct_gradient, scale_by_mars

PARAMS = replay.random_tree(0)
GRADS = replay.gradients(30)
HPARAMS = dict(
    learning_rate=0.05, beta1=0.95, beta2=0.98, gamma=0.04, epsilon=1e-7, weight_decay=0.1
)
RULE = (0.05, 0.95, 0.98, 0.04, 1e-7, 0.1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_authors_trajectory(dtype):
    gains = dict(
        gain_learning_rate_ratio=0.5, gain_beta1=0.8, gain_beta2=0.9, gain_weight_decay=0.2
    )
    tx = optim.build("mars", HPARAMS | gains, preset="authors")
    # Every other gradient is small: some tensors are clipped to norm 1 and some are not.
    grads = [{k: g * (0.02 if t % 2 else 1) for k, g in gs.items()} for t, gs in enumerate(GRADS)]
    flat = [replay.to_torch(g) for g in grads]
    reference = reference_mars.authors(replay.to_torch(PARAMS), flat, *RULE, 0.025, (0.8, 0.9), 0.2)
    reference = [replay.from_torch(x) for x in reference]
    replay.check(replay.run(tx, grads, PARAMS, dtype), reference, PARAMS, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_study_trajectory(dtype):
    tx = optim.build("mars", HPARAMS | {"max_grad_norm": 2.0}, preset="study")
    grads = [{k: g * (0.02 if t % 2 else 1) for k, g in gs.items()} for t, gs in enumerate(GRADS)]
    reference = list(reference_mars.study(PARAMS, grads, *RULE, 2.0, replay.decayed_in_study))
    replay.check(replay.run(tx, grads, PARAMS, dtype), reference, PARAMS, dtype)


def test_without_correction_and_clipping_it_is_adam():
    g = {"w": jnp.linspace(-1.0, 2.0, 12).reshape(3, 4)}
    mars, adam = scale_by_mars(gamma=0.0, max_grad_norm=0.0), optax.scale_by_adam(0.95, 0.99)
    u, _ = mars.update(g, mars.init(g))
    np.testing.assert_allclose(u["w"], adam.update(g, adam.init(g))[0]["w"], rtol=1e-6)


def test_a_constant_gradient_is_corrected_only_once():
    """The gradient before the first one counts as 0, later differences vanish."""
    g = {"w": jnp.ones((3, 4))}
    tx = correct_gradient(0.5)
    first, state = tx.update(g, tx.init(g))
    second, _ = tx.update(g, state)
    np.testing.assert_allclose(first["w"], 1.5)
    np.testing.assert_allclose(second["w"], 1.0)


@pytest.mark.parametrize("scope", ["tree", "matrix"])
def test_clip_scope(scope):
    role = optim.Role("matrix", (0,), (1,), (2,))
    g = {"w": jnp.ones((2, 3, 4)) * jnp.array([10.0, 0.01]).reshape(2, 1, 1)}
    tx = correct_gradient(0.0, 1.0, roles={"w": role}, clip_scope=scope)
    clipped = tx.update(g, tx.init(g))[0]["w"]
    assert np.linalg.norm(clipped[0]) == pytest.approx(1.0, rel=1e-5)
    kept = float((clipped[1] / g["w"][1]).max())
    assert kept == pytest.approx(1.0 if scope == "matrix" else 1 / (10 * 12**0.5), rel=1e-4)
