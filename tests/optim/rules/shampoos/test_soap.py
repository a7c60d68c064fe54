"""SOAP against its transcriptions, its refreshes, and its equivariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_soap
import replay

import optim
from optim.roles import path_name
from optim.rules.shampoos.soap import ScaleBySoapState, SoapOptions, scale_by_soap

DTYPES = ["float64", pytest.param("float32", marks=pytest.mark.slow)]
PARAMS = replay.random_tree(0)
HPARAMS = dict(
    learning_rate=0.05,
    beta1=0.9,
    beta2=0.95,
    shampoo_beta=0.8,
    epsilon=1e-7,
    weight_decay=0.1,
    max_grad_norm=0.0,
)
RULE = (0.05, 0.9, 0.95, 0.8, 1e-7, 0.1)


def stacked(bases):
    """{leaf: {side: (layers * blocks, d, d)}} of the reference's {(tensor, block): [out, in]}."""
    result = {}
    for name in replay.SHAPES:
        rows = []
        for (tensor, at), matrices in bases.items():
            if tensor == name or tensor.startswith(name + "/"):
                # Ours go by layer, then by block of the inputs, then by block of the outputs.
                turn = 1 if "embed" in name else -1
                rows.append((tensor, at[::turn], matrices[::turn]))
        rows.sort(key=lambda row: row[:2])
        sides = ("inputs", "outputs")[-len(rows[0][2]) :]
        columns = zip(sides, zip(*(row[2] for row in rows), strict=True), strict=True)
        result[name] = {side: np.stack(q) for side, q in columns if q[0] is not None}
    return result


def transcription(preset, grads):
    """Yields (parameters, bases) after each call, of one tensor a layer."""
    flat, params = [replay.to_torch(g) for g in grads], replay.to_torch(PARAMS)
    if preset == "authors":
        return reference_soap.authors(params, flat, *RULE, 5, 12)
    return reference_soap.study(params, flat, *RULE, 10, 14, 3, replay.decayed_in_study)


def gradients(preset):
    """Those of `replay`, but for the second: its coordinates x in the first bases are in +-[1, 2].

    The second call's direction is x / |x|, and rounding errors of x are relative to the whole
    matrix: a random gradient, with some coordinate near zero, would lose three digits to them.
    """
    grads, rng = replay.gradients(34), np.random.default_rng(0)
    _, bases = next(transcription(preset, grads[:1]))
    second = replay.to_torch(grads[1])
    for (name, at), q in bases.items():
        block = second[name][reference_soap.index(at)]
        x = rng.uniform(1, 2, block.shape) * rng.choice([-1, 1], block.shape)
        block[...] = reference_soap.project(x, q, back=True)
    grads[1] = {k: np.float64(np.float32(x)) for k, x in replay.from_torch(second).items()}
    return grads


OPTIONS = {
    "authors": dict(precondition_frequency=5, max_precond_dim=12),
    "study": dict(precondition_frequency=10, max_precond_dim=13, block_size=3),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("preset", OPTIONS)
def test_trajectory(preset, dtype):
    """In float32 from the transcription's first bases: those of nearly equal eigenvalues are no
    better conditioned than their gap."""
    grads = gradients(preset)
    reference = list(transcription(preset, grads))
    bases = stacked(reference[0][1])

    def between(t, state):
        return placed(state, bases) if t == 1 and dtype == "float32" else state

    tx = optim.build("soap", HPARAMS, preset=preset, **OPTIONS[preset])
    ours = replay.run(tx, grads, PARAMS, dtype, between=between)
    replay.check(ours, [replay.from_torch(x) for x, _ in reference], PARAMS, dtype)


def placed(state, bases):
    """The state with other eigenbases."""

    def place(key_path, items):
        given = bases[path_name(key_path)]
        rows = zip(items, given if isinstance(given, list) else [given], strict=True)
        return [
            {side: jnp.asarray(new.get(side, q), q.dtype) for side, q in old.items()}
            for old, new in rows
        ]

    def visit(node):
        if not isinstance(node, ScaleBySoapState):
            return node
        is_blocks = lambda x: isinstance(x, list)  # noqa: E731
        return node._replace(bases=jax.tree.map_with_path(place, node.bases, is_leaf=is_blocks))

    return jax.tree.map(visit, state, is_leaf=lambda x: isinstance(x, ScaleBySoapState))


def small(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def directions(tx, gradients, steps=12):
    """Directions at each call on one leaf w."""
    state, rows = tx.init({"w": gradients[0]}), []
    update = jax.jit(tx.update)
    for g in gradients[:steps]:
        u, state = update({"w": g}, state)
        rows.append(u["w"])
    return rows, state


ROLE = {"w": optim.Role("matrix", (0,), (1,), (2,))}


def test_first_call_and_refresh_calls():
    """Update 0 in the first call; bases move in calls 10, 20 (study) and 11, 21 (authors)."""
    g = [small(t, 1, 4, 4) for t in range(21)]
    for counted, expected in ((True, [1, 10, 20]), (False, [1, 11, 21])):
        tx = scale_by_soap(options=SoapOptions(count_first_call=counted), roles=ROLE)
        state, changed = tx.init({"w": g[0]}), []
        update = jax.jit(tx.update)
        for call, x in enumerate(g, 1):
            before = state.bases["w"][0]["inputs"]
            u, state = update({"w": x}, state)
            assert bool(u["w"].any()) == (call > 1)
            if not np.array_equal(before, state.bases["w"][0]["inputs"]):
                changed.append(call)
        assert changed == expected


def test_equivariant_under_rotations_of_rows_and_columns():
    g = [small(t, 1, 4, 4) for t in range(12)]
    left, right = (jnp.linalg.qr(small(i, 4, 4))[0][None] for i in (50, 51))
    tx = scale_by_soap(options=SoapOptions(precondition_frequency=4), roles=ROLE)
    plain, _ = directions(tx, g)
    turned, _ = directions(tx, [left @ x @ right for x in g])
    for a, b in zip(plain, turned, strict=True):
        np.testing.assert_allclose(left @ a @ right, b, atol=2e-4)


@pytest.mark.slow
def test_blocks_are_matrices_of_their_own():
    """Ragged blocks: (5, 7) in blocks of 3 is 2 x 3 matrices."""
    g = [small(t, 2, 5, 7) for t in range(8)]
    tx = scale_by_soap(options=SoapOptions(precondition_frequency=3, block_size=3), roles=ROLE)
    whole, _ = directions(tx, g)
    for top, left in ((0, 0), (0, 6), (3, 3), (3, 6)):
        cut = np.s_[:, top : top + 3, left : left + 3]
        part, _ = directions(tx, [x[cut] for x in g])
        for a, b in zip(whole[1:], part[1:], strict=True):
            np.testing.assert_allclose(a[cut], b, atol=2e-3)


@pytest.mark.slow
def test_scanned_equals_unrolled():
    g = [small(t, 3, 4, 4) for t in range(12)]
    tx = scale_by_soap(options=SoapOptions(precondition_frequency=4), roles=ROLE)
    scanned, _ = directions(tx, g)
    for layer in range(3):
        alone, _ = directions(tx, [x[layer : layer + 1] for x in g])
        for a, b in zip(scanned, alone, strict=True):
            np.testing.assert_allclose(a[layer : layer + 1], b, atol=1e-5)


@pytest.mark.slow
def test_staggered_refreshes_each_block_once_in_a_cycle():
    g = [small(t, 5, 4, 4) for t in range(9)]
    tx = scale_by_soap(options=SoapOptions(precondition_frequency=4, staggered=True), roles=ROLE)
    state, counts = tx.init({"w": g[0]}), np.zeros(5)
    update = jax.jit(tx.update)
    for call, x in enumerate(g, 1):
        before = state.bases["w"][0]["outputs"]
        _, state = update({"w": x}, state)
        if call > 1:
            moved = np.any(before != state.bases["w"][0]["outputs"], axis=(1, 2))
            assert moved.sum() in (1, 2)
            counts += moved
    assert counts.tolist() == [2] * 5


@pytest.mark.slow
def test_members_at_one_step_are_the_runs_alone():
    g = jnp.stack([small(t, 1, 4, 4) for t in range(9)])

    def train(beta2, shared):
        tx = scale_by_soap(0.9, beta2, options=SoapOptions(precondition_frequency=4), roles=ROLE)

        def step(state, item):
            number, x = item
            u, state = tx.update({"w": x}, state, **({"step": number} if shared else {}))
            return state, u["w"]

        return jax.lax.scan(step, tx.init({"w": g[0]}), (jnp.arange(9), g))[1]

    betas = jnp.array([0.8, 0.95])
    solo = jnp.stack([train(beta, False) for beta in betas])
    np.testing.assert_allclose(jax.vmap(lambda b: train(b, True))(betas), solo, atol=1e-5)


@pytest.mark.slow
def test_a_factor_that_cannot_be_decomposed_leaves_the_last_basis():
    tx = scale_by_soap(roles=ROLE)
    bad = small(0, 2, 4, 4).at[1].set(jnp.inf)  # its factor has infinities: eigh gives NaN
    _, state = tx.update({"w": bad}, tx.init({"w": bad}))
    assert state.kept == 2  # the inputs' and the outputs' basis of the second matrix
    bases = state.bases["w"][0]["inputs"]
    assert np.isfinite(bases).all()
    np.testing.assert_array_equal(bases[1], np.eye(4))
    assert not np.array_equal(bases[0], np.eye(4))


@pytest.mark.parametrize("staggered", [False, True])
def test_factors_that_are_not_numbers_are_counted(staggered):
    """As with a shampoo_beta of NaN: the bases stay the identity, and the state says so."""
    options = SoapOptions(precondition_frequency=2, staggered=staggered)
    g = [small(t, 2, 4, 4) for t in range(5)]
    _, state = directions(
        scale_by_soap(0.9, 0.9, jnp.float32(jnp.nan), options=options, roles=ROLE), g
    )
    # Two matrices, two sides: all in call 1 and in the refreshes of calls 3 and 5; or one matrix
    # of the two in each of calls 2 to 5.
    assert state.kept == 4 + (4 * 2 if staggered else 2 * 4)
    np.testing.assert_array_equal(state.bases["w"][0]["inputs"], jnp.tile(jnp.eye(4), (2, 1, 1)))


@pytest.mark.slow
def test_a_singular_start_gives_the_same_numbers_in_any_rounding():
    """A (6, 3) gradient has a null space: its basis does not depend on rounding errors."""
    g = [small(t, 1, 6, 3) for t in range(8)]
    tx = scale_by_soap(options=SoapOptions(precondition_frequency=2), roles=ROLE)
    plain, state = directions(tx, g)
    noisy, other = directions(
        tx, [x * (1 + 1e-6 * small(90 + t, 1, 6, 3)) for t, x in enumerate(g)]
    )
    for a, b in zip(plain, noisy, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)  # 1.3 with the null space as LAPACK gives it
    q = state.bases["w"][0]["inputs"]
    np.testing.assert_allclose(q.mT @ q, np.eye(6)[None], atol=1e-5)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(other))
