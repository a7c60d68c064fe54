"""lm/model/llama.py, attention.py, loss.py: counts, initialisers, causality, documents, chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import ladder
from lm.config import non_embedding_params, total_params
from lm.model import attention, llama, loss
from optim.roles import find_roles, path_name


def fresh(module, seed=0):
    return jax.jit(functools.partial(llama.init, module))(jax.random.key(seed))


@pytest.fixture(scope="module", params=[{}, tiny.MODERN], ids=["study", "modern"])
def net(request):
    config = tiny.config(sections={"model": request.param})
    module = llama.build(config)
    return config, module, fresh(module)


def test_published_sizes_count_as_published():
    # arXiv 2509.02046: non-embedding parameters, norm gains, one embedding table.
    published = {
        "130m": (134_217_728, 265_585_152),
        "300m": (301_989_888, 499_041_024),
        "520m": (536_870_912, 799_605_760),
        "1.2b": (1_207_959_552, 1_602_061_824),
    }
    for name, (matrices, total) in published.items():
        size = ladder.size(name)
        assert (non_embedding_params(size), total_params(size)) == (matrices, total)
        assert ladder.params(name) == matrices


def test_counts_are_those_of_the_tree(net):
    config, _, params = net
    roles = find_roles(params, llama.role)
    count = {}
    for leaf, role in zip(
        jax.tree.leaves(params),
        jax.tree.leaves(roles, is_leaf=lambda r: hasattr(r, "kind")),
        strict=True,
    ):
        count[role.kind] = count.get(role.kind, 0) + leaf.size
    assert count["matrix"] == non_embedding_params(config["model"])
    assert sum(count.values()) == total_params(config["model"])
    head = set() if config["model"]["tied"] else {"head"}
    assert set(count) == {"matrix", "embedding", "gain"} | head


def test_declared_roles_and_axes_cover_every_parameter(net):
    _, _, params = net
    names = {path_name(path) for path, _ in jax.tree.leaves_with_path(params)}
    assert names <= set(llama.ROLES) == set(llama.LOGICAL_AXES)
    for path, leaf in jax.tree.leaves_with_path(params):
        assert len(llama.LOGICAL_AXES[path_name(path)]) == leaf.ndim


def test_initialisers_are_the_studys():
    module = llama.build(tiny.config())
    wide = module.clone(hidden=64, blocks=module.blocks._replace(heads=4, mlp=256))
    params = fresh(wide, seed=1)
    cut = 0.9866  # standard deviation of a normal truncated at three sigma
    blocks = params["blocks"]
    assert np.std(blocks["attention"]["query"]["kernel"]) == pytest.approx(cut / 8, rel=0.03)
    assert np.std(blocks["mlp"]["down"]["kernel"]) == pytest.approx(cut / 16, rel=0.03)
    assert np.std(params["embed"]["embedding"]) == pytest.approx(cut / 64, rel=0.03)
    np.testing.assert_allclose(
        params["head"]["kernel"], 8 * params["embed"]["embedding"].T, rtol=1e-6
    )
    assert np.abs(blocks["mlp"]["up"]["kernel"]).max() <= 3 / 8
    assert not np.allclose(*blocks["mlp"]["up"]["kernel"])  # layers are drawn apart


@functools.partial(jax.jit, static_argnums=0)
def logits_BTV(module, params, tokens_BT):
    x_BTD, head_DV = module.apply({"params": params}, tokens_BT)
    return jnp.einsum("btd,dv->btv", x_BTD, head_DV)


def logits(net, tokens_BT):
    _, module, params = net
    return np.asarray(logits_BTV(module, params, tokens_BT))


def test_no_position_sees_a_later_one(net):
    a = tiny.tokens(1, 16)
    b = a.copy()
    b[0, 9] = (b[0, 9] + 1) % 256
    before, after = logits(net, a), logits(net, b)
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    assert np.abs(before[:, 9:] - after[:, 9:]).min(axis=-1).max() > 0


def test_a_window_ends_what_a_position_sees(net):
    """Two layers of a window of 3 look back on four positions."""
    config, module, params = net
    near = (config, module.clone(blocks=module.blocks._replace(window=3)), params)
    a = tiny.tokens(1, 16)
    b = a.copy()
    b[0, 5] = (b[0, 5] + 1) % 256
    before, after = logits(near, a), logits(near, b)
    np.testing.assert_array_equal(before[:, 10:], after[:, 10:])
    assert (np.abs(before[:, 5:10] - after[:, 5:10]).max(axis=-1) > 0).all()
    assert np.abs(logits(net, a)[:, 10:] - logits(net, b)[:, 10:]).max() > 0


def test_a_tied_head_starts_with_the_same_logits():
    config = tiny.config()
    module = llama.build(config)
    params = fresh(module)
    tied = {name: leaf for name, leaf in params.items() if name != "head"}
    one, two = (config, module, params), (config, module.clone(tied=True), tied)
    a = tiny.tokens(1, 16)
    np.testing.assert_allclose(logits(one, a), logits(two, a), rtol=1e-5, atol=1e-6)


def test_documents_do_not_see_each_other_unless_asked(net):
    a = tiny.tokens(1, 16)
    a[0, 7] = 256  # the separator ends the first document
    b = a.copy()
    b[0, :7] = tiny.tokens(7, seed=1)
    before, after = logits(net, a), logits(net, b)
    np.testing.assert_allclose(before[:, 8:], after[:, 8:], rtol=0, atol=1e-6)
    assert np.abs(before[:, 7] - after[:, 7]).max() > 1e-3  # the separator belongs to the first

    config, module, params = net
    joined = (config, module.clone(block_documents=False), params)
    assert np.abs(logits(joined, a)[:, 8:] - logits(joined, b)[:, 8:]).max() > 1e-3


@pytest.mark.slow
def test_unrolled_and_rematerialised_layers_compute_the_same(net):
    _, module, params = net
    tokens = tiny.tokens(2, 16)

    def value(module):
        def f(params):
            x, head = module.apply({"params": params}, tokens)
            return loss.next_token(x, head, tokens).nats

        return jax.jit(jax.value_and_grad(f))(params)

    base = value(module)
    for other in (
        module.clone(unroll=True),
        module.clone(remat="block"),
        module.clone(remat="dots"),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), base, value(other)
        )


def test_loss_is_the_mean_over_all_but_the_last_position(key):
    x_BTD = jax.random.normal(key, (2, 8, 4))
    head_DV = jax.random.normal(key, (4, 11))
    tokens_BT = tiny.tokens(2, 8, vocab_size=11)
    sums = loss.next_token(x_BTD, head_DV, tokens_BT)
    log_p = np.asarray(jax.nn.log_softmax(x_BTD @ head_DV))
    expected = -sum(log_p[b, t, tokens_BT[b, t + 1]] for b in range(2) for t in range(7))
    assert sums.count == 14
    np.testing.assert_allclose(sums.nats, expected, rtol=1e-6)


def test_chunked_loss_and_its_gradient_equal_the_whole(key):
    x_BTD, head_DV = jax.random.normal(key, (2, 8, 4)), jax.random.normal(key, (4, 11))
    tokens_BT = tiny.tokens(2, 8, vocab_size=11)

    def f(chunks):
        def total(x, head):
            sums = loss.next_token(x, head, tokens_BT, chunks=chunks)
            return sums.nats + 0.1 * sums.z

        return jax.value_and_grad(total, argnums=(0, 1))(x_BTD, head_DV)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), f(1), f(4))


def test_the_targets_logit_is_the_same_summed_and_gathered(key):
    logits_BTV, weight_BT = jax.random.normal(key, (2, 8, 11)), jax.random.normal(key, (2, 8))
    target_BT = tiny.tokens(2, 8, vocab_size=11)
    loss_of = lambda f: lambda x: jnp.sum(f(x, target_BT) * weight_BT)  # noqa: E731
    found, expected = (
        jax.value_and_grad(loss_of(f))(logits_BTV) for f in (loss._summed, loss._gathered)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("rows", "T", "vocab", "chunks"),
    [(1, 4096, 64128, 1), (2, 4096, 128256, 2), (128, 4096, 128256, 128), (3, 7, 2**40, 7)],
)
def test_chunks_follow_the_logits_of_one_device(rows, T, vocab, chunks):
    assert loss.chunk_count(rows, T, vocab) == chunks


def test_chunked_loss_never_holds_all_logits():
    T, D, V = 512, 16, 2048
    x = jax.ShapeDtypeStruct((1, T, D), jnp.float32)
    head, tokens = (
        jax.ShapeDtypeStruct((D, V), jnp.float32),
        jax.ShapeDtypeStruct((1, T), jnp.int32),
    )

    def temporary(chunks):
        def f(x, head, tokens):
            return loss.next_token(x, head, tokens, chunks=chunks).nats

        return (
            jax.jit(jax.grad(f))
            .lower(x, head, tokens)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert temporary(8) < temporary(1) / 4


def test_reference_attention_is_softmax_attention(key):
    q, k, v = jax.random.normal(key, (3, 1, 6, 2, 4))
    segment = jnp.array([[0, 0, 0, 1, 1, 1]])
    out = attention.attend(q, k, v, segment, implementation="reference")
    score = np.einsum("thk,shk->hts", q[0], k[0]) / 2.0
    mask = np.tril(np.ones((6, 6), bool)) & (np.arange(6)[:, None] // 3 == np.arange(6) // 3)
    p = np.exp(np.where(mask, score, -np.inf))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(out[0], np.einsum("hts,shk->thk", p, v[0]), rtol=2e-5, atol=2e-6)
