"""A specification refuses in one line; it is built from numbers of every sort."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim import catalogue

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "scale": jnp.ones(4)}
GRADS = {"w": jnp.linspace(2.0, -1.0, 12).reshape(3, 4), "scale": jnp.linspace(-1.0, 1.0, 4)}


def steps(tx, n=3):
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(n):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("name", "mapping", "message"),
    [
        ("adamw", {"lerning_rate": 1.0}, "'lerning_rate'.*did you mean 'learning_rate'"),
        ("adamw", {"momentum": 0.9}, "'momentum' is not a hyper-parameter or option"),
        ("adamw", {"beta1": 1.0}, r"beta1=1.0 is outside \[0, 1\)"),
        ("adamw", {"learning_rate": -0.1}, r"learning_rate=-0.1 is outside \[0, 3.4028235e\+38\]"),
        ("adamw", {"learning_rate": float("nan")}, "learning_rate=nan is outside"),
        ("adamw", {"learning_rate": 10**40}, "learning_rate=10+ is outside"),
        ("adamw", {"max_grad_norm": float("inf")}, "max_grad_norm=inf is outside"),
        ("adamw", {"beta2": 1 - 1e-9}, r"beta2=0.999999999 is outside \[0, 1\)"),
        ("adamw", {"learning_rate": "fast"}, "learning_rate='fast' is not a number"),
        ("adamw", {"weight_decay": True}, "weight_decay=True is not a number"),
        ("adamw", {"weight_decay": None}, "weight_decay=None is not a number"),
        ("adamw", {"beta1": np.zeros(2)}, "beta1=.* is not a number, a scalar array"),
        ("muon", {"decay": 1.5}, r"decay=1.5 is outside \[0, 1\]"),
        ("muon", {"ns_steps": 0}, r"ns_steps=0 is outside \[1, 2147483647\]"),
        ("muon", {"ns_steps": 2.5}, "ns_steps=2.5 is not a whole number"),
        ("muon", {"ns_steps": jnp.int32(5)}, "ns_steps=.* is not a whole number"),
        ("muon", {"nesterov": 1}, "nesterov=1 is not True or False"),
        ("muon", {"ns_dtype": "float16"}, "ns_dtype='float16' is not one of"),
        ("muon", {"state_dtypes": {"momentum": "bfloat61"}}, "state_dtypes=.* is not a mapping"),
        ("adamw", {"decayed": ["matrices"]}, "decayed=.'matrices'. is not a list, each one of"),
        ("adamw", {"clipped": "matrix"}, "clipped='matrix' is not a list"),
        ("soap", {"block_size": -5}, r"block_size=-5 is outside \[1, "),
        ("soap", {"block_size": "abc"}, "block_size='abc' is not a whole number or None"),
        ("soap", {"precision": "hihgest"}, "precision='hihgest' is not one of"),
        ("kron", {"preconditioner_init_scale": "x"}, "preconditioner_init_scale='x' is not a numb"),
        ("kron", {"schedule_start": True}, "schedule_start=True is not one of 0, 1"),
        ("sophia", {"seed": "x"}, "seed='x' is not a whole number"),
        ("lion", {"schedule": "cos"}, "schedule='cos' is not one of 'cosine'"),
        ("lion", {"warmup": 10, "steps": 5}, r"warmup=10 is outside \[0, steps=5\]"),
        ("adamw", {"preset": "paper"}, "preset='paper' is not one of study, authors"),
    ],
)
def test_spec_refuses_in_one_line(name, mapping, message):
    with pytest.raises(ValueError, match=f"optimizer {name}: {message}") as error:
        optim.spec(name, **mapping)
    assert "\n" not in str(error.value)


def test_what_is_not_known_or_not_given_is_refused():
    with pytest.raises(ValueError, match="'muno' is unknown; did you mean 'muon'"):
        optim.build("muno")
    with pytest.raises(ValueError, match="learning_rate has no default in preset 'authors'"):
        optim.build("adamw", preset="authors")
    with pytest.raises(ValueError, match="optimizer muon: ns_steps is static: give it to `spec`"):
        optim.spec("muon").build(ns_steps=5)
    with pytest.raises(ValueError, match="'beta3' is not a hyper-parameter or option"):
        optim.spec("adamw").build(beta3=0.5)


def test_a_spec_knows_what_is_traced_and_is_one_flat_mapping():
    spec = optim.spec("soap", preset="authors", learning_rate=0.1, block_size=64)
    assert spec.traced["learning_rate"] == 0.1 and spec.static["block_size"] == 64
    assert set(spec.static) == set(spec.values) - set(spec.traced)
    # A number without a value is no NaN: the rule itself knows what to do without it.
    assert spec.static["shampoo_beta"] is None and spec.static["steps"] is None
    assert optim.spec(**spec.flat()) == spec
    assert optim.spec(**json.loads(json.dumps(spec.flat()))).traced == spec.traced


def test_a_mapping_and_keywords_are_one():
    mixed = optim.build("muon", {"learning_rate": 0.1, "ns_steps": 5}, momentum=0.9)
    same(steps(mixed), steps(optim.build("muon", learning_rate=0.1, ns_steps=5, momentum=0.9)))


@pytest.mark.parametrize("name", catalogue.CATALOGUE)
def test_presets_pass_their_own_check(name):
    for preset in ("study", "authors"):
        optim.spec(name, preset=preset)
    study = optim.spec(name, preset="study").values
    assert study["learning_rate"] > 0 and study["decayed"] == ("matrix", "head")


def test_the_study_and_the_authors_differ_where_documented():
    study, authors = (optim.spec("muon", preset=p).values for p in ("study", "authors"))
    assert (study["ns_steps"], authors["ns_steps"]) == (10, 5)
    assert (study["averaged"], authors["averaged"]) == (False, True)
    assert (study["ns_dtype"], authors["ns_dtype"]) == (None, "bfloat16")


def test_numbers_may_be_floats_arrays_tracers_or_schedules():
    numbers = {"learning_rate": 0.1, "beta1": 0.8, "warmup": 2.0, "steps": 9.0}
    expected = steps(optim.build("adamw", numbers))
    arrays = {k: jnp.float32(v) for k, v in numbers.items()}
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731
    jax.tree.map(near, steps(optim.build("adamw", arrays)), expected)
    jax.tree.map(near, jax.jit(lambda h: steps(optim.build("adamw", h)))(arrays), expected)
    spec = optim.spec("adamw")
    jax.tree.map(near, jax.jit(lambda h: steps(spec.build(**h)))(arrays), expected)
    schedules = numbers | {"beta1": lambda step: jnp.float32(0.8)}
    jax.tree.map(near, steps(optim.build("adamw", schedules)), expected)


def test_a_scheduled_number_is_read_at_the_step():
    """Weight decay that starts at the second update."""
    base = {"learning_rate": 0.1, "weight_decay": 0.5}
    late = base | {"weight_decay": lambda step: jnp.where(step < 1, 0.0, 0.5)}
    tx = optim.build("lion", late)
    same(steps(tx, 1), steps(optim.build("lion", base | {"weight_decay": 0.0}), 1))
    assert not np.allclose(steps(tx, 2)["w"], steps(optim.build("lion", base), 2)["w"])


def test_a_learning_rate_may_be_a_schedule():
    schedule = optax.linear_schedule(0.0, 0.1, 2)
    ours = steps(optim.build("lion", {"learning_rate": schedule, "weight_decay": 0.0}), 2)
    once = optim.build("lion", {"learning_rate": 0.05, "weight_decay": 0.0})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, steps(once, 1))


def test_init_needs_no_numbers():
    nothing = dict.fromkeys(("learning_rate", "steps", "beta1"), jnp.float32(jnp.nan))
    state = optim.build("adamw", nothing).init(PARAMS)
    same(state, optim.build("adamw", {"learning_rate": 0.1}).init(PARAMS))


def test_inject_hyperparams_takes_the_alias():
    from optim.rules.lion import lion

    tx = optax.inject_hyperparams(lion)(learning_rate=0.1, beta1=0.8)
    same(steps(tx), steps(lion(0.1, 0.8)))
    bare = optax.inject_hyperparams(optim.scale_by_lion)(beta1=optax.linear_schedule(0.8, 0.9, 5))
    assert set(bare.init(PARAMS).hyperparams) == {"beta1", "beta2"}


def test_describe_takes_any_transformation():
    told = optim.describe(optax.adam(0.1), PARAMS)
    assert told.parameters == 16 and told.flops is None
    assert told.state_bytes == {"other": 4, "momentum": 64, "second_moment": 64}


def test_describe_counts_what_is_there():
    text = optim.describe("muon", PARAMS, preset="study")
    assert text.parameters == 16
    assert text.state_bytes["momentum"] == 4 * 16 and text.state_bytes["second_moment"] == 4 * 4
    assert text.roles["w"].kind == "matrix" and "(3 -> 4)" in str(text)
    m, n = 3, 4
    assert text.flops == 10 * (4 * m * m * n + 2 * m**3) + 15 * 16
