"""Scaling rules against the worked numbers and tables of their sources."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optim
from optim.scaling import BUDGETS, RULES, budget, model, multipliers
from optim.scaling.sizes import FAMILIES

MATRIX = optim.Role("matrix", (), (0,), (1,))
LAYERS = optim.Role("matrix", (0,), (1,), (2,))
EMBEDDING = optim.Role("embedding", (), (0,), (1,))
HEAD = optim.Role("head", (), (0,), (1,))
GAIN = optim.Role("gain", (), (), (0,))
LAYER_GAIN = optim.Role("gain", (0,), (), (1,))


def ask(rule, optimizer, role=MATRIX, shape=(768, 3072), base=(512, 2048), **others):
    return multipliers(rule, optimizer=optimizer, role=role, shape=shape, base=base, **others)


def leaves(name, **options):
    spec = optim.spec(name, **options)
    return optim.scaling.leafwise("mup", name, spec.values, {}, {})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_optimizer_answers_for_every_rule_or_says_why(rule, name):
    try:
        found = ask(rule, name)
    except ValueError as error:
        assert name in str(error) and rule in str(error) and ": " in str(error)
        assert "\n" not in str(error)
        return
    assert set(found) == {"learning_rate", "epsilon", "weight_decay", "init_std"}
    assert all(math.isfinite(x) and x >= 0 for x in found.values())
    same = ask(rule, name, shape=(512, 2048))
    decay = same.pop("weight_decay")
    assert set(same.values()) == {1.0} and decay in (0.0, 1.0), "the base itself moved"


def test_the_catalogue_is_covered():
    assert set(optim.catalogue.CATALOGUE) <= set(FAMILIES)


# 2512.05620 at the widths of its table 3 over its base (512): learning rate 1 / r_i for Adam, 1 for
# Muon; independent decay 2e-4 and 3.2e-4 at width 512, over r_w.
@pytest.mark.parametrize(("width", "ratio"), [(768, 1.5), (1024, 2.0), (1536, 3.0)])
def test_mup_of_adam_and_muon_at_the_widths_of_its_source(width, ratio):
    sides = dict(shape=(width, 4 * width), base=(512, 2048), weight_decay_kind="independent")
    adam, muon = (ask("mup", name, **sides) for name in ("adamw", "muon"))
    assert adam["learning_rate"] == pytest.approx(1 / ratio)
    assert adam["epsilon"] == pytest.approx(1 / ratio)
    assert muon["learning_rate"] == muon["epsilon"] == pytest.approx(1)
    assert adam["weight_decay"] == muon["weight_decay"] == pytest.approx(1 / ratio)
    assert adam["init_std"] == pytest.approx(ratio**-0.5)
    # Decay that the learning rate multiplies: Adam's already falls with it, Muon's has to.
    assert ask("mup", "adamw", **sides | dict(weight_decay_kind="decoupled"))["weight_decay"] == 1
    coupled = ask("mup", "muon", **sides | dict(weight_decay_kind="decoupled"))
    assert coupled["weight_decay"] == pytest.approx(1 / ratio)


@pytest.mark.parametrize(
    ("optimizer", "options", "shape", "rate", "epsilon"),
    [  # one row of the source's table each; r_i = 4, r_o = 2, r_L = 3, kappa = 16
        ("adamw", {}, (32, 32), 1 / 4, 1 / (2 * 3 * 4)),
        ("muon", {"scale": "none"}, (32, 32), 0.5**0.5, 2**0.5 / 3),
        ("adamuon", {}, (32, 32), 1 / 4, 8**-0.5),
        ("shampoo", {}, (32, 32), 0.5**0.5, 2 / (9 * 16)),
        ("shampoo", {"exponent": 0.5}, (32, 32), 1 / 3, 2 / (9 * 16)),
        ("shampoo", {"grafted": True}, (32, 32), 1 / 4, 1 / (2 * 3 * 4)),
        ("shampoo", {"sides": "inputs"}, (32, 32), 0.5**0.75 * 3**0.5, 2 / (9 * 16)),
        ("shampoo", {"block_size": 16}, (32, 32), 0.5**0.5 * 4**-0.5, 2 / (9 * 16 * 4)),
        ("soap", {}, (32, 32), 0.5**0.5, 2**0.5 / 3),
        ("soap", {"block_size": 16}, (32, 32), (0.5 / 4) ** 0.5, (2 / 4) ** 0.5 / 3),
        ("soap", {"sides": "inputs", "block_size": 16}, (32, 32), 8**-0.5, 2**0.5 / 2),
        ("soap", {"sides": "outputs", "block_size": 16}, (32, 32), 1 / 4, 4**-0.5),
    ],
)
def test_mup_table(optimizer, options, shape, rate, epsilon):
    found = ask("mup", optimizer, shape=shape, base=(8, 16), depth=3.0, batch=16.0, **options)
    assert found["learning_rate"] == pytest.approx(rate)
    assert found["epsilon"] == pytest.approx(epsilon)


def test_an_optimizers_own_scale_is_not_applied_twice():
    """Whatever Muon multiplies by itself, rate times scale grows by sqrt(r_o / r_i)."""
    from optim.rules.muons.parts import scale_factor

    shape, base = (32, 96), (8, 48)
    leaf = lambda s: type("Leaf", (), {"shape": s})  # noqa: E731
    for scale in ("spectral", "ratio", "rms", "none"):
        rate = ask("mup", "muon", shape=shape, base=base, scale=scale)["learning_rate"]
        own = scale_factor(leaf(shape), MATRIX, scale) / scale_factor(leaf(base), MATRIX, scale)
        assert rate * own == pytest.approx((2 / 4) ** 0.5)


def test_embedding_head_and_gain():
    vocabulary = dict(shape=(1000, 64), base=(1000, 32), depth=2.0)
    for name in ("adamw", "muon"):  # Muon leaves them to AdamW
        found = ask("mup", name, role=EMBEDDING, **vocabulary)
        assert (found["learning_rate"], found["epsilon"], found["init_std"]) == (1, 0.5, 1)
        found = ask("mup", name, role=HEAD, shape=(64, 1000), base=(32, 1000), depth=2.0)
        assert (found["learning_rate"], found["epsilon"], found["init_std"]) == (0.5, 1, 0.5)
    for role, shape, base, epsilon in (
        (GAIN, (64,), (32,), 1 / 2),
        (LAYER_GAIN, (4, 64), (2, 32), 1 / 4),  # scanned: inside the blocks
    ):
        found = ask("mup", "adamw", role=role, shape=shape, base=base, depth=2.0)
        assert (found["learning_rate"], found["epsilon"], found["init_std"]) == (1, epsilon, 1)


def test_a_stack_is_measured_without_its_layers():
    stacked = ask("mup", "adamw", role=LAYERS, shape=(8, 64, 64), base=(2, 32, 32))
    assert stacked == ask("mup", "adamw", shape=(64, 64), base=(32, 32))


def test_completep_of_its_code():
    """width_multiplier 2, depth_multiplier 4, alpha 1: the groups of nanoGPT-mup's optimizer."""
    sizes = dict(shape=(64, 64), base=(32, 32), depth=4.0)
    assert ask("completep", "adamw", **sizes) == pytest.approx(
        dict(learning_rate=1 / 2, epsilon=1 / 8, weight_decay=2, init_std=2**-0.5)
    )
    for role in (EMBEDDING, HEAD):
        assert ask("completep", "adamw", role, **sizes) == pytest.approx(
            dict(learning_rate=1, epsilon=1 / 8, weight_decay=1, init_std=1)
        )
    assert ask("completep", "adamw", GAIN, (64,), (32,), depth=4.0)["weight_decay"] == 0
    assert model("completep", optimizer="adamw", width=2, depth=4) == dict(
        residual=1 / 4, output=0.5
    )
    assert model("mup", optimizer="muon", width=2, depth=4) == dict(residual=1 / 4, output=1)
    # Named, not averaged: CompleteP keeps rate x decay, 2512.05620 divides it by the width.
    sizes["weight_decay_kind"] = "independent"
    assert ask("completep", "adamw", **sizes)["weight_decay"] == 1
    assert ask("mup", "adamw", **sizes)["weight_decay"] == 1 / 2


def test_hyperp_of_its_code():
    """pretrain.py: muonh, Muon and AdamW at twice the depth and width, 4x batch, 8x tokens."""
    sizes = dict(shape=(64, 64), base=(32, 32), depth=2.0, batch=4.0, tokens=8.0)
    rate = 2 * math.sqrt(1 / 2)
    muonh = ask("hyperp", "muonh", **sizes)
    assert muonh["learning_rate"] == pytest.approx(rate * 8**-0.32)
    assert muonh["weight_decay"] == 0 and muonh["epsilon"] == 1
    muon = ask("hyperp", "muon", **sizes)
    assert (muon["learning_rate"], muon["weight_decay"]) == pytest.approx((rate, 1 / 2))
    adamw = ask("hyperp", "adamw", **sizes)
    assert (adamw["learning_rate"], adamw["weight_decay"]) == pytest.approx((rate / 2, 1))
    head = ask("hyperp", "adamw", role=HEAD, **sizes)
    assert (head["learning_rate"], head["weight_decay"]) == pytest.approx((rate, 0))
    residual = 2**-0.5
    assert model("hyperp", optimizer="muonh", width=2, depth=2) == dict(residual=residual, output=1)
    assert model("hyperp", optimizer="muon", width=2, depth=2)["output"] == 1 / 2


def test_spectral_and_moonlight():
    sizes = dict(shape=(64, 32), base=(16, 32))
    assert ask("spectral", "adamw", **sizes)["learning_rate"] == 1 / 4
    assert ask("spectral", "scion", **sizes)["learning_rate"] == pytest.approx(1)  # in the rule
    assert ask("spectral", "muon", **sizes, scale="none")["learning_rate"] == 1 / 2
    assert ask("spectral", "muon", **sizes)["init_std"] == pytest.approx(0.5 * 0.5)
    assert ask("moonlight", "muon", **sizes, scale="rms") == pytest.approx(
        dict(learning_rate=1, epsilon=1, weight_decay=1, init_std=0.5)
    )
    assert ask("moonlight", "muon", **sizes, scale="none")["learning_rate"] == math.sqrt(64 / 32)


@pytest.mark.parametrize("kind", ["decoupled", "independent"])
def test_every_leaf_gets_its_multipliers(kind):
    """muP for AdamW at twice the width: one step against Adam's by hand."""
    params = {"embed": {"embedding": jnp.ones((3, 8))}, "mlp": {"kernel": jnp.ones((8, 8))}}
    base = {"embed": {"embedding": jnp.ones((3, 4))}, "mlp": {"kernel": jnp.ones((4, 4))}}
    common = dict(epsilon=0.1, weight_decay=0.5, max_grad_norm=0.0, beta1=0.0, beta2=0.0)
    spec = optim.spec("adamw", **common, weight_decay_kind=kind, decayed=("matrix",))
    scaling, stds = optim.scaling.leafwise("mup", spec.name, spec.values, params, base)
    tx = spec.build(learning_rate=0.01, scaling=scaling)
    grads = jax.tree.map(lambda p: 0.3 * p, params)
    found, _ = tx.update(grads, tx.init(params), params)
    decay = 0.01 * 0.5 * 0.5 if kind == "decoupled" else 0.5 / 2
    np.testing.assert_allclose(found["embed"]["embedding"], -0.01 * 0.3 / (0.3 + 0.05), rtol=1e-5)
    np.testing.assert_allclose(
        found["mlp"]["kernel"], -0.005 * 0.3 / (0.3 + 0.05) - decay, rtol=1e-5
    )
    assert stds == {"embed/embedding": 1.0, "mlp/kernel": 0.5**0.5}
    scaling, _ = optim.scaling.leafwise(
        "mup", spec.name, spec.values, params, base, decay_exponent=2.0
    )
    ratio, decay, _ = scaling("mlp/kernel", None)
    assert ratio == 0.5 and ratio * decay == pytest.approx(2.0**-2)


def test_nanochats_worked_rule():
    """d24 against d12 of base_train.py: the batch doubles as tokens^0.383 does, and then
    rate ~ sqrt(kappa), decay ~ sqrt(kappa) / tokens keep batch / (rate decay tokens)."""
    kappa, tokens = 2.0, 2.0 ** (1 / 0.383)
    found = budget("nanochat", batch=kappa, tokens=tokens)
    assert found["learning_rate"] == pytest.approx(1.4142, abs=1e-4)
    for rule in ("nanochat", "tau"):
        found = budget(rule, batch=kappa, tokens=tokens)
        timescale = kappa / (found["learning_rate"] * found["weight_decay"] * tokens)
        assert timescale == pytest.approx(1)


def test_budgets_at_the_base_are_one():
    for rule in BUDGETS:
        assert set(budget(rule).values()) == {1.0}
    sde = budget("sqrt", batch=4.0)
    assert list(sde.values()) == [2, 0.5, 1, 4, 4]
    assert list(budget("adamw_sde", batch=4.0).values()) == [1, 0.5, 2, 1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ask("mpu", "adamw"), "rule='mpu' is unknown; did you mean 'mup'"),
        (lambda: ask("mup", "adamv"), "optimizer 'adamv' is unknown; did you mean 'adamw'"),
        (lambda: ask("mup", "adamw", shape=(3, 4, 5)), "other numbers of axes"),
        (lambda: ask("mup", "adamw", weight_decay_kind="coupled"), "weight_decay_kind='coupled'"),
        (lambda: budget("sqr"), "did you mean 'sqrt'"),
        (lambda: ask("mup", "muonh"), "see 'hyperp'"),
        (lambda: ask("completep", "muon"), "derived for AdamW"),
        (lambda: leaves("kl_soap"), "cannot scale kl_soap's own decay: change weight_decay_kind"),
        (lambda: leaves("mars", preset="authors"), "change gains_by_adamw"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
