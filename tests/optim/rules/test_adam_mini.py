"""Adam-mini against its transcriptions, and the size of its state."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_adam_mini
import replay

import optim
from optim.roles import default_role
from optim.rules.adam_mini import block_axes, scale_by_adam_mini

PARAMS, GRADS = replay.random_tree(0), replay.gradients(30)
HPARAMS = dict(learning_rate=0.05, beta1=0.9, beta2=0.98, epsilon=1e-7, weight_decay=0.1)
RULE = (0.05, 0.9, 0.98, 1e-7, 0.1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_authors_trajectory(dtype):
    tx = optim.build("adam_mini", HPARAMS, preset="authors")
    grads = [replay.to_torch(g) for g in GRADS]
    reference = reference_adam_mini.authors(replay.to_torch(PARAMS), grads, *RULE, replay.HEADS)
    reference = [replay.from_torch(x) for x in reference]
    replay.check(replay.run(tx, GRADS, PARAMS, dtype), reference, PARAMS, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_study_trajectory(dtype):
    tx = optim.build("adam_mini", HPARAMS | {"max_grad_norm": 2.0}, preset="study")
    grads = [replay.to_study(g) for g in GRADS]
    reference = reference_adam_mini.study(
        replay.to_study(PARAMS), grads, *RULE, 2.0, replay.decayed_in_study
    )
    reference = [replay.from_study(x) for x in reference]
    replay.check(replay.run(tx, GRADS, PARAMS, dtype), reference, PARAMS, dtype)


def test_one_second_moment_per_block():
    state = scale_by_adam_mini().init({k: jnp.asarray(x) for k, x in PARAMS.items()})
    L, H = replay.LAYERS, replay.HEADS
    blocks = {
        "embed/embedding": replay.V,
        "head/kernel": replay.V,
        "blocks/attention/query/kernel": L * H,
        "blocks/attention/value/kernel": L * H * replay.HEAD_DIM,
        "blocks/attention/out/kernel": L * replay.D,
        "blocks/mlp/up/kernel": L * replay.F,
        "blocks/norm/scale": L,
        "final_norm/scale": 1,
    }
    assert {k: v.size for k, v in state.nu.items()} == blocks


def test_blocks_by_role():
    kernel = jax.ShapeDtypeStruct((4, 2, 3), jnp.float32)
    for name, axes in {"query": (0, 2), "k_proj": (0, 2), "value": (0,)}.items():
        assert block_axes(default_role(f"attention/{name}/kernel", kernel)) == axes
    vector = jax.ShapeDtypeStruct((4,), jnp.float32)
    gain = default_role("norm/scale", vector)
    assert block_axes(default_role("mlp/up/bias", vector)) == ()
    assert block_axes(gain) == (0,)
    assert block_axes(gain, "entry") == ()


def test_a_declared_role_counts_and_the_path_does_not():
    role = optim.Role("matrix", (), (0,), (1, 2), heads=1)
    for path in ("to_q/kernel", "attention/query/kernel"):
        for part, blocks in ((None, 6), ("query", 2)):
            tx = scale_by_adam_mini(roles=lambda *_, part=part: replace(role, part=part))
            assert tx.init({path: jnp.ones((4, 2, 3))}).nu[path].size == blocks


@pytest.mark.slow
def test_direction_is_invariant_to_the_scale_of_a_block():
    g = {k: jnp.asarray(x) for k, x in PARAMS.items()}
    factor = jnp.exp(jnp.arange(replay.V)[:, None] - 5.0)
    scaled = g | {"embed/embedding": factor * g["embed/embedding"]}
    tx = scale_by_adam_mini(epsilon=0.0)
    one, other = (tx.update(x, tx.init(x))[0]["embed/embedding"] for x in (g, scaled))
    np.testing.assert_allclose(one, other, rtol=1e-5)
