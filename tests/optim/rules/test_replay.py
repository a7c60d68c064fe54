"""AdamW, NAdamW, Lion, Muon and Scion, as built by name, against their NumPy transcriptions."""

import functools

import numpy as np
import pytest
import reference_optimizers as reference
import replay

import optim

STEPS = 32
PARAMS, GRADS = replay.random_tree(0), replay.gradients(STEPS)
is_matrix = lambda k: replay.kind(k.rsplit("/", 1)[0] if k[-1].isdigit() else k) == "matrix"  # noqa: E731
COSINE = dict(learning_rate=0.1, warmup=5, steps=STEPS, min_lr_ratio=0.1)
WSD = dict(learning_rate=0.1, decay=0.6, steps=STEPS, min_lr_ratio=0.0)


def cosine(t):
    return reference.warmup_cosine(t, 0.1, 5, STEPS, 0.1)


def wsd(t):
    return reference.stable_linear(t, 0.1, 0.6, STEPS, 0.0)


def constant(t):
    return 0.02


ADAM = dict(beta1=0.9, beta2=0.98, epsilon=1e-8)
ELEMENTWISE = {
    "adamw": (ADAM, lambda p: reference.Adam(p, 0.9, 0.98, 1e-8)),
    "nadamw": (ADAM, lambda p: reference.Adam(p, 0.9, 0.98, 1e-8, nesterov=True)),
    "lion": (dict(beta1=0.9, beta2=0.98), lambda p: reference.Lion(p, 0.9, 0.98)),
}


def check(name, hparams, preset, rows, dtype, **options):
    tx = optim.build(name, hparams, preset=preset, **options)
    replay.check(replay.run(tx, GRADS, PARAMS, dtype), rows, PARAMS, dtype)


slow = pytest.mark.slow
both = pytest.mark.parametrize("dtype", [pytest.param("float32", marks=slow), "float64"])


@both
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_authors(name, dtype):
    """Every parameter decays, nothing is clipped, the learning rate is constant."""
    numbers, rule = ELEMENTWISE[name]
    rows = list(reference.elementwise(PARAMS, GRADS, rule(PARAMS), constant, 0.1))
    check(name, numbers | dict(learning_rate=0.02, weight_decay=0.1), "authors", rows, dtype)


@both
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_study(name, dtype):
    """Clipped by the global norm, cosine with warm-up from 0, decay of matrices and head only."""
    numbers, rule = ELEMENTWISE[name]
    args = (cosine, 0.1, 1.0, replay.decayed_in_study)
    rows = list(reference.elementwise(PARAMS, GRADS, rule(PARAMS), *args))
    hparams = numbers | COSINE | dict(weight_decay=0.1, max_grad_norm=1.0)
    check(name, hparams, "study", rows, dtype)


@functools.cache
def muon_authors():
    params, grads = replay.to_torch(PARAMS), [replay.to_torch(g) for g in GRADS]
    adam = reference.Adam(params, 0.8, 0.95, 1e-10)
    rows = reference.muon_authors(params, grads, is_matrix, 0.02, 0.02 * 0.3, 0.95, adam, 0.1)
    return [replay.from_torch(x) for x in rows]


MUON = dict(learning_rate=0.02, momentum=0.95, beta1=0.8, beta2=0.95, epsilon=1e-10)
MUON |= dict(muon_to_adam_lr=0.3, weight_decay=0.1)


@both
def test_muon_authors(dtype):
    """In the gradients' precision; the authors' bfloat16 is bounded below."""
    check("muon", MUON, "authors", muon_authors(), dtype, ns_dtype=None)


@slow
def test_muon_authors_in_bfloat16_stays_near():
    ours = replay.run(optim.build("muon", MUON, preset="authors"), GRADS, PARAMS, "float32")
    for name in filter(is_matrix, PARAMS):
        moved = muon_authors()[-1][name] - PARAMS[name]
        error = np.linalg.norm(ours[-1][name] - muon_authors()[-1][name]) / np.linalg.norm(moved)
        assert 1e-4 < error < 0.05, f"{name}: {error}"


@both
def test_muon_study(dtype):
    params, grads = replay.to_study(PARAMS), [replay.to_study(g) for g in GRADS]
    adam = reference.Adam(params, 0.8, 0.98, 1e-15)
    args = (wsd, 0.3, 0.95, adam, 0.1, 1.0, 1e-5, replay.decayed_in_study)
    rows = list(reference.muon_study(params, grads, is_matrix, *args))
    hparams = dict(momentum=0.95, beta1=0.8, beta2=0.98, epsilon=1e-15, muon_epsilon=1e-5)
    hparams |= WSD | dict(muon_to_adam_lr=0.3, weight_decay=0.1, max_grad_norm=1.0)
    check("muon", hparams, "study", [replay.from_study(x) for x in rows], dtype)


@both
def test_scion_authors(dtype):
    params, grads = replay.to_torch(PARAMS), [replay.to_torch(g) for g in GRADS]
    kind = lambda k: replay.kind(k.rsplit("/", 1)[0] if k[-1].isdigit() else k)  # noqa: E731
    rows = reference.scion_authors(params, grads, kind, 1e-3, 0.1, 50.0, 3000.0)
    hparams = dict(learning_rate=1e-3, momentum=0.9, beta1=0.9)
    rows = [replay.from_torch(x) for x in rows]
    check("scion", hparams, "authors", rows, dtype, ns_dtype=None)


@both
def test_scion_study(dtype):
    params, grads = replay.to_study(PARAMS), [replay.to_study(g) for g in GRADS]
    args = (wsd, 0.2, 0.9, 0.95, 0.1, 1.0, 1e-5, replay.decayed_in_study)
    rows = list(reference.scion_study(params, grads, is_matrix, *args))
    hparams = WSD | dict(momentum=0.9, beta1=0.95, scion_epsilon=1e-5, scion_to_signum_lr=0.2)
    hparams |= dict(weight_decay=0.1, max_grad_norm=1.0)
    check("scion", hparams, "study", [replay.from_study(x) for x in rows], dtype)


@slow
def test_a_wrong_variant_is_noticed():
    """The paper's text says K = 5, the code that ran 10: the replay tells them apart."""
    params, grads = replay.to_study(PARAMS), [replay.to_study(g) for g in GRADS]
    args = (wsd, 0.2, 0.9, 0.95, 0.1, 1.0, 1e-5, replay.decayed_in_study)
    rows = [replay.from_study(x) for x in reference.scion_study(params, grads, is_matrix, *args)]
    hparams = WSD | dict(momentum=0.9, beta1=0.95, scion_epsilon=1e-5, scion_to_signum_lr=0.2)
    hparams |= dict(weight_decay=0.1, max_grad_norm=1.0)
    with pytest.raises(AssertionError, match="step 1"):
        check("scion", hparams, "study", rows, "float32", ns_steps=5)
