"""The rules of 2024 to 2026, as built by name, against their NumPy transcriptions; their parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_frontier as reference
import replay
from reference_optimizers import Adam, elementwise

import optim
from optim.assemble import finish
from optim.linalg.newton_schulz import TABLES, newton_schulz
from optim.rules.adamw import adamw
from optim.rules.muons.muon import muon
from optim.rules.shampoos.kron import kron
from optim.rules.shampoos.soap import soap

STEPS = 24
PARAMS, GRADS = replay.random_tree(0), replay.gradients(STEPS)
TORCH, TORCH_GRADS = replay.to_torch(PARAMS), [replay.to_torch(g) for g in GRADS]
PEAK = 0.02
LINEAR = dict(schedule="linear", steps=STEPS, learning_rate=PEAK)
both = pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"]
)


def kind(k):
    return replay.kind(k.rsplit("/", 1)[0] if k[-1].isdigit() else k)


def is_matrix(k):
    return kind(k) == "matrix"


def decays(k):
    return kind(k) in ("matrix", "head")


def constant(t):
    return PEAK


def falling(t):
    return PEAK * (1 - t / STEPS)


def check(name, rows, dtype, hparams, **options):
    tx = optim.build(name, hparams, preset="authors", **options)
    rows = [replay.from_torch(x) for x in rows]
    replay.check(replay.run(tx, GRADS, PARAMS, dtype), rows, PARAMS, dtype)


@both
@pytest.mark.parametrize("warmup", [0, 12])
def test_ademamix(dtype, warmup):
    betas = (0.8, 0.95, 0.9999)
    rule = reference.AdEMAMix(TORCH, betas, 5.0, 1e-8, *[warmup or None] * 2)
    rows = elementwise(TORCH, TORCH_GRADS, rule, constant, 0.1)
    hparams = dict(zip(("beta1", "beta2", "beta3"), betas, strict=True))
    hparams |= dict(alpha=5.0, alpha_warmup=warmup, beta3_warmup=warmup)
    check("ademamix", rows, dtype, hparams | dict(learning_rate=PEAK, weight_decay=0.1))


@both
@pytest.mark.parametrize(
    ("name", "make", "numbers"),
    [
        ("normuon", lambda: reference.normuon(TORCH, 0.9, 0.8), dict(muon_beta2=0.8)),
        ("adamuon", lambda: reference.adamuon(TORCH, 0.9), {}),
    ],
)
def test_normalised_muons(name, make, numbers, dtype):
    adam = Adam(TORCH, 0.8, 0.95, 1e-10)
    args = (is_matrix, make(), constant, 0.3, adam, 0.1)
    rows = reference.with_adam(TORCH, TORCH_GRADS, *args)
    hparams = dict(learning_rate=PEAK, momentum=0.9, beta1=0.8, beta2=0.95, epsilon=1e-10)
    hparams |= dict(muon_to_adam_lr=0.3, weight_decay=0.1) | numbers
    check(name, rows, dtype, hparams, ns_dtype=None)


@both
def test_adamc(dtype):
    rule = Adam(TORCH, 0.9, 0.98, 1e-8)
    rows = reference.corrected(TORCH, TORCH_GRADS, falling, PEAK, rule, 0.5, 1.0, decays)
    check("adamc", rows, dtype, LINEAR | dict(beta2=0.98, weight_decay=0.5))


@both
def test_muonc(dtype):
    adam = Adam(TORCH, 0.9, 0.95, 1e-8)
    args = (is_matrix, falling, PEAK, 0.3, 0.9, adam, 0.5, 1.0, decays)
    rows = reference.muonc(TORCH, TORCH_GRADS, *args)
    hparams = dict(momentum=0.9, muon_to_adam_lr=0.3, weight_decay=0.5)
    check("muonc", rows, dtype, LINEAR | hparams)


@both
def test_adamh(dtype):
    adam = Adam(TORCH, 0.9, 0.98, 1e-8)
    rows = reference.adamh(TORCH, TORCH_GRADS, kind, falling, 0.3, adam, 1.0)
    check("adamh", rows, dtype, LINEAR | dict(beta2=0.98, adam_lr_ratio=0.3))


@both
def test_muonh(dtype):
    adam = Adam(TORCH, 0.9, 0.95, 1e-8)
    rows = reference.muonh(TORCH, TORCH_GRADS, kind, falling, 0.3, 0.9, adam, 1.0)
    check("muonh", rows, dtype, LINEAR | dict(momentum=0.9, muon_to_adam_lr=0.3))


@pytest.mark.parametrize("name", TABLES)
def test_polynomials_and_the_gram_form(name):
    """Against one matrix at a time, through the printed triples; the Gram form is the same map."""
    first, then, cushion = TABLES[name]
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 18)))
        for steps in (1, 5, 9):
            triples = [*first, *first, *first] if then == "cycle" else [*first, *[first[-1]] * 9]
            rows = [reference.polar(np.asarray(m), triples[:steps], 1e-7, cushion) for m in x]
            for form in ("standard", "gram"):
                ours = newton_schulz(x, 1e-7, steps=steps, polynomial=name, form=form)
                np.testing.assert_allclose(ours, np.stack(rows), atol=1e-12)
                tall = newton_schulz(x.mT, 1e-7, steps=steps, polynomial=name, form=form)
                np.testing.assert_array_equal(tall, ours.mT)


def test_the_gram_form_holds_in_float16_on_singular_matrices():
    """Rank 1, where its iterates overflow without a restart."""
    x = jnp.outer(jnp.arange(1.0, 9.0), jnp.arange(1.0, 33.0))[None]
    u = newton_schulz(x, polynomial="polar_express_gram", form="gram", dtype="float16")
    assert jnp.isfinite(u).all()


# The hyperball


def matrices(scale=1.0):
    shapes = {"query": (3, 4, 2, 2), "up": (3, 4, 8), "head": (4, 8), "norm": (3, 4)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    draw = lambda k, s: scale * jax.random.normal(k, s)  # noqa: E731
    return {n: draw(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


ROLES = {
    "query": optim.Role("matrix", (0,), (1,), (2, 3)),
    "up": optim.Role("matrix", (0,), (1,), (2,)),
    "head": optim.Role("head", (), (0,), (1,)),
    "norm": optim.Role("gain", (0,), (), (1,)),
}


def norms(tree):
    """Of each matrix of the stacks."""
    found = {k: np.asarray(x).reshape(len(x), -1) for k, x in tree.items() if k in ("query", "up")}
    return {k: np.linalg.norm(x, axis=1) for k, x in found.items()}


@pytest.mark.parametrize("alias", [muon, soap, adamw, kron])
@pytest.mark.slow
def test_hyperball_of_any_rule_keeps_each_matrix_on_its_norm(alias):
    params = matrices()
    tx = optim.hyperball(alias)(0.1, weight_decay=0.5, roles=ROLES)
    state, start = tx.init(params), norms(params)
    first = None
    update = jax.jit(tx.update)
    for seed in range(4):
        grads = jax.tree.map(lambda p, s=seed: jnp.cos((s + 2) * p), params)
        before = params
        steps, state = update(grads, state, params)
        params = optax.apply_updates(params, steps)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), norms(params), start)
        first = first or norms(jax.tree.map(jnp.subtract, params, before))
    # A step turns a matrix by at most the learning rate over sqrt(1 - rate^2), about.
    moved = norms(jax.tree.map(jnp.subtract, params, before))
    assert all((moved[k] < 0.12 * start[k]).all() and (moved[k] > 0.01).all() for k in moved)
    assert not np.allclose(np.linalg.norm(params["head"]), np.linalg.norm(matrices()["head"]))


def test_hyperball_does_not_care_for_the_size_of_an_update():
    params = matrices()
    grads = jax.tree.map(jnp.cos, params)
    plain, scaled = (
        finish(optax.scale(c), 0.1, constrained=("matrix", "head"), roles=ROLES) for c in (1.0, 1e6)
    )
    a, b = (tx.update(grads, tx.init(params), params)[0] for tx in (plain, scaled))
    for k in ("query", "up", "head"):
        np.testing.assert_allclose(a[k], b[k], atol=1e-5)


@pytest.mark.slow
def test_a_matrix_of_zeros_is_an_error_that_says_what_to_do():
    params = matrices() | {"up": matrices()["up"].at[1].set(0.0)}
    tx = optim.build("muonh", {"learning_rate": 0.1}, roles=ROLES)
    with pytest.raises(ValueError, match=r"'up' \(3, 4, 8\).*zeros.*positive norm.*'matrix'"):
        tx.init(params)
    # Under jit values are not known: asked afterwards, the state says so; else the matrix becomes
    # NaN, for the loop to see; others do not.
    state = jax.jit(tx.init)(params)
    with pytest.raises(ValueError, match=r"'up' holds a matrix of zeros"):
        optim.refuse_zeros(state)
    optim.refuse_zeros(jax.jit(jax.vmap(tx.init))(jax.tree.map(lambda x: x[None], matrices())))
    new = optax.apply_updates(params, tx.update(params, state, params)[0])
    assert np.isnan(new["up"][1]).all() and np.isfinite(new["up"][::2]).all()


@pytest.mark.parametrize("name", ["ademamix", "normuon", "adamuon", "adamc", "muonc", "muonh"])
@pytest.mark.slow
def test_numbers_are_traced(name):
    """One program for all values of all numbers but the schedule's."""
    spec = optim.spec(name, learning_rate=0.01)
    numbers = {k: v for k, v in spec.traced.items() if k not in ("warmup", "decay", "min_lr_ratio")}
    params = matrices()
    traces = []

    @jax.jit
    def step(values, params):
        traces.append(1)
        tx = spec.build(roles=ROLES, **values)
        return tx.update(params, tx.init(params), params)[0]

    for factor in (1.0, 0.9):
        values = {k: jnp.float32(factor * v) for k, v in numbers.items()}
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(step(values, params)))
    assert len(traces) == 1
