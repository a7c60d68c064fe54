"""SOAP's eigenbases against six lines of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import reference_soap

from optim.linalg import eigenbasis


def gram(key, rank, size=6):
    x = jax.random.normal(jax.random.key(key), (3, size, rank))
    return x @ x.mT


def test_definite_eigenvectors_are_the_plain_ones():
    """Up to their signs, of full rank, of low rank, and of a zero matrix."""
    for rank in (6, 3, 0):
        with jax.enable_x64(True):
            matrices = jnp.asarray(np.asarray(gram(0, rank), np.float64))
            ours = np.asarray(eigenbasis.definite_eigenvectors(matrices))
        for q, matrix in zip(ours, np.asarray(matrices), strict=True):
            plain = reference_soap.eigenbasis(matrix, 0.0)
            np.testing.assert_allclose(np.abs(q.T @ plain), np.eye(6), atol=1e-9)


def test_a_power_step_follows_the_eigenvectors():
    """On its eigenvectors it changes nothing but their order."""
    factors = gram(1, 6)
    bases = eigenbasis.definite_eigenvectors(factors)
    shuffled = bases[:, :, jnp.array([3, 1, 0, 2, 5, 4])]
    new, order, kept = eigenbasis.power_step(factors, shuffled)
    assert order.tolist() == [[2, 1, 3, 0, 5, 4]] * 3 and not kept.any()
    np.testing.assert_allclose(
        jnp.abs(new.mT @ bases), jnp.eye(6)[None] * jnp.ones((3, 1, 1)), atol=1e-3
    )


def test_a_matrix_that_is_not_finite_keeps_its_basis():
    factors = gram(2, 6).at[1].set(jnp.nan)
    last = jnp.tile(jnp.eye(6), (3, 1, 1))
    for bases, *_, kept in (
        eigenbasis.decompose(factors, last, 0.0),
        eigenbasis.power_step(factors, last),
    ):
        assert kept.tolist() == [False, True, False]
        np.testing.assert_array_equal(bases[1], last[1])
        assert jnp.isfinite(bases).all() and not (bases[0] == last[0]).all()
