"""Rules that raise, give NaN, change or hoard their state."""

import pytest
from study_rig import ROOT

from lm import train
from lm.config import ConfigError
from optim import plugins

MODULE = """
import jax
import jax.numpy as jnp
import optax


def tx(rate, init, update=None):
    def plain(u, s, p=None):
        return jax.tree.map(lambda g: -rate * g, u), s

    return optax.GradientTransformation(init, update or plain)


def raises(learning_rate):
    raise RuntimeError("out of luck")


def holds(learning_rate):
    return tx(learning_rate, lambda p: jnp.zeros(2_500_000_000))


def nan(learning_rate):
    def update(u, s, p=None):
        return jax.tree.map(lambda g: g * jnp.nan, u), s

    return tx(learning_rate, lambda p: (), update)


def grows(learning_rate):
    def update(u, s, p=None):
        return jax.tree.map(lambda g: -learning_rate * g, u), jnp.concatenate([s, s])

    return tx(learning_rate, lambda p: jnp.zeros(1), update)


def lies(learning_rate):
    def update(u, s, p=None):
        return jax.tree.map(lambda g: -learning_rate * g, u), s.astype(jnp.bfloat16)

    return tx(learning_rate, lambda p: jnp.zeros(1), update)
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Import paths of the module's rules."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "FOLDERS", [])
    plugins.load.cache_clear()
    module = f"hostile_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    return lambda name: f"{module}:{name}"


def test_one_run_is_one_line(hostile, tmp_path, capsys):
    for name, reason in {"raises": "out of luck (", "holds": "state_sharding says"}.items():
        path = hostile(name)
        words = [f"--config={ROOT}/configs/run.py:nano-xs,0.05x,{path}", f"--workdir={tmp_path}"]
        assert train.main([*words, "--config.optimizer.learning_rate=0.1"]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: optimizer {path}: ") and line.count("\n") == 1
        assert reason in line and f"python -m optim.check {path}" in line


def test_errors_that_are_not_the_optimizers_stay_what_they_are():
    mine, theirs = {"name": "adamw"}, {"name": "a:b", "source": "0"}
    with pytest.raises(KeyError), train.blamed(mine):
        raise KeyError("ours")
    with pytest.raises(OSError), train.blamed(theirs):
        raise OSError("disk")
    with pytest.raises(ConfigError, match="optimizer a:b: KeyError"), train.blamed(theirs):
        raise KeyError("theirs")
