"""Every attention against the reference: output, gradients, causality, documents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.model import attention

B, T, H, K = 2, 256, 2, 64
GPU = any(d.platform == "gpu" for d in jax.devices())


def inputs(key, dtype=jnp.float32):
    q, k, v, weight = (jax.random.normal(k, (B, T, H, K), dtype) for k in jax.random.split(key, 4))
    segment_BT = jnp.cumsum(jnp.arange(T)[None] % jnp.array([[100], [70]]) == 0, axis=1)
    return (q, k, v), weight, segment_BT.astype(jnp.int32)


def value_and_gradients(attend, arrays, weight, segment_BT):
    def objective(*arrays):
        out = attend(*arrays, segment_BT)
        return jnp.sum(out * weight).astype(jnp.float32), out

    (_, out), grads = jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)(*arrays)
    return [out, *grads]


reference = functools.partial(attention.attend, implementation="reference")


@pytest.mark.slow
@pytest.mark.parametrize("blocked", [False, True])
def test_splash_equals_the_reference(key, blocked):
    arrays, weight, segment_BT = inputs(key)
    segment_BT = segment_BT if blocked else jnp.zeros_like(segment_BT)
    splash = functools.partial(attention._splash_local, interpret=True)  # the kernel, on CPU
    found = value_and_gradients(splash, arrays, weight, segment_BT)
    expected = value_and_gradients(reference, arrays, weight, segment_BT if blocked else None)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_splash_tiles_divide_the_positions():
    sizes = {T: attention._tiles(T) for T in (128, 1024, 1536, 4096)}
    assert {T: b.block_q for T, b in sizes.items()} == {128: 128, 1024: 1024, 1536: 768, 4096: 1024}
    assert all(b.block_kv % b.block_kv_compute == 0 for b in sizes.values())
    with pytest.raises(ValueError, match="multiple of 128 positions, not 200"):
        attention._tiles(200)


@pytest.mark.skipif(not GPU, reason="cuDNN needs a GPU")
@pytest.mark.parametrize("blocked", [False, True])
def test_cudnn_equals_the_reference(key, blocked):
    arrays, weight, segment_BT = inputs(key, jnp.bfloat16)
    segment_BT = segment_BT if blocked else None
    cudnn = functools.partial(attention.attend, implementation="cudnn")
    found = value_and_gradients(cudnn, arrays, weight, segment_BT)
    exact = [x.astype(jnp.float32) for x in arrays]
    expected = value_and_gradients(reference, exact, weight, segment_BT)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.05)


def test_nobody_sees_the_future_or_another_document(key):
    (q, k, v), _, segment_BT = inputs(key)
    before = reference(q, k, v, segment_BT)
    t = 120  # a change here reaches later positions of its own document alone
    after = reference(q, k.at[:, t].add(1.0), v.at[:, t].add(1.0), segment_BT)
    changed_BT = np.any(np.asarray(before != after), axis=(2, 3))
    same_document_BT = np.asarray(segment_BT == segment_BT[:, t : t + 1])
    np.testing.assert_array_equal(changed_BT, same_document_BT & (np.arange(T)[None] >= t))
