"""lm/run/solo.py and lm/run/mesh.py: a run is the same run on any mesh."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

import optim
from lm.config import ConfigError
from lm.pods import hlo
from lm.run import mesh as mesh_lib
from lm.run.evaluation import Evaluation
from lm.run.packed import Packed
from lm.run.solo import Solo

WIDE = {"model": {"hidden": 16, "heads": 4, "mlp": 32}}


def config(optimizer="adamw", *, data=1, model=1, batch_size=8, **program):
    sections = {**WIDE, "mesh": {"data": data, "model": model}, "program": program}
    return tiny.config(optimizer, steps=10, batch_size=batch_size, sections=sections)


def trained(config, devices=1, steps=10):
    """(program, state) after some steps on deterministic tokens."""
    program = Solo([config], jax.devices()[:devices])
    state = program.init()
    batch = config["train"]["batch_size"]
    for first in range(0, steps, 5):
        block = tiny.tokens(5, batch, 16, vocab_size=64, seed=first)
        state, report = program.advance(state, [block], None, fresh=True)
    return program, state, program.fetch(report)


def assert_close(a, b, tolerance):
    """Largest difference of each leaf against the leaf's largest entry."""

    def check(x, y):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max() <= tolerance * max(1e-3, np.abs(y).max())

    jax.tree.map(check, a, b)


@pytest.fixture(scope="module")
def one():
    return trained(config())


@pytest.mark.slow
def test_solo_is_the_packed_member(one):
    program = Packed([config()])
    state = program.init()
    for first in (0, 5):
        block = tiny.tokens(5, 8, 16, vocab_size=64, seed=first)
        state, _ = program.advance(state, [block], np.ones(1, bool), fresh=True)
    packed = jax.tree.map(lambda x: x[0], program.fetch(state))
    assert_close(one[1].params, packed.params, 1e-5)  # 1e-6 a step, 10 steps


@pytest.fixture(scope="module")
def eight():
    return trained(config(data=4, model=2), devices=8)


def test_a_mesh_trains_the_same_run(one, eight):
    _, state, report = eight
    assert_close(state.params, one[1].params, 1e-5)
    np.testing.assert_allclose(report.train_loss, one[2].train_loss, rtol=1e-5)


@pytest.mark.slow
# Not SOAP: from its low-rank start it divides rounding by rounding, and its path depends on both.
# `tests/optim/rules/test_battery.py` holds it to one device on gradients of full rank.
@pytest.mark.parametrize("optimizer", ["muon", "sophia"])
def test_matrix_optimizers_train_the_same_run_on_a_mesh(optimizer):
    _, alone, _ = trained(config(optimizer))
    _, sharded, _ = trained(config(optimizer, data=4, model=2), devices=8)
    assert_close(sharded.params, alone.params, 1e-4)


def test_parameters_and_optimizer_state_are_born_and_stay_sharded(eight):
    program, state, _ = eight
    fresh = program.init()
    for tree in (fresh, state):
        kernel = tree.params["blocks"]["mlp"]["up"]["kernel"]
        assert kernel.sharding.spec == P(None, "data", "model")
        assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    big = [x for x in jax.tree.leaves(state.optimizer) if x.size >= 16 * 32]
    assert big and all(x.addressable_shards[0].data.size < x.size for x in big)


def test_mesh_does_not_change_the_initial_parameters(one):
    fresh = Solo([config(data=8)]).init()
    again = Solo([config()], jax.devices()[:1]).init()
    jax.tree.map(np.testing.assert_array_equal, fresh.params, again.params)


def test_accumulation_is_one_big_batch(one):
    _, state, report = trained(config(accumulate=4))
    assert_close(state.params, one[1].params, 1e-5)
    np.testing.assert_allclose(report.train_loss, one[2].train_loss, rtol=1e-5)


@pytest.mark.slow
def test_the_loss_in_chunks_is_the_loss_on_a_mesh(one):
    _, state, _ = trained(config(data=2, model=4, loss_chunks=4), devices=8)
    assert_close(state.params, one[1].params, 1e-5)


@pytest.mark.slow
def test_more_chunks_of_the_loss_move_no_more():
    def moved(chunks):
        program = Solo([config(data=4, model=2, loss_chunks=chunks)], jax.devices()[:8])
        return hlo.collectives(program.lower("cpu").compile().as_text(), chips=8).most

    few, many = moved(2), moved(8)
    head = 16 * 64 * 4
    assert sum(few.values()) > head
    assert sum(many.values()) < sum(few.values()) + head / 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": 3}, "mesh data=3 x model=1 does not fill 8 devices: that is 3"),
        ({"data": -1, "model": 3}, "mesh data=-1 x model=3 does not fill 8 devices: 3 do not"),
        ({"data": 8, "model": 1, "batch_size": 4}, "mesh.data=8 does not divide train.batch_size"),
        ({"data": 1, "model": 8}, "mesh.model=8 does not divide model.heads=4; try mesh.model=4"),
        ({"data": -1, "model": -1}, "only one axis can take what is left"),
    ],
)
def test_impossible_meshes_are_refused_with_the_arithmetic(settings, message):
    with pytest.raises(ConfigError, match=message):
        mesh_lib.make(config(**settings))


@pytest.mark.parametrize("sequences", [1, 13, 251])
@pytest.mark.slow
def test_evaluation_on_a_mesh_is_that_of_one_device(sequences):
    source = tiny.tokens(300, 16, vocab_size=64)

    def evaluated(data, devices):
        program = Solo([config(data=data)], jax.devices()[:devices])
        fixed = Evaluation(source, None, sequences, **program.rows)
        batches = fixed.tokens_EBT, fixed.weight_EB
        return fixed, program.fetch(program.evaluate(program.init(), *batches, None))

    (one, alone), (eight, spread) = evaluated(1, 1), evaluated(8, 8)
    assert eight.tokens_EBT.shape[1] % 8 == 0
    assert len(eight.tokens_EBT) == len(one.tokens_EBT) == -(-sequences // 16)
    assert alone[0, 1] == spread[0, 1] == sequences * 15
    np.testing.assert_allclose(spread, alone, rtol=1e-6)


@pytest.mark.slow
def test_a_model_is_judged_where_its_optimizer_says(one):
    """Schedule-Free trains at y and is evaluated at the average x, alone and in a pack."""
    program, state, _ = trained(config("schedule_free"))
    fixed = Evaluation(tiny.tokens(300, 16, vocab_size=64), None, 16, **program.rows)
    batches = fixed.tokens_EBT, fixed.weight_EB

    def judged(state):
        return float(program.fetch(program.evaluate(state, *batches, None))[0, 0])

    average = optim.evaluation_params(state.optimizer, state.params)
    without = one[1].optimizer  # offers nothing: the parameters themselves
    at_x = judged(state._replace(params=average, optimizer=without))
    at_y = judged(state._replace(optimizer=without))
    assert judged(state) == at_x != at_y

    pack = Packed([config("schedule_free")])
    start = pack.init()
    fixed = Evaluation(tiny.tokens(300, 16, vocab_size=64), None, 16, **pack.rows)
    elsewhere = start._replace(params=jax.tree.map(lambda p: 2 * p, start.params))
    rows = [
        pack.fetch(pack.evaluate(s, fixed.tokens_EBT, fixed.weight_EB, np.ones(1, bool)))
        for s in (start, elsewhere)
    ]
    np.testing.assert_array_equal(*rows)  # where it trains does not matter


def test_every_part_is_made_for_a_mesh_wider_than_a_batch_of_evaluation():
    """Kernels cannot be split by the compiler: rows have to fill the `data` axis."""
    sizes = {"model": {"sequence_length": 128}, "eval": {"sequences": 13}}
    sections = {**sizes, "mesh": {"data": 8}, "program": {"attention": "splash"}}
    program = Solo([tiny.config(batch_size=8, sections=sections)], jax.devices())
    for part in ("init", "step", "evaluation"):
        assert program.lower("tpu", part).as_text()


@pytest.mark.parametrize(
    ("model", "batch_size", "data", "columns"),
    [(2, 8, 4, 2), (1, 8, 8, 1), (1, 4, 4, 2), (1, 1, 1, 1)],  # the last: 8 do not divide 4 heads
)
def test_minus_one_takes_what_is_left_and_by_default_what_divides_the_batch(
    model, batch_size, data, columns
):
    made = mesh_lib.make(config(data=-1, model=model, batch_size=batch_size))
    assert dict(made.shape) == {"data": data, "model": columns}


def test_slices_lie_along_data():
    Device = dataclasses.make_dataclass("Device", ["id", "slice_index"], frozen=True)
    devices = [Device(i, i % 2) for i in range(8)]
    mesh = mesh_lib.make(config(data=4, model=2), devices)
    assert [[d.slice_index for d in row] for row in mesh.devices] == [[0, 0]] * 2 + [[1, 1]] * 2


def test_half_described_job_fails_loudly(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES is not"):
        mesh_lib.start(log=lambda line: None)


@pytest.mark.parametrize("name", optim.catalogue.CATALOGUE)
def test_no_device_holds_a_copy_of_the_state(name):
    """Stacks of factors may have as many axes as their parameter, and other ones."""
    sizes = {"hidden": 32, "layers": 8, "heads": 4, "mlp": 128, "vocab_size": 264}
    sections = {"model": sizes, "mesh": {"data": 4, "model": 2}}
    options = {"block_size": 16} if name in ("soap", "kron") else {}
    config = tiny.config(name, batch_size=8, sections=sections, **options)
    (state,) = Solo([config], jax.devices()).abstract_members()
    leaves = jax.tree.leaves(state.optimizer)
    local = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in leaves)
    assert local * 8 < 1.2 * sum(math.prod(x.shape) for x in leaves)
