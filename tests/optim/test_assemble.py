"""What surrounds every rule: clip, decay, learning rate, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim.assemble import clip_by_norm, descend, finish
from optim.schedules import Schedule

PARAMS = {
    "embed": {"embedding": jnp.full((6, 4), 2.0)},
    "w": jnp.full((4, 4), 2.0),
    "scale": jnp.full((4,), 2.0),
    "head": {"kernel": jnp.full((4, 6), -2.0)},
}
GRADS = jax.tree.map(lambda p: jnp.linspace(-1.0, 2.0, p.size).reshape(p.shape), PARAMS)
KIND = {"embed": "embedding", "w": "matrix", "scale": "gain", "head": "head"}


def first(tree):
    return {key: jax.tree.leaves(tree[key])[0] for key in tree}


def apply(tx, grads=GRADS, params=PARAMS):
    updates, _ = tx.update(grads, tx.init(params), params)
    return updates


def test_clip_is_optaxs():
    for max_norm in (0.5, 1e3):
        ours, theirs = apply(clip_by_norm(max_norm)), apply(optax.clip_by_global_norm(max_norm))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_clip_by_the_norm_of_some_kinds():
    """As for Muon's fallback: matrices neither count nor change."""
    kinds = ("embedding", "head", "gain")
    clipped = apply(clip_by_norm(jnp.float32(0.5), kinds))
    np.testing.assert_array_equal(clipped["w"], GRADS["w"])
    rest = {k: v for k, v in clipped.items() if k != "w"}
    np.testing.assert_allclose(optax.tree.norm(rest), 0.5, rtol=1e-6)


@pytest.mark.parametrize("off", [0, 0.0, jnp.float32(0)])
def test_zero_switches_the_clip_off(off):
    jax.tree.map(np.testing.assert_array_equal, apply(clip_by_norm(off)), GRADS)


@pytest.mark.parametrize(
    ("kind", "decay"),
    [
        ("decoupled", lambda u, w: 0.1 * w),
        ("independent", lambda u, w: 0.1 * w / 0.4),
        ("corrected", lambda u, w: 0.1 * w * 0.2 / 0.4),
        ("cautious", lambda u, w: np.where(u * w >= 0, 0.1 * w, 0)),
    ],
)
def test_kinds_of_weight_decay(kind, decay):
    """At half the peak learning rate of 0.4; gains and embedding do not decay."""
    schedule = Schedule({"learning_rate": 0.4, "warmup": 2}, "constant")
    tx = descend(schedule, 0.1, {"head": 0.5}, decayed=("matrix", "head"), kind=kind)
    state = tx.init(PARAMS)._replace(count=jnp.int32(1))
    updates, _ = tx.update(GRADS, state, PARAMS)
    updates, grads, params = first(updates), first(GRADS), first(PARAMS)
    for key, role in KIND.items():
        u, w = np.asarray(grads[key]), np.asarray(params[key])
        decayed = decay(u, w) if role in ("matrix", "head") else 0
        ratio = 0.5 if role == "head" else 1.0
        np.testing.assert_allclose(updates[key], -0.2 * ratio * (u + decayed), rtol=1e-6)


MASK = {"embed": True, "w": True, "scale": False, "head": False}  # a prefix of the parameters


@pytest.mark.parametrize(
    "name", ["adamw", "soap", "mars", "kl_shampoo", "optax:sgd", "optax:adamw"]
)
@pytest.mark.slow
def test_a_mask_beside_kinds_says_what_decays(name):
    """Of matrices and gains only the matrix: what zero gradients leave is decay."""
    numbers = dict(learning_rate=0.1, weight_decay=0.5, decayed=("matrix", "gain"))
    mask = MASK if name == "adamw" else lambda params: MASK
    tx = optim.build(name, numbers, weight_decay_mask=mask)
    zero, state = jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS)
    update = jax.jit(tx.update)
    for _ in range(2):  # SOAP's kin do nothing in their first
        updates, state = update(zero, state, PARAMS)
    moved = {key: bool(jnp.any(x != 0)) for key, x in first(updates).items()}
    assert moved == {"embed": False, "w": True, "scale": False, "head": False}


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="weight_decay_mask is not a tree of bools like the param"):
        apply(optim.lion(0.1, weight_decay_mask={"w": True}))
    name = "optax.contrib:schedule_free_adamw"
    with pytest.raises(ValueError, match="adamw itself says what decays: no weight_decay_mask"):
        optim.build(name, learning_rate=0.1, weight_decay_mask=MASK)


def test_rates_by_role_and_a_cooldown_of_their_own():
    """Half-way, matrices cool down over all steps, the others have not begun."""
    hparams = {"learning_rate": 0.4, "steps": 8, "decay": 1.0, "auxiliary_decay": 0.25}
    rates = dict(matrix_lr=2.0, embedding_lr=3.0, head_lr=jnp.float32(5.0), gain_lr=0.5)
    tx = finish(optax.identity(), Schedule(hparams, "wsd"), ratios={"head": 0.1}, **rates)
    state = optax.tree.set(tx.init(PARAMS), count=jnp.int32(4))
    found, grads = first(tx.update(GRADS, state, PARAMS)[0]), first(GRADS)
    for key, rate in {"embed": 1.2, "w": 0.4, "scale": 0.2, "head": 0.2}.items():
        np.testing.assert_allclose(found[key], -rate * grads[key], rtol=1e-6)


def test_a_bare_schedule_has_no_peak():
    tx = descend(optax.constant_schedule(0.1), 0.1, kind="corrected")
    with pytest.raises(ValueError, match="needs a schedule with a `peak`"):
        apply(tx)


def test_params_are_asked_for():
    tx = descend(0.1)
    with pytest.raises(ValueError, match=r"needs params: call update\(grads, state, params\)"):
        tx.update(GRADS, tx.init(PARAMS))


def test_bfloat16_parameters_have_float32_state_and_arithmetic():
    params, grads = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (PARAMS, GRADS))
    tx = optim.build("adamw", {"learning_rate": 0.1})
    updates, state = tx.update(grads, tx.init(params), params)
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(updates))
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert floats and all(x.dtype == jnp.float32 for x in floats)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (grads, params))
    exact, _ = tx.update(wide[0], tx.init(wide[1]), wide[1])
    jax.tree.map(lambda u, e: np.testing.assert_array_equal(u, e.astype(u.dtype)), updates, exact)


def test_state_dtypes_by_kind():
    """bfloat16 momentum halves its bytes, keeps the rest, and drifts by its rounding only."""
    hparams = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
    narrow = dict(state_dtypes={"momentum": "bfloat16"})
    exact = optim.build("adamw", hparams)
    rounded = optim.build("adamw", hparams, **narrow)
    state = rounded.init(PARAMS)
    assert state[1].mu["w"].dtype == jnp.bfloat16 and state[1].nu["w"].dtype == jnp.float32
    bytes_ = optim.describe("adamw", PARAMS, **narrow).state_bytes
    assert 2 * bytes_["momentum"] == bytes_["second_moment"]
    a, b = (exact, exact.init(PARAMS)), (rounded, state)
    for _ in range(10):
        steps = []
        for tx, s in (a, b):
            steps.append(tx.update(GRADS, s, PARAMS))
        a, b = (exact, steps[0][1]), (rounded, steps[1][1])
    drift = optax.tree.norm(optax.tree.sub(steps[0][0], steps[1][0]))
    assert 0 < drift / optax.tree.norm(steps[0][0]) < 5e-3


def test_unknown_state_kind():
    with pytest.raises(ValueError, match=r"\['moment'\] not among momentum, second_moment"):
        finish(optax.identity(), 0.1, state_dtypes={"moment": "bfloat16"})
