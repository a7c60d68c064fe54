"""Shampoo, KL-Shampoo and KL-SOAP against their transcriptions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_shampoos as reference
import replay
from reference_optimizers import Adam

import optim
from optim.rules.shampoos.kl import KLOptions, ScaleByKLState, scale_by_kl
from optim.rules.shampoos.shampoo import ShampooOptions, scale_by_shampoo

STEPS = 24
PARAMS, GRADS = replay.random_tree(0), replay.gradients(STEPS)
TORCH, TORCH_GRADS = replay.to_torch(PARAMS), [replay.to_torch(g) for g in GRADS]
slow = pytest.mark.slow
ADAM_NORM = (0.9, 1e-8, 0.1, True)


def is_matrix(k):
    return replay.kind(k.rsplit("/", 1)[0] if k[-1].isdigit() else k) == "matrix"


@pytest.mark.parametrize(
    ("dtype", "beta2", "options", "theirs"),
    [
        ("float64", 1.0, dict(block_size=40), dict(merge=True)),  # 6 x 6 is merged, 6 x 12 not
        pytest.param(
            "float32", 0.95, dict(block_size=14, merge_small=False), dict(merge=False), marks=slow
        ),
        (
            "float64",
            0.95,
            dict(block_size=5, precondition_frequency=4, grafting="adam"),
            dict(merge=True, every=4, graft=ADAM_NORM),
        ),
        pytest.param(
            "float64",
            0.95,
            dict(block_size=14, grafting="rmsprop", start_preconditioning_step=6),
            dict(merge=True, graft=(0.9, 1e-8, 0.1, False), start=6),
            marks=slow,
        ),
        pytest.param(
            "float64",
            0.95,
            dict(block_size=14, grafting="adagrad"),
            dict(merge=True, graft=(1.0, 1e-8, 1.0, False)),
            marks=slow,
        ),
    ],
)
def test_shampoo(dtype, beta2, options, theirs):
    """Epsilon is large: an eigenvalue l is known to rounding errors of the largest, so its root to
    a quarter of these over l + epsilon, here 1e-6 in float32 and 1e-15 in float64."""
    numbers = dict(learning_rate=0.02, beta1=0.8, beta2=beta2, epsilon=3.0, weight_decay=0.1)
    numbers |= dict(grafting_beta2=0.9, grafting_epsilon=1e-8)
    tx = optim.build("shampoo", numbers, preset="authors", **options)
    args = (0.02, 0.8, beta2, 3.0, 0.1, options["block_size"])
    rows = [replay.from_torch(x) for x in reference.shampoo(TORCH, TORCH_GRADS, *args, **theirs)]
    replay.check(replay.run(tx, GRADS, PARAMS, dtype), rows, PARAMS, dtype)


def hook(rows):
    """Takes the first call's eigenbases, ambiguous where a factor is singular, from the source."""
    found = {}
    for k, (out, into) in rows[0][1].items():
        found.setdefault(k.rsplit("/", 1)[0], []).append({"inputs": into, "outputs": out})

    def place(node):
        if not isinstance(node, ScaleByKLState):
            return node
        stacks = dict(node.bases)
        for name, layers in found.items():
            (old,) = stacks[name]
            new = {s: jnp.asarray(np.stack([x[s] for x in layers]), old[s].dtype) for s in old}
            stacks[name] = [new]
        return node._replace(bases=stacks)

    def between(t, state):
        is_leaf = lambda node: isinstance(node, ScaleByKLState)  # noqa: E731
        return jax.tree.map(place, state, is_leaf=is_leaf) if t == 1 else state

    return between


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=slow)])
@pytest.mark.parametrize("name", ["kl_shampoo", "kl_soap"])
def test_kl(name, dtype):
    adam = Adam(TORCH, 0.9, 0.95, 1e-8)
    numbers = (0.8, 0.95, 0.9, 1e-6, 5, name == "kl_soap")
    rows = list(reference.kl(TORCH, TORCH_GRADS, is_matrix, 0.02, 0.3, numbers, adam, 0.1))
    hparams = dict(learning_rate=0.02, beta1=0.8, beta2=0.95, shampoo_beta=0.9, epsilon=1e-6)
    hparams |= dict(adam_lr_ratio=0.3, weight_decay=0.1)
    tx = optim.build(name, hparams, preset="authors", precondition_frequency=5)
    ours = replay.run(tx, GRADS, PARAMS, dtype, between=hook(rows))
    replay.check(ours, [replay.from_torch(x) for x, _ in rows], PARAMS, dtype)


ROLE = {"w": optim.Role("matrix", (0,), (1,), (2,))}


def test_shampoo_whitens_a_single_gradient():
    """One step from zero without a mean: U V', whatever the singular values, as Muon's limit."""
    g = jax.random.normal(jax.random.key(0), (3, 4, 4))
    options = ShampooOptions(merge_small=False)
    tx = scale_by_shampoo(0.0, 1.0, 1e-12, options=options, roles=ROLE)
    u, _ = tx.update({"w": g}, tx.init({"w": g}))
    left, _, right = np.linalg.svd(np.asarray(g, np.float64))
    np.testing.assert_allclose(u["w"], left @ right, atol=2e-3)


@pytest.mark.parametrize(
    "tx",
    [
        scale_by_shampoo(roles=ROLE, options=ShampooOptions(merge_small=False)),
        scale_by_kl(options=KLOptions(precondition_frequency=2), roles=ROLE),
        scale_by_kl(options=KLOptions(True, 2), roles=ROLE),
    ],
    ids=["shampoo", "kl_shampoo", "kl_soap"],
)
@slow
def test_scanned_equals_unrolled(tx):
    g = [jax.random.normal(jax.random.key(t), (3, 4, 4)) for t in range(4)]
    update = jax.jit(tx.update)

    def last(layers):
        state = tx.init({"w": g[0][layers]})
        for x in g:
            u, state = update({"w": x[layers]}, state)
        return u["w"]

    whole = last(slice(None))
    for i in range(3):
        np.testing.assert_allclose(last(slice(i, i + 1)), whole[i : i + 1], atol=1e-5)


@slow
def test_what_cannot_be_decomposed_is_kept_and_counted():
    bad = jax.random.normal(jax.random.key(0), (2, 4, 4)).at[1].set(jnp.inf)
    for tx, field in (
        (scale_by_shampoo(roles=ROLE, options=ShampooOptions(merge_small=False)), "roots"),
        (scale_by_kl(roles=ROLE), "bases"),
    ):
        _, state = tx.update({"w": bad}, tx.init({"w": bad}))
        assert int(state.kept) == 2  # both sides of the one matrix
        for x in getattr(state, field)["w"][0].values():
            np.testing.assert_array_equal(x[1], np.eye(4))
            assert np.isfinite(x).all() and not np.array_equal(x[0], np.eye(4))


def test_a_gain_is_no_matrix():
    with pytest.raises(ValueError, match="a gain has no factors"):
        scale_by_kl().init({"norm": {"scale": jnp.ones(4)}})
