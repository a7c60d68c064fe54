"""Kron against its transcriptions, its schedule, and its equivariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_kron
import replay

import optim
from optim.linalg import kron_factors
from optim.linalg.kron_factors import due_parts, in_parts, update_probability
from optim.rules.shampoos.kron import KronOptions, scale_by_kron

DTYPES = ["float64", pytest.param("float32", marks=pytest.mark.slow)]
PARAMS, GRADS = replay.random_tree(0), replay.gradients(34)
PROBES = [replay.random_tree(100 + t) for t in range(34)]
HPARAMS = dict(
    learning_rate=0.05,
    beta1=0.9,
    preconditioner_lr=0.3,
    preconditioner_update_probability=0.4,
    update_prob_flat_start=-900,  # p has almost come down to 0.4: fits in every third call
    weight_decay=0.1,
)
RULE = (0.05, 0.9, 0.3, 0.4, -900, 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.slow
def test_authors_trajectory(dtype):
    tx = optim.build("kron", HPARAMS, preset="authors", max_size_triangular=12)
    grads, probes = ([replay.to_torch(x) for x in rows] for rows in (GRADS, PROBES))
    reference = reference_kron.authors(replay.to_torch(PARAMS), grads, probes, *RULE, 12)
    ours = replay.run(tx, GRADS, PARAMS, dtype, PROBES)
    replay.check(ours, [replay.from_torch(x) for x in reference], PARAMS, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_study_trajectory(dtype):
    options = dict(max_size_triangular=12, block_size=3)
    tx = optim.build("kron", HPARAMS, preset="study", **options)
    grads, probes = ([replay.to_torch(x) for x in rows] for rows in (GRADS, PROBES))
    params = replay.to_torch(PARAMS)
    names = {k: [t for t in params if t == k or t.startswith(k + "/")] for k in replay.SHAPES}
    rule = (*RULE, 12, 3, names, replay.decayed_in_study)
    reference = reference_kron.study(params, grads, probes, *rule)
    ours = replay.run(tx, GRADS, PARAMS, dtype, PROBES)
    replay.check(ours, [replay.from_torch(x) for x in reference], PARAMS, dtype)


ROLE = {"w": optim.Role("matrix", (0,), (1,), (2,))}


def normal(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def directions(tx, gradients, probes=None):
    """Directions at each call, and the last state, of one leaf w."""
    update = jax.jit(lambda g, state, v: tx.update(g, state, probes=v))
    state, rows = tx.init({"w": gradients[0]}), []
    for t, g in enumerate(gradients):
        u, state = update({"w": g}, state, None if probes is None else {"w": probes[t]})
        rows.append(u["w"])
    return rows, state


def test_fits_always_at_first_and_then_ever_more_rarely():
    tx = scale_by_kron(0.9, 0.1, 0.3, 5, options=KronOptions(schedule_start=1), roles=ROLE)
    update = jax.jit(tx.update)
    g = {"w": normal(0, 1, 3, 3)}
    state, calls = tx.init(g)._replace(count=jnp.asarray(0)), []
    for call in range(1, 16):
        if call == 8:  # as if 2,000 calls had passed: p = 0.3, every fourth call
            state = state._replace(count=jnp.asarray(2000))
        before = state.factors
        _, state = update(g, state)
        if not np.array_equal(before["w"][0]["inputs"], state.factors["w"][0]["inputs"]):
            calls.append(call)
    assert calls == [1, 2, 3, 4, 5, 7, 11, 15]  # 1 / p_6 = 1.001 already asks for two calls


@pytest.mark.slow
def test_whitens_gradients_of_any_orientation():
    """The fixed point does not depend on the basis although triangular factors do."""
    mix = jnp.linalg.qr(normal(1, 4, 4))[0] @ jnp.diag(jnp.array([3.0, 1.0, 0.5, 0.2]))
    turn = jnp.linalg.qr(normal(2, 4, 4))[0]
    noise = normal(3, 3000, 1, 4, 4)
    conditions = []
    for left in (mix, turn @ mix):
        g = jnp.einsum("ij,tljk->tlik", left, noise)
        tx = scale_by_kron(0.0, 0.03, roles=ROLE, update_prob_flat_start=10_000)

        def step(state, g, tx=tx):
            u, state = tx.update({"w": g}, state)
            return state, u["w"][0]

        _, u = jax.lax.scan(step, tx.init({"w": g[0]}), g)
        covariance = jnp.einsum("tik,tjk->ij", u[2000:], u[2000:])
        conditions.append(float(jnp.linalg.cond(covariance)))
    assert float(jnp.linalg.cond(mix @ mix.T)) > 200
    assert max(conditions) < 2


@pytest.mark.slow
def test_equivariant_under_reflections_of_coordinates():
    rows, columns = jnp.array([1.0, -1.0, 1.0, -1.0]), jnp.array([-1.0, -1.0, 1.0])
    signs = (rows[:, None] * columns[None])[None]
    g, v = ([normal(k + t, 1, 4, 3) for t in range(6)] for k in (0, 50))
    tx = scale_by_kron(roles=ROLE)
    plain, _ = directions(tx, g, v)
    mirrored, _ = directions(tx, [signs * x for x in g], [signs * x for x in v])
    for a, b in zip(plain, mirrored, strict=True):
        np.testing.assert_allclose(signs * a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_normalised_gradients_have_no_scale():
    g, v = ([normal(k + t, 2, 4, 3) for t in range(6)] for k in (0, 50))
    tx = scale_by_kron(options=KronOptions(normalize_grads=True, statistics="leaf"), roles=ROLE)
    one, _ = directions(tx, g, v)
    other, _ = directions(tx, [1e3 * x for x in g], v)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_scanned_equals_unrolled_where_statistics_are_per_matrix():
    g, v = ([normal(k + t, 2, 4, 3) for t in range(6)] for k in (0, 50))
    errors = {}
    for statistics in ("matrix", "leaf"):
        options = KronOptions(normalize_grads=True, statistics=statistics)
        tx = scale_by_kron(options=options, roles=ROLE)
        scanned, _ = directions(tx, g, v)
        alone, _ = directions(tx, [x[1:] for x in g], [x[1:] for x in v])
        errors[statistics] = max(
            float(abs(a[1:] - b).max()) for a, b in zip(scanned, alone, strict=True)
        )
    assert errors["matrix"] < 1e-5
    assert errors["leaf"] > 1e-2


def test_balancing_leaves_the_preconditioner():
    q = {"inputs": jnp.triu(normal(0, 2, 3, 3)), "outputs": 9 * jnp.abs(normal(1, 2, 4))}
    g = normal(2, 2, 3, 4)
    balanced = kron_factors.balance(q)
    largest = [jnp.max(jnp.abs(x.reshape(2, -1)), axis=1) for x in balanced.values()]
    np.testing.assert_allclose(largest[0], largest[1], rtol=1e-6)
    np.testing.assert_allclose(
        kron_factors.whiten(g, balanced), kron_factors.whiten(g, q), rtol=1e-4, atol=1e-4
    )


def test_norm_lower_bound():
    for t in range(5):
        a = normal(t, 6, 6)
        a = a @ a.T
        norm, bound = jnp.linalg.norm(a, 2), kron_factors.norm_lower_bound(a)
        assert norm / 2**0.5 <= bound <= norm * (1 + 1e-6)
    assert kron_factors.norm_lower_bound(jnp.zeros((3, 3))) == 0


@pytest.mark.slow
def test_overflow_leaves_the_factors():
    tx = scale_by_kron(roles=ROLE)
    _, state = directions(tx, [normal(0, 2, 4, 4).at[1].multiply(1e30)])
    assert state.kept == 2  # the inputs' and the outputs' factor of the second matrix
    factors = state.factors["w"][0]["inputs"]
    np.testing.assert_array_equal(factors[1], np.eye(4))
    assert np.isfinite(factors).all() and not np.array_equal(factors[0], np.eye(4))


def test_parts_are_due_as_often_as_the_schedule_says_and_evenly_apart():
    least, flat, parts = 0.1, 20, 5
    n = jnp.arange(1, 6000)
    due = jax.vmap(lambda n: due_parts(n, parts, least, flat))(n)
    expected = float(jnp.sum(update_probability(n, least, flat)))
    assert due[:flat].all()
    assert np.all(abs(due.sum(0) - expected) < 3)
    assert due[-1000:].sum(1).max() == 1  # p = 0.1: one part in every second call


def test_in_parts_does_only_what_is_due():
    x = jnp.arange(7.0)[:, None]
    due = jnp.array([False, True, False])
    out = in_parts(lambda x: x + 100, lambda x: x, x, due)
    np.testing.assert_array_equal(out.ravel(), [0, 101, 2, 3, 104, 5, 6])


@pytest.mark.slow
def test_fitting_in_turns_is_the_same_while_all_are_due():
    g, v = ([normal(k + t, 5, 4, 3) for t in range(4)] for k in (0, 50))
    runs = [
        directions(scale_by_kron(options=KronOptions(turns=turns), roles=ROLE), g, v)[0]
        for turns in (1, 3)
    ]
    for a, b in zip(*runs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
