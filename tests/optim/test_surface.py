"""The library as its users see it: one name for one thing, whole help, examples that run."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim.alias import BEYOND
from optim.assemble import finish
from optim.catalogue import CATALOGUE
from optim.entry import may_be_traced

ALIASES = [entry.alias for entry in CATALOGUE.values()]
OURS = [getattr(optim, name) for name in optim.__all__ if callable(getattr(optim, name))]
OURS += [getattr(optim.scaling, name) for name in ("multipliers", "model", "budget", "leafwise")]
PARAMS = {"up": {"kernel": jnp.eye(3, 4)}, "norm": {"scale": jnp.ones(3)}}


@pytest.mark.parametrize("alias", ALIASES, ids=lambda f: f.__name__)
def test_an_optimizer_is_a_function_at_top_level_with_whole_help(alias):
    assert getattr(optim, alias.__name__) is alias
    parameters = inspect.signature(alias).parameters
    assert parameters["learning_rate"].default is inspect.Parameter.empty
    assert all(p.annotation is not p.empty and p.kind != p.VAR_KEYWORD for p in parameters.values())
    missing = [name for name in parameters if name not in alias.__doc__]
    assert not missing
    sections = ("Args:", "Returns:", "Raises:", "Example:", "References:")
    places = [alias.__doc__.index(f"\n{section}\n") for section in sections]
    assert places == sorted(places)


def test_what_all_share_is_typed_and_told():
    hidden = {"rule", "ratios", *BEYOND}
    for alias in ALIASES:
        assert set(inspect.signature(finish).parameters) - hidden <= set(
            inspect.signature(alias).parameters
        )
    for f in OURS:
        signature = inspect.signature(f)
        assert all(p.annotation is not p.empty for p in signature.parameters.values()), f


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.muon(0.02, ns_steps=-1), r"muon: ns_steps=-1 is outside \[1, 2147483647\]"),
        (lambda: optim.soap(1e-3, block_size=-5), r"soap: block_size=-5 is outside \[1, "),
        (lambda: optim.soap(1e-3, precision="hihgest"), "soap: precision='hihgest' is not one of"),
        (lambda: optim.kl_soap(1e-3, adam=1), "kl_soap: adam=1 is not True or False"),
        (
            lambda: optim.scale_by_muon(ns_dtype="float16"),
            "scale_by_muon: ns_dtype='float16' is no",
        ),
        (lambda: optim.scale_by_adamw(beta1=1.0), r"scale_by_adamw: beta1=1.0 is outside \[0, 1\)"),
        (lambda: optim.adamw(-0.1), r"adamw: learning_rate=-0.1 is outside \[0, "),
        (
            lambda: optim.schedule_free(optim.lion)(0.1, "x"),
            "interpolation='x' is not",
        ),
        (
            lambda: optim.hyperball(optim.kron)(0.1, seed=0.5),
            "kron: seed=0.5 is not a whole number",
        ),
    ],
)
def test_a_value_that_is_not_allowed_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_an_unknown_argument_is_named_with_the_nearest():
    with pytest.raises(TypeError, match=r"muon\(\) got .* 'ns_step'; did you mean 'ns_steps'\?"):
        optim.muon(0.02, ns_step=5)
    with pytest.raises(TypeError, match="muon: missing a required argument: 'learning_rate'"):
        optim.muon()


@pytest.mark.slow
def test_examples_run():
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    tests = [test for f in OURS for test in finder.find(f, f.__name__) if test.examples]
    assert {f.__name__ for f in OURS} - {test.name for test in tests} == {
        "OptimizerSpec",  # `spec` has its Example
        "scale_by_sophia",  # and `sophia`
    }
    for test in tests:
        assert not runner.run(test, clear_globs=False).failed, test.name


@pytest.mark.parametrize("name", ["muon", "sophia"])
def test_inject_hyperparams_needs_no_list_of_static_arguments(name):
    """Integers, names, functions and mappings stay what they are; numbers may be schedules."""
    alias = getattr(optim, name)
    options = {
        "clipped": (),
        "roles": lambda path, x: optim.Role("gain", (), (), tuple(range(x.ndim))),
    }
    if name == "muon":
        options = {"ns_steps": 2, "state_dtypes": {"momentum": "bfloat16"}}
    rate = optax.linear_schedule(0.1, 0.2, 10)
    tx = optax.inject_hyperparams(alias)(rate, weight_decay=0.5, **options)
    state = tx.init(PARAMS)
    numbers = {
        n for n, p in inspect.signature(alias).parameters.items() if may_be_traced(p.annotation)
    }
    assert {"learning_rate", "weight_decay"} <= set(state.hyperparams) <= numbers
    step = jax.jit(lambda *args: tx.update(*args, grad_fn=lambda p: p))
    updates, state = step(PARAMS, state, PARAMS)
    plain = alias(0.1, weight_decay=0.5, **options)
    once = jax.jit(lambda *args: plain.update(*args, grad_fn=lambda p: p))
    other, _ = once(PARAMS, plain.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updates, other)
    step(PARAMS, state, PARAMS)
