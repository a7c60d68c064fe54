"""Properties of the orthogonalising and the sign methods."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim.linalg.newton_schulz import coefficients, newton_schulz
from optim.rules.lion import scale_by_lion
from optim.rules.muons.muon import scale_by_muon
from optim.rules.muons.scion import scale_by_scion, scale_by_signum

MATRICES = {
    "square": jax.random.normal(jax.random.key(0), (8, 8)),
    "wide": jax.random.normal(jax.random.key(1), (8, 32)),
    "tall": jax.random.normal(jax.random.key(2), (32, 8)),
    "blocks": {"kernel": jax.random.normal(jax.random.key(3), (3, 8, 16))},
}


def singular_values(x):
    return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)


def first_update(tx, grads):
    return tx.update(grads, tx.init(grads))[0]


@pytest.mark.parametrize(
    ("polynomial", "steps", "low", "high"),
    [("quintic", 5, 0.5, 1.25), ("quintic", 10, 0.65, 1.25), ("polar_express", 8, 0.98, 1.01)],
)
def test_singular_values_are_near_one(polynomial, steps, low, high):
    for x in jax.tree.leaves(MATRICES):
        s = singular_values(newton_schulz(x, steps=steps, polynomial=polynomial))
        assert (low < s).all() and (s < high).all()


def test_the_singular_vectors_stay():
    x = MATRICES["wide"]
    u, _, vt = np.linalg.svd(np.asarray(x), full_matrices=False)
    polar = newton_schulz(x, steps=10, polynomial="polar_express")
    np.testing.assert_allclose(polar, u @ vt, atol=2e-3)


def test_tall_is_wide_transposed():
    x = MATRICES["tall"]
    np.testing.assert_array_equal(newton_schulz(x), newton_schulz(x.T).T)


def test_a_stack_is_its_matrices():
    x = MATRICES["blocks"]["kernel"]
    alone = jnp.stack([newton_schulz(layer) for layer in x])
    np.testing.assert_allclose(newton_schulz(x), alone, atol=1e-6)


@pytest.mark.parametrize("form", ["standard", "gram"])
def test_bfloat16_is_near_float32(form):
    """Five steps that each round to 8 bits; with coefficients of 8 bits too it was 4.5 %."""
    x = jax.random.normal(jax.random.key(0), (128, 512))
    x = x * jnp.exp(-3 * jnp.linspace(0, 1, 512))[None]
    exact, narrow = newton_schulz(x), newton_schulz(x, dtype="bfloat16", form=form)
    error = jnp.linalg.norm(narrow - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 5 * 2**-8
    assert newton_schulz(x, dtype="bfloat16").dtype == jnp.float32


def test_a_zero_matrix_stays_zero():
    assert not newton_schulz(jnp.zeros((2, 3, 4)), 0.0).any()


def test_polynomials_are_named():
    with pytest.raises(ValueError, match="polynomial='septic' is not"):
        coefficients("septic", 5)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_updates_do_not_depend_on_the_gradients_scale(scale):
    """Muon, Scion, Lion and Signum: no epsilon, so down to float32's range."""
    rules = [
        scale_by_muon(0.9, 0.0, ns_dtype=None),
        scale_by_scion(0.9, 0.0, ns_dtype=None),
        scale_by_lion(0.9, 0.99),
        scale_by_signum(0.9),
    ]
    for tx in rules:
        scaled = first_update(tx, jax.tree.map(lambda g: scale * g, MATRICES))
        for a, b in zip(
            jax.tree.leaves(scaled), jax.tree.leaves(first_update(tx, MATRICES)), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("scale", "tall", "wide"),
    [
        ("spectral", 1.0, 2.0),
        ("ratio", 0.5, 2.0),
        ("rms", 0.2 * 32**0.5, 0.2 * 32**0.5),
        ("none", 1.0, 1.0),
    ],
)
def test_scale_factors_of_flax_kernels(scale, tall, wide):
    """(in, out): a wide kernel has out / in = 4, a tall one 1 / 4."""
    tx = scale_by_muon(ns_polynomial="polar_express", ns_steps=8, ns_dtype=None, scale=scale)
    updates = first_update(tx, MATRICES)
    np.testing.assert_allclose(singular_values(updates["tall"]), tall, rtol=0.02)
    np.testing.assert_allclose(singular_values(updates["wide"]), wide, rtol=0.02)


def test_a_torch_layout_gets_the_same_update():
    """(out, in) leaves, declared so, move as their transposes do."""
    kernel = {"w": MATRICES["wide"]}
    weight = {"w": MATRICES["wide"].T}
    roles = lambda path, leaf: optim.Role("matrix", (), (1,), (0,))  # noqa: E731
    flax = first_update(scale_by_muon(), kernel)["w"]
    torch = first_update(scale_by_muon(roles=roles), weight)["w"]
    np.testing.assert_array_equal(flax, torch.T)


@pytest.mark.parametrize("name", ["muon", "scion"])
def test_scanned_equals_unrolled(name):
    """Layers as a leading axis, heads as axes of their own, against one plain matrix a layer."""
    rng = np.random.default_rng(0)
    query, out = rng.standard_normal((2, 8, 4, 2)), rng.standard_normal((2, 4, 2, 8))
    scanned = {
        "blocks": {
            "query": {"kernel": jnp.float32(query)},
            "out": {"kernel": jnp.float32(out)},
            "norm": {"scale": jnp.float32(rng.standard_normal((2, 8)))},
        }
    }
    unrolled = {
        f"layers_{i}": {
            "query": {"kernel": jnp.float32(query[i].reshape(8, 8))},
            "out": {"kernel": jnp.float32(out[i].reshape(8, 8))},
            "norm": {"scale": scanned["blocks"]["norm"]["scale"][i]},
        }
        for i in range(2)
    }
    tx = optim.build(name, preset="study", learning_rate=0.1, weight_decay=0.1)

    def run(params):
        state = tx.init(params)
        for scale in (1.0, -0.5, 2.0):
            grads = jax.tree.map(lambda p, scale=scale: jnp.cos(scale * p), params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    a, b = jax.jit(run)(scanned)["blocks"], jax.jit(run)(unrolled)
    for i in range(2):
        for leaf in ("query", "out"):
            x, y = a[leaf]["kernel"][i].reshape(8, 8), b[f"layers_{i}"][leaf]["kernel"]
            np.testing.assert_allclose(x, y, atol=2e-5)
        x, y = a["norm"]["scale"][i], b[f"layers_{i}"]["norm"]["scale"]
        np.testing.assert_allclose(x, y, atol=3e-6)  # three steps, each rounds values up to 3


def test_fallback_learning_rates():
    """One step from zero state: embedding, head and gains move by their ratio of the rate."""
    params = {"embed": {"embedding": jnp.ones((6, 4))}, "w": jnp.ones((4, 4)), "scale": jnp.ones(4)}
    hparams = {"learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 0.0}
    for name, ratio in (("muon", "muon_to_adam_lr"), ("scion", "scion_to_signum_lr")):
        tx = optim.build(name, hparams | {ratio: 0.3}, preset="study")
        updates, _ = tx.update(params, tx.init(params), params)
        np.testing.assert_allclose(updates["embed"]["embedding"], -0.03, rtol=1e-5)
        np.testing.assert_allclose(updates["scale"], -0.03, rtol=1e-5)


def test_compile_time_is_flat_in_depth():
    """The program of 24 layers is that of 2: as many operations."""

    def operations(layers):
        params = {"blocks": {"kernel": jnp.ones((layers, 8, 16))}}
        tx = optim.build("muon", {"learning_rate": 0.1})
        text = jax.jit(tx.update).lower(params, tx.init(params), params).as_text()
        return text.count("\n")

    assert operations(2) == operations(24)
