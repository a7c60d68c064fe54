"""lm/model/flops.py against what the compiler says of the same steps."""

import jax
import pytest
import tiny

from lm.model import flops
from lm.pods import hlo
from lm.run.solo import Solo

WIDE = {"hidden": 64, "heads": 4, "mlp": 256, "sequence_length": 64}


def step(**sections):
    """(config, lowered training step, tokens) on one device, with the reference attention."""
    program = {"attention": "reference", "steps_per_call": 1, **sections.pop("program", {})}
    config = tiny.config(sections={"program": program, **sections})
    lowered = Solo([config], jax.devices()[:1]).lower("cpu")
    return config, lowered, config["train"]["batch_size"] * config["model"]["sequence_length"]


@pytest.mark.parametrize(
    ("remat", "chunks", "model"),
    [("none", 2, {}), ("dots", 1, {}), ("block", 2, {}), ("none", 1, tiny.MODERN)],
)
@pytest.mark.slow
def test_products_of_a_step_are_those_of_the_formula(remat, chunks, model):
    config, lowered, tokens = step(program={"remat": remat, "loss_chunks": chunks}, model=model)
    per_token = 3 * flops.forward_flops_per_token(config["model"], causal=False)
    per_token += flops.repeated_flops_per_token(config, causal=False)
    (made,) = hlo.products(lowered.compile().as_text()).least.values()
    assert made == per_token * tokens


@pytest.mark.slow
def test_the_formula_is_nearly_all_that_xla_counts():
    """XLA counts norms, softmax and AdamW too, and of loops one round: so it is unrolled."""
    config, lowered, tokens = step(model=tiny.MODEL | WIDE, program={"unroll": True})
    formula = 3 * flops.forward_flops_per_token(config["model"], causal=False) * tokens
    counted = lowered.compile().cost_analysis()["flops"]
    assert formula < counted < 1.1 * formula


def test_half_of_the_square_is_causal():
    model = tiny.config()["model"]
    whole, half = (flops.forward_flops_per_token(model, causal=causal) for causal in (False, True))
    assert whole - half == 2 * model["layers"] * model["hidden"] * model["sequence_length"]


def test_devices_are_known_by_the_longest_name():
    assert flops.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert flops.peak_flops("TPU v5 lite") == 197e12 and flops.peak_flops("TPU v5p") == 459e12
    assert flops.peak_flops("cpu") is None
