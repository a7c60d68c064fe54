"""Schedules against optax's, with traced numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim.schedules import Schedule, learning_rate

STEPS = 40


def ours(kind, **hparams):
    """All rates at once, every number traced."""
    rates = jax.jit(jax.vmap(lambda t, h: learning_rate(t, h, kind), in_axes=(0, None)))
    return rates(jnp.arange(STEPS + 5), {k: jnp.float32(v) for k, v in hparams.items()})


def check(rates, schedule):
    np.testing.assert_allclose(rates, [schedule(t) for t in range(STEPS + 5)], atol=1e-7)


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine(warmup, floor):
    schedule = optax.cosine_decay_schedule(0.3, STEPS - warmup, floor)
    if warmup:
        climb = optax.linear_schedule(0.0, 0.3, warmup)
        schedule = optax.join_schedules([climb, schedule], [warmup])
    numbers = dict(learning_rate=0.3, warmup=warmup, steps=STEPS, min_lr_ratio=floor)
    check(ours("cosine", **numbers), schedule)


def test_linear():
    schedule = optax.linear_schedule(0.3, 0.03, STEPS)
    check(ours("linear", learning_rate=0.3, steps=STEPS, min_lr_ratio=0.1), schedule)


@pytest.mark.parametrize("decay", [0.2, 0.6, 0.7, 0.9, 1.0])
def test_warmup_stable_decay(decay):
    falling = int(decay * STEPS)
    parts = [optax.constant_schedule(0.3), optax.linear_schedule(0.3, 0.0, falling)]
    schedule = optax.join_schedules(parts, [STEPS - falling])
    check(ours("wsd", learning_rate=0.3, decay=decay, steps=STEPS), schedule)


@pytest.mark.parametrize("power", [0.4, 1.0, 3.0])
def test_power(power):
    """1 - p^k over the last 20 of 40 steps, cut off at a floor; with k = 1 it is "wsd"."""
    numbers = dict(learning_rate=0.3, decay=0.5, steps=STEPS, lr_floor=0.1)
    rates = ours("power", **numbers, decay_power=power)
    done = np.clip((np.arange(STEPS + 5) - 20) / 20, 0, 1)
    np.testing.assert_allclose(rates, 0.3 * np.maximum(1 - done**power, 0.1), rtol=1e-5)
    if power == 1:
        np.testing.assert_allclose(rates, ours("wsd", **numbers), rtol=1e-6)


def test_without_decay_the_rate_stays():
    assert (ours("wsd", learning_rate=0.3, decay=0.0, steps=STEPS)[:STEPS] == 0.3).all()
    assert (ours("constant", learning_rate=0.3, steps=STEPS) == 0.3).all()
    rates = ours("cosine", learning_rate=0.3, warmup=4)
    np.testing.assert_allclose(rates[:6], [0, 0.075, 0.15, 0.225, 0.3, 0.3], rtol=1e-6)


def test_first_and_last_update():
    """The study's: with warm-up the first update has rate 0, the last is one step from the end."""
    rates = ours("cosine", learning_rate=0.3, warmup=4, steps=STEPS)
    assert rates[0] == 0 and rates[STEPS - 1] > 0 and rates[STEPS] == 0


def test_a_function_is_the_whole_schedule():
    hparams = {"learning_rate": lambda step: 2.0 * step, "steps": 10, "warmup": 3}
    assert Schedule(hparams)(3) == 6.0


def test_unknown_schedule():
    with pytest.raises(ValueError, match="schedule='cubic' is not one of cosine"):
        learning_rate(0, {"learning_rate": 0.3}, "cubic")
