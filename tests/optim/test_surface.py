"""The library as its users see it: one name for one thing, whole help, examples that run."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim.alias import Common, may_be_traced
from optim.assemble import finish
from optim.catalogue import CATALOGUE

ALIASES = [entry.alias for entry in CATALOGUE.values()]
OURS = [getattr(optim, name) for name in optim.__all__ if callable(getattr(optim, name))]
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
    shared = inspect.signature(finish).parameters.values()
    names = {p.name for p in shared if p.kind == p.KEYWORD_ONLY}
    assert names - {"roles"} == set(Common.__annotations__)


@pytest.mark.slow
def test_examples_run():
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    tests = [test for f in OURS for test in finder.find(f, f.__name__) if test.examples]
    names = {test.name for test in tests}
    assert {alias.__name__ for alias in ALIASES} <= names and len(names) > 35
    for test in tests:
        assert not runner.run(test, clear_globs=False).failed, test.name


@pytest.mark.parametrize("name", ["muon", "soap", "sophia"])
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
    other, _ = plain.update(PARAMS, plain.init(PARAMS), PARAMS, grad_fn=lambda p: p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updates, other)
    step(PARAMS, state, PARAMS)
