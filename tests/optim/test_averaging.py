"""Schedule-Free against its transcription, around other rules, and where a model is judged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_frontier as reference
import replay

import optim
from optim.rules.adamw import adamw
from optim.rules.muons.muon import muon

STEPS = 30
PARAMS = replay.random_tree(0)
CURVE = {k: np.exp(0.3 * x) for k, x in replay.random_tree(1).items()}


def gradient(y):
    return {k: CURVE[k] * y[k] + np.cos(y[k]) for k in y}


def run(tx, dtype):
    """Trains on `gradient` at y; (y, x) after every step."""
    with replay.precision(dtype):
        y = {k: jnp.asarray(x, dtype) for k, x in PARAMS.items()}
        curve = {k: jnp.asarray(c, dtype) for k, c in CURVE.items()}
        state, rows = tx.init(y), []

        @jax.jit
        def step(y, state):
            grads = {k: curve[k] * y[k] + jnp.cos(y[k]) for k in y}
            updates, state = tx.update(grads, state, y)
            return optax.apply_updates(y, updates), state

        for _ in range(STEPS):
            y, state = step(y, state)
            x = optim.evaluation_params(state, y)
            rows.append([{k: np.asarray(v, np.float64) for k, v in t.items()} for t in (y, x)])
    return rows


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
@pytest.mark.parametrize(("r", "warmup"), [(0.0, 0), (2.0, 6)])
def test_authors_trajectory(dtype, r, warmup):
    """Both points, y and x. Warm-up as ours: from a rate of 0, where nothing may divide by 0."""

    def rate(t):
        return 0.02 * min(1.0, t / warmup) if warmup else 0.02

    args = (gradient, STEPS, rate, 0.8, 0.95, 1e-8, 0.1, r, 2.0)
    rows = list(reference.schedule_free(PARAMS, *args))
    hparams = dict(learning_rate=0.02, interpolation=0.8, beta2=0.95, weight_decay=0.1)
    hparams |= dict(weight_power=r, warmup=warmup)
    ours = run(optim.build("schedule_free", hparams, preset="authors"), dtype)
    for point in range(2):
        mine, theirs = ([row[point] for row in table] for table in (ours, rows))
        replay.check(mine, theirs, PARAMS, dtype)


@pytest.mark.slow
def test_any_rule_may_be_averaged():
    """Around AdamW with momentum and Muon: z is the rule's own path from the gradients at y."""
    for alias in (adamw, muon):
        tx = optim.schedule_free(alias)(0.01, interpolation=0.7, weight_decay=0.1)
        plain = alias(0.01, weight_decay=0.1)
        averaged, own = jax.jit(tx.update), jax.jit(plain.update)
        y = {k: jnp.asarray(x, jnp.float32) for k, x in PARAMS.items()}
        state, inner, z = tx.init(y), plain.init(y), y
        for t in range(3):
            grads = jax.tree.map(jnp.cos, y)
            steps, inner = own(grads, inner, y)
            z = optax.apply_updates(z, steps)
            updates, state = averaged(grads, state, y)
            y = optax.apply_updates(y, updates)
            x = optim.evaluation_params(state, y)
            mixed = jax.tree.map(lambda x, z: 0.7 * x + 0.3 * z, x, z)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), y, mixed)
            if t == 0:
                jax.tree.map(np.testing.assert_array_equal, x, z)


def test_without_an_average_the_parameters_themselves_are_judged():
    params = {"w": jnp.ones((2, 2))}
    tx = optim.build("adamw", {"learning_rate": 0.1})
    assert optim.evaluation_params(tx.init(params), params) is params


def test_two_averages_are_an_error():
    params = {"w": jnp.ones((2, 2))}
    tx = optim.build("schedule_free", {"learning_rate": 0.1})
    with pytest.raises(ValueError, match="2 parts of the optimizer state.*ScheduleFreeState"):
        optim.evaluation_params((tx.init(params), tx.init(params)), params)


def test_bfloat16_parameters_lose_nothing_of_the_average():
    """x and z are kept in float32: rounding y does not add up in them."""
    rows = []
    for dtype in (jnp.float32, jnp.bfloat16):
        tx = optim.build("schedule_free", dict(learning_rate=1e-4, weight_decay=0.0))
        y = {"w": jnp.ones((4, 4), dtype)}
        state = tx.init(y)
        update = jax.jit(tx.update)
        for _ in range(20):
            updates, state = update({"w": jnp.ones((4, 4), dtype)}, state, y)
            y = optax.apply_updates(y, updates)
        rows.append(optim.evaluation_params(state, {"w": jnp.ones((4, 4))})["w"])
    np.testing.assert_allclose(*rows, atol=2e-6)
    assert float(rows[0][0, 0]) < 1 - 5e-4
