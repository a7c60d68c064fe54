"""lm/model/parametrization.py: at the base nothing moves, and elsewhere what the rule says."""

import jax
import numpy as np
import pytest
import tiny

from lm.model import parametrization
from lm.run.solo import Solo
from optim.roles import path_name

SMALL = {"hidden": 8, "layers": 2, "mlp": 16, "heads": 2}


def made(rule, optimizer="adamw", base=SMALL, **model):
    given = {"rule": rule, "base": base}
    return tiny.config(optimizer, sections={"model": model, "parametrization": given})


def deviations(config):
    leaves = jax.tree.leaves_with_path(
        jax.jit(parametrization.apply(config).init)(jax.random.key(0))
    )
    return {path_name(path): float(np.std(leaf)) for path, leaf in leaves}


@pytest.mark.slow
def test_at_the_base_nothing_moves():
    """The same steps as without a parametrization, in fewer bits: multipliers of one are traced."""
    tokens = tiny.tokens(4, 2, 16)

    def trained(config):
        program = Solo([config], jax.devices()[:1])
        return program.advance(program.init(), [tokens], None, fresh=True)[0].params

    same = zip(*map(jax.tree.leaves, map(trained, (tiny.config(), made("mup")))), strict=True)
    for a, b in same:
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("rule", "head", "residual", "output"),
    [("mup", 0.25, 1 / 3, 1.0), ("completep", 1.0, 1 / 3, 0.25), ("standard", 0.5, 1.0, 1.0)],
)
@pytest.mark.slow
def test_a_wider_and_deeper_model(rule, head, residual, output):
    """Four times the width, three times the depth: deviations over the base's."""
    wide = made(rule, hidden=32, layers=6, mlp=64, heads=8)
    found = parametrization.apply(wide)
    here, there = deviations(wide), deviations(tiny.config())
    # As many draws as leave the deviation of the smallest leaf (2 x 8 x 8) within 10 %.
    for path, ratio in {"embed/embedding": 1.0, "head/kernel": head}.items():
        assert here[path] / there[path] == pytest.approx(ratio, rel=0.1), path
    mlp = "blocks/mlp/down/kernel"
    assert here[mlp] / there[mlp] == pytest.approx(0.5, rel=0.25)
    assert found.model.blocks.residual == pytest.approx(residual)
    assert found.model.output == pytest.approx(output)


def test_duration_is_traced():
    """HyperP's rate falls with the tokens: one program serves all ratios of a size."""
    scaling = parametrization.apply(made("hyperp", "muonh", {**SMALL, "tokens": 320.0})).scaling
    rate = jax.jit(lambda steps: scaling(steps)("blocks/mlp/up/kernel", None).learning_rate)
    np.testing.assert_allclose(rate(10.0) / rate(20.0), 2**0.32, rtol=1e-5)
