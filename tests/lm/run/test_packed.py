"""lm/run/packed.py: a member of a pack is the run alone, whatever its neighbours do."""

import functools

import jax
import numpy as np
import optax
import pytest
import tiny

from lm.pods import hlo
from lm.run.packed import Packed
from optim.stacks.probes import probe_key

STEPS = 12


def blocks(configs, start, count):
    """Batches that depend on the member's seed alone, as training's do."""

    def batches(seed):
        steps = range(start, start + count)
        return np.stack([tiny.tokens(2, 16, seed=1000 * seed + step) for step in steps])

    return [batches(config["train"]["seed"]) for config in configs]


def trained(configs, devices=None, calls=(5, 7), active=None, **options):
    """(states in the order of the configs, last report) after `calls` calls."""
    program = Packed(configs, devices, **options)
    state, step = program.init(), 0
    for count in calls:
        alive = np.ones(len(configs), bool) if active is None or step == 0 else active
        batches = blocks(configs, step, count)
        state, report = program.advance(state, batches, alive, fresh=step == 0)
        step += count
    return program.fetch(state), program.fetch(report)


def member(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def pack():
    """Five AdamW runs: other learning rates, betas, warm-ups and seeds; the last one explodes."""
    rows = [
        {"learning_rate": 1e-3},
        {"learning_rate": 1e-2, "beta2": 0.5},
        {"learning_rate": 1e-2, "warmup": 0, "weight_decay": 0.5},
        {"learning_rate": 1e-2, "seed": 3},
        {"learning_rate": 1e30, "warmup": 0},
    ]
    return [tiny.config(**row) for row in rows]


def test_a_member_is_bit_for_bit_the_run_alone(pack):
    together, _ = trained(pack)
    for i in (0, 1, 3):
        alone, _ = trained([pack[i]])
        assert_identical(member(together, i), member(alone, 0))


def test_a_diverging_member_is_noticed_and_leaves_its_neighbours_bit_identical(pack):
    state, report = trained(pack)
    assert list(report.diverged_at[:4]) == [-1] * 4
    assert 1 < report.diverged_at[4] <= STEPS
    without, _ = trained(pack[:4])
    for i in range(4):
        assert_identical(member(state, i), member(without, i))


@pytest.mark.slow
def test_devices_and_calls_do_not_change_a_bit(pack):
    one, _ = trained(pack, jax.devices()[:1])
    two, _ = trained(pack, jax.devices()[:2], calls=(12,))
    assert_identical(one, two)


def test_seeds_draw_other_parameters(pack):
    program = Packed([pack[1], pack[3]])
    a, b = (member(program.fetch(program.init()).params, i) for i in (0, 1))
    assert not np.allclose(a["embed"]["embedding"], b["embed"]["embedding"])


def test_inactive_members_stand_still(pack):
    program = Packed(pack[:3])
    before = program.fetch(program.init())
    state, _ = program.advance(
        program.init(), blocks(pack[:3], 0, 4), np.array([True, False, True]), fresh=True
    )
    after = program.fetch(state)
    assert list(after.step) == [4, 0, 4]
    assert_identical(member(before, 1), member(after, 1))
    assert not np.array_equal(before.params["head"]["kernel"], after.params["head"]["kernel"])


def test_learning_rate_follows_the_schedule(pack):
    program = Packed([tiny.config(learning_rate=1.0, warmup=4, steps=12)])
    block = [np.zeros((3, 2, 16), np.uint16)]
    _, report = program.advance(program.init(), block, np.ones(1, bool), fresh=True)
    # The third update is step 2 of a warm-up of 4 from zero.
    assert program.fetch(report).watched["learning_rate"][0] == pytest.approx(0.5)


@pytest.mark.slow
def test_one_compilation_serves_every_ratio_and_number():
    from lm.run import packed as module

    known = len(module._CACHE)
    for steps, rate in ((12, 1e-3), (24, 1e-2), (36, 3e-2)):
        configs = [tiny.config("lion", steps=steps, learning_rate=rate)] * 2
        program = Packed(configs)
        alive = np.ones(2, bool)
        state, _ = program.advance(program.init(), blocks(configs, 0, 2), alive, fresh=True)
        jax.block_until_ready(state)
        assert program.functions.advance._cache_size() == 1
    assert len(module._CACHE) == known + 1


def test_a_pack_of_different_programs_is_refused(pack):
    with pytest.raises(ValueError, match="must share a program"):
        Packed([pack[0], tiny.config("lion")])


@pytest.mark.slow
def test_a_pack_decomposes_only_when_it_is_due():
    """The compiled pack, as on accelerators: `vmap` must not make every branch of every step."""
    configs = [tiny.config("soap", seed=seed, precondition_frequency=3) for seed in (0, 1)]
    program = Packed(configs, jax.devices()[:2], together=True)

    def cost(name, lines):
        yield "calls", sum("geqrf" in line or "syevd" in line for line in lines)

    lowered = program.lower("cpu")
    assert "kept" in lowered.out_info[1].watched
    text = lowered.compile().as_text()
    least, most = (amount["calls"] for amount in hlo.amounts(text, cost))
    assert least == 0 < most


@pytest.mark.slow
def test_members_that_step_together_are_the_runs_alone(pack):
    alive = np.array([True, False, True])
    together, report = trained(pack[:3], jax.devices()[:1], active=alive, together=True)
    alone, one = trained(pack[:3], jax.devices()[:1], active=alive)
    assert list(together.step) == [12, 5, 12]
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-5)
    jax.tree.map(close, together.params, alone.params)
    close(report.train_loss, one.train_loss)
    # A member that stands still changes no bit of the others, nor of itself.
    every, _ = trained(pack[:3], jax.devices()[:1], together=True)
    half, _ = trained(pack[:3], jax.devices()[:1], calls=(5,), together=True)
    assert_identical(member(together, 0), member(every, 0))
    assert_identical(member(together, 1), member(half, 1))


def test_other_seeds_draw_other_probes():
    program = Packed([tiny.config("kron", seed=seed) for seed in (0, 1)])
    drawn = optax.tree.get(program.fetch(program.init().optimizer), "probes")
    np.testing.assert_array_equal(drawn, [probe_key(0), probe_key(1)])


def test_the_loss_is_the_mean_since_the_last_line(pack):
    program, alive, losses = Packed(pack[:1]), np.ones(1, bool), []
    state = one_by_one = program.init()
    for step in range(4):
        block = blocks(pack[:1], step, 1)
        one_by_one, report = program.advance(one_by_one, block, alive, fresh=True)
        losses.append(program.fetch(report).train_loss[0])
    state = program.init()
    for step, count, fresh in ((0, 1, True), (1, 2, True), (3, 1, False)):
        state, report = program.advance(state, blocks(pack[:1], step, count), alive, fresh=fresh)
    assert program.fetch(report).train_loss[0] == pytest.approx(np.mean(losses[1:]), rel=1e-6)


def test_evaluation_sums_nats_over_the_fixed_tokens(pack):
    program = Packed(pack[:2])
    batches = tiny.tokens(3, 2, 16), np.float32([[1, 1], [1, 1], [1, 0]])
    sums = program.fetch(program.evaluate(program.init(), *batches, np.ones(2, bool)))
    assert sums.shape == (2, 2)
    assert list(sums[:, 1]) == [(3 * 2 - 1) * 15] * 2
    # An untouched model guesses: log 257, and half a nat for the spread of its logits.
    np.testing.assert_allclose(sums[:, 0] / sums[:, 1], np.log(257) + 0.5, atol=0.6)
