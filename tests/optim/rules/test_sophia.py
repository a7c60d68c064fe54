"""Sophia-H against its transcriptions, its estimator, and when it estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_sophia
import replay

import optim
from optim.rules.sophia import scale_by_sophia
from optim.stacks.probes import gaussian_like, probe_key

DTYPES = ["float64", pytest.param("float32", marks=pytest.mark.slow)]
PARAMS, GRADS = replay.random_tree(0), replay.gradients(32)
PROBES = [replay.random_tree(100 + t) for t in range(32)]
HPARAMS = dict(learning_rate=0.05, beta1=0.9, beta2=0.8, gamma=0.1, epsilon=1e-6, weight_decay=0.1)
RULE = (0.05, 0.9, 0.8, 0.1, 1e-6, 0.1, 5)


def curvatures():
    """An indefinite symmetric matrix for each leaf."""
    rng = np.random.default_rng(7)
    rows = {}
    for name, shape in replay.SHAPES.items():
        size = int(np.prod(shape))
        a = rng.standard_normal((size, size)) / size**0.5
        rows[name] = a + a.T + np.diag(rng.uniform(0, 4, size))
    return rows


CURVATURES = curvatures()


def hessian(x):
    """Of sum over leaves of (1 + |x|^2) x' A x / 2 if |x|^2 were frozen: it depends on x."""
    return {k: (1 + 0.1 * np.sum(x[k] ** 2)) * CURVATURES[k] for k in x}


def grad_fn(x):
    """A field whose Jacobian at x is `hessian(x)`."""

    def leaf(k, w):
        frozen = 1 + 0.1 * jnp.sum(jax.lax.stop_gradient(w) ** 2)
        return (frozen * (jnp.asarray(CURVATURES[k], w.dtype) @ w.ravel())).reshape(w.shape)

    return {k: leaf(k, w) for k, w in x.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_authors_trajectory(dtype):
    tx = optim.build("sophia", HPARAMS | {"max_grad_norm": 0.0}, preset="authors", refresh_every=5)
    reference = list(reference_sophia.authors(PARAMS, GRADS, hessian, PROBES, *RULE))
    ours = replay.run(tx, GRADS, PARAMS, dtype, PROBES, grad_fn)
    replay.check(ours, reference, PARAMS, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_study_trajectory(dtype):
    tx = optim.build("sophia", HPARAMS | {"max_grad_norm": 0.0}, preset="study", refresh_every=5)
    reference = list(
        reference_sophia.study(PARAMS, GRADS, hessian, PROBES, *RULE, replay.decayed_in_study)
    )
    ours = replay.run(tx, GRADS, PARAMS, dtype, PROBES, grad_fn)
    replay.check(ours, reference, PARAMS, dtype)


@pytest.mark.parametrize("refresh", ["after", "before"])
def test_sign_descent_until_the_first_estimate(refresh):
    """The first estimate is used from the eleventh update on."""
    w, g = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([0.3, -0.7])}
    tx = scale_by_sophia(0.5, 0.0, 1.0, refresh=refresh)
    z = {"w": jnp.ones(2)}
    nine = lambda p: jax.tree.map(lambda x: 9 * x, p)  # noqa: E731
    step = jax.jit(lambda state: tx.update(g, state, w, grad_fn=nine, probes=z))
    state = tx.init(w)
    for t in range(1, 13):
        u, state = step(state)
        bias = 1 - 0.5**t  # clipped before the bias correction, then divided by it
        expected = np.sign(g["w"]) / bias if t <= 10 else g["w"] / 9
        np.testing.assert_allclose(u["w"], expected, rtol=1e-6)


@pytest.mark.slow
def test_estimate_is_the_diagonal_of_a_diagonal_hessian_on_average():
    scale = jnp.array([0.5, 1.0, 4.0])
    z = jax.vmap(lambda t: gaussian_like({"w": scale}, probe_key(0), t)["w"])(jnp.arange(20_000))
    np.testing.assert_allclose(jnp.mean(z * z, axis=0) * scale, scale, rtol=0.05)


def test_probes_depend_on_seed_step_and_path_only():
    tree = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    z = gaussian_like(tree, probe_key(0), 5)
    alone = gaussian_like({"b": tree["b"]}, probe_key(0), 5)
    np.testing.assert_array_equal(z["b"], alone["b"])
    assert not np.array_equal(z["a"], z["b"])
    assert not np.array_equal(z["b"], gaussian_like(tree, probe_key(0), 6)["b"])
    assert not np.array_equal(z["b"], gaussian_like(tree, probe_key(1), 5)["b"])


def test_probes_of_every_size(monkeypatch):
    """Small leaves in chunks, large ones by themselves, empty ones; all of unit variance."""
    monkeypatch.setattr("optim.stacks.probes.SMALL", 5000)
    shapes = {"large": (60, 100), "chunks": (3000,), "scalar": (), "empty": (0, 4)}
    z = gaussian_like({k: jnp.zeros(s) for k, s in shapes.items()}, probe_key(0), 3)
    assert {k: x.shape for k, x in z.items()} == shapes
    assert all(abs(z[k].std() - 1) < 0.05 for k in ("large", "chunks"))
    assert abs(np.corrcoef(z["chunks"][:1024], z["chunks"][1024:2048])[0, 1]) < 0.1


def test_members_at_one_step_share_their_estimates():
    """The estimates of a packed run are a branch, and its numbers those of the runs alone."""
    w = {"w": jnp.array([1.0, -2.0])}
    betas, calls = jnp.array([0.5, 0.9]), []

    def grad_fn(p):
        jax.debug.callback(lambda: calls.append(1))
        return jax.tree.map(lambda x: 9 * x, p)

    def run(beta1, shared):
        tx = scale_by_sophia(beta1, 0.0, 1.0, refresh_every=3)

        def step(state, number):
            extra = {"step": number} if shared else {}
            u, state = tx.update(w, state, w, grad_fn=grad_fn, **extra)
            return state, u["w"]

        return jax.lax.scan(step, tx.init(w), jnp.arange(8))[1]

    alone = jnp.stack([run(beta, False) for beta in betas])
    jax.effects_barrier()
    calls.clear()
    packed = jax.vmap(lambda beta: run(beta, True))(betas)
    jax.effects_barrier()
    np.testing.assert_allclose(packed, alone, rtol=1e-5)
    assert len(calls) == 2  # at the start of updates 4 and 7, once for both members


def test_needs_grad_fn():
    w = {"w": jnp.ones(2)}
    tx = scale_by_sophia()
    with pytest.raises(ValueError, match="grad_fn"):
        tx.update(w, tx.init(w), w)
