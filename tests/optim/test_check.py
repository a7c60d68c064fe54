"""The check of an optimizer: good ones pass, and each bad one fails its own property."""

import re
import sys

import pytest

import optim
from optim import check, plugins

MODULE = """
import jax
import jax.numpy as jnp
import optax

def good(learning_rate, momentum=0.9):
    return optax.sgd(learning_rate, momentum)

def sgd(learning_rate, init, spoil=lambda u, s: (u, s)):
    def update(u, s, p=None):
        return spoil(jax.tree.map(lambda g: -learning_rate * g, u), s)
    return optax.GradientTransformation(init, update)

def raises(learning_rate):
    raise RuntimeError("out of luck")

def branches(learning_rate, momentum=0.9):
    return optax.sgd(learning_rate, momentum if momentum > 0 else None)

def divides(learning_rate):
    return optax.stateless(lambda u, p: jax.tree.map(lambda g: -learning_rate * g / jnp.abs(g), u))

def climbs(learning_rate):
    return optax.sgd(-learning_rate)

def grows(learning_rate):
    return sgd(learning_rate, lambda p: jnp.zeros(1), lambda u, s: (u, jnp.concatenate([s, s])))

def fills(learning_rate):
    return sgd(learning_rate, lambda p: jnp.zeros(2_500_000_000))

def tables(learning_rate):
    return sgd(learning_rate, lambda p: {"table": jnp.zeros((1024, 1024))})

def hoards(learning_rate):
    return sgd(learning_rate, lambda p: jax.tree.map(lambda x: jnp.zeros((40, *x.shape)), p))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    (folder / "rules_to_check.py").write_text(MODULE)
    sys.path.append(str(folder))
    plugins.load.cache_clear()
    yield "rules_to_check"
    sys.path.remove(str(folder))


@pytest.mark.slow
def test_a_good_one_passes_in_a_line_each(path, capsys):
    assert check.main([f"{path}:good", "momentum=0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(check.CHECKS) and all(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("raises", r"RuntimeError: out of luck \(rules_to_check.py:15\)"),
        ("branches", r"asks for the value of a traced number \(rules_to_check.py:18\): make it st"),
        ("fills", r"10,000,000,008 bytes for a 512 x 512 matrix"),
    ],
)
def test_what_cannot_be_built_fails_once(path, capsys, rule, message):
    assert check.main([f"{path}:{rule}"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("rule", "title", "message"),
    [
        ("divides", "finite after zero gradients", "is not finite"),
        ("climbs", "a quadratic falls", "rises from"),
        ("grows", "its step compiles once", "traced [2-9] times"),
        ("grows", "its state keeps shapes and dtypes", "change in a step"),
        ("hoards", check.PLACED, "41,943,048 bytes for a 512 x 512 matrix"),
        ("tables", check.PLACED, "'inner/1/table' .* each hold its 4,194,304 bytes; .*state_shar"),
    ],
)
def test_a_bad_one_fails_its_property(path, rule, title, message):
    subject = check.Subject(optim.spec(f"{path}:{rule}", learning_rate=0.01))
    with pytest.raises(check.Failed, match=message):
        dict(check.CHECKS)[title](subject)


def test_what_is_wrong_with_the_words_is_one_line(capsys):
    assert check.main(["muno"]) == check.main(["muon", "momentum"]) == 2
    assert "did you mean 'muon'" in capsys.readouterr().err
