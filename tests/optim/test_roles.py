"""Roles are found or refused; leaves become stacks of matrices and come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optim
from optim.roles import (
    Role,
    coverage,
    declare,
    default_role,
    find_roles,
    from_stack,
    stack_shape,
    to_stack,
)
from optim.stacks.batching import map_grouped, map_matrices

QUERY = Role("matrix", (0,), (1,), (2, 3), heads=2, part="query")
OUT = Role("matrix", (0,), (1, 2), (3,))


@pytest.mark.parametrize(
    ("path", "shape", "role"),
    [
        ("embed/embedding", (16, 8), Role("embedding", (), (0,), (1,))),
        ("head/kernel", (8, 16), Role("head", (), (0,), (1,))),
        ("lm_head/kernel", (8, 16), Role("head", (), (0,), (1,))),
        ("blocks/attention/query/kernel", (2, 8, 4, 2), QUERY),
        ("blocks/attention/out/kernel", (2, 4, 2, 8), OUT),
        ("blocks/mlp/up/kernel", (2, 8, 32), Role("matrix", (0,), (1,), (2,))),
        ("blocks/attention_norm/scale", (2, 8), Role("gain", (0,), (), (1,))),
        ("final_norm/scale", (8,), Role("gain", (), (), (0,))),
        ("layers_1/mlp/up/kernel", (8, 32), Role("matrix", (), (0,), (1,))),
        (
            "layers/1/attention/query/kernel",
            (8, 4, 2),
            Role("matrix", (), (0,), (1, 2), heads=1, part="query"),
        ),
        ("layers_0/mlp/up/bias", (8,), Role("gain", (), (), (0,), part="bias")),
        ("temperature", (), Role("gain")),
    ],
)
def test_default_roles(path, shape, role):
    assert default_role(path, jnp.zeros(shape)) == role


@pytest.mark.parametrize(
    ("path", "shape"),
    [("blocks/kernel", (4, 4)), ("conv/kernel", (3, 3, 8, 8)), ("experts/kernel", (4, 8, 8))],
)
def test_ambiguous_roles_are_refused_by_name(path, shape):
    with pytest.raises(ValueError, match=f"'{path}'.*ambiguous.*roles="):
        default_role(path, jnp.zeros(shape))


@pytest.mark.parametrize(
    ("role", "complaint"),
    [
        (Role("matrix", (), (0,), (2,)), "outside its 2 axes"),
        (Role("matrix", (), (0,), (0,)), "each of its 2 axes once"),
        (Role("matrix", (0,), (1,), ()), "a matrix needs inputs and outputs"),
        (Role("gain", (), (0,), (1,)), "a gain has no inputs"),
        (Role("matrix", (), (0,), (1,), heads=0), "heads=0 is not one of its outputs"),
        ("matrix", "has no role"),
    ],
)
def test_wrong_roles_are_refused_by_name(role, complaint):
    with pytest.raises(ValueError, match=f"'a/w'.*{complaint}"):
        find_roles({"a": {"w": jnp.zeros((3, 4))}}, lambda path, leaf: role)


@pytest.mark.parametrize(
    ("path", "shape", "words"),
    [
        ("decoder/logits_dense/kernel", (8, 99), r'matrix or not.*Role."head", inputs='),
        ("normal_proj/kernel", (8, 8), r'matrix or not.*Role."matrix", inputs='),
        ("patch_embed_proj/kernel", (8, 8), "may be a matrix or not"),
    ],
)
def test_a_doubtful_leaf_shows_the_line_that_declares_it(path, shape, words):
    tree = {path: jnp.zeros(shape)}
    with pytest.raises(ValueError, match=f"'{path}'.*{words}") as error:
        find_roles(tree)
    declared = eval(str(error.value).partition("declare it: roles=")[2], {"optim": optim})
    assert find_roles(tree, declared)[path].inputs == (0,)


def test_layers_on_axis_one_are_refused_and_named():
    shapes = {"query/kernel": (16, 3, 2, 8), "out/kernel": (2, 3, 8, 16), "norm/scale": (16, 3)}
    tree = {f"decoder/layers/{name}": jnp.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match='axis 0, so it is not the layer.*"maxtext"'):
        find_roles(tree)
    found = find_roles(tree, "maxtext")
    stacks = {path: stack_shape(tree[path], role) for path, role in found.items()}
    assert set(stacks.values()) == {(3, 16, 16), (3, 1, 16)}


# Leaves of the trees that other libraries make, with their (stack, in, out).
LIBRARIES = {
    "maxtext": {
        "token_embedder/embedding": ("embedding", (9, 4), (1, 9, 4)),
        "decoder/logits_dense/kernel": ("head", (4, 9), (1, 4, 9)),
        "decoder/layers/mlp/wi_0/kernel": ("matrix", (4, 3, 8), (3, 4, 8)),
        "decoder/layers/MoeBlock_0/wi_0": ("matrix", (5, 3, 4, 8), (15, 4, 8)),
        "decoder/layers/self_attention/query/kernel": ("matrix", (4, 3, 2, 6), (3, 4, 12)),
        "decoder/layers/pre_self_attention_layer_norm/scale": ("gain", (4, 3), (3, 1, 4)),
    },
    "t5x": {
        "encoder/layers_0/attention/out/kernel": ("matrix", (12, 4), (1, 12, 4)),
        "decoder/relpos_bias/rel_embedding": ("embedding", (2, 32), (1, 32, 2)),
    },
    "nanodo": {
        "pos_embed/embedding": ("embedding", (9, 4), (1, 9, 4)),
        "blocks_0/CausalAttn_0/attn_out_proj/kernel": ("matrix", (2, 6, 4), (1, 12, 4)),
        "blocks_0/Mlp_0/Dense_1/kernel": ("matrix", (8, 4), (1, 8, 4)),
        "out_ln/scale": ("gain", (4,), (1, 1, 4)),
    },
    "hf_flax": {
        "model/embed_tokens/embedding": ("embedding", (9, 4), (1, 9, 4)),
        "model/layers/0/self_attn/q_proj/kernel": ("matrix", (4, 12), (1, 4, 12)),
        "model/layers/0/input_layernorm/weight": ("gain", (4,), (1, 1, 4)),
        "lm_head/kernel": ("head", (4, 9), (1, 4, 9)),
    },
    "hf_flax_gpt2": {
        "transformer/h/0/mlp/c_fc/kernel": ("matrix", (16, 4), (1, 4, 16)),
        "transformer/h/0/attn/c_attn/kernel": ("matrix", (12, 4), (1, 4, 12)),
    },
    "levanter": {
        "embeddings/token_embeddings/weight/array": ("embedding", (9, 4), (1, 9, 4)),
        "layers/stacked/self_attn/q_proj/weight/array": ("matrix", (3, 2, 2, 6, 4), (3, 4, 24)),
        "layers/stacked/mlp/gate_proj/weight/array": ("matrix", (3, 8, 4), (3, 4, 8)),
        "transformer/norm/weight/array": ("gain", (4,), (1, 1, 4)),
        "lm_head/weight/array": ("head", (9, 4), (1, 4, 9)),
    },
    "equinox": {
        "embedding/weight": ("embedding", (9, 4), (1, 9, 4)),
        "layers/0/mlp/layers/1/weight": ("matrix", (4, 8), (1, 8, 4)),
        "layers/0/norm/weight": ("gain", (4,), (1, 1, 4)),
        "lm_head/weight": ("head", (9, 4), (1, 4, 9)),
    },
    "flax": {
        "blocks/attention/out/kernel/value": ("matrix", (3, 2, 6, 4), (3, 12, 4)),
        "Embed_0/embedding": ("embedding", (9, 4), (1, 9, 4)),
        "LayerNorm_0/scale": ("gain", (4,), (1, 1, 4)),
    },
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_trees_of_other_libraries(library):
    rows = LIBRARIES[library]
    tree = {path: jnp.zeros(shape) for path, (_, shape, _) in rows.items()}
    found = find_roles(tree, library)
    for path, (kind, _, stack) in rows.items():
        assert (found[path].kind, stack_shape(tree[path], found[path])) == (kind, stack), path
    if library != "flax":
        with pytest.raises(ValueError, match=f"'w/unheard_of'.*not in the table '{library}'"):
            find_roles({"w/unheard_of": jnp.zeros((2, 2))}, library)


def test_a_fused_leaf_is_optimised_as_its_parts():
    """Query, key and value side by side, keys and values narrower."""
    role = Role("matrix", inputs=(0,), outputs=(1,), fused=(8, 4, 4))
    whole = {"qkv": jax.random.normal(jax.random.key(0), (6, 16))}
    apart = dict(zip("qkv", jnp.split(whole["qkv"], (8, 12), axis=1), strict=True))
    a = optim.muon(0.1, roles=declare({"qkv": role}), ns_dtype=None)
    b = optim.muon(0.1, ns_dtype=None)
    state, other = a.init(whole), b.init(apart)
    step, step_apart = jax.jit(a.update), jax.jit(b.update)
    for _ in range(2):
        update, state = step(whole, state, whole)
        parts, other = step_apart(apart, other, apart)
        joined = jnp.concatenate([parts[name] for name in "qkv"], axis=1)
        np.testing.assert_allclose(update["qkv"], joined, atol=1e-6)
    wrong = Role("matrix", inputs=(0,), outputs=(1,), fused=(8, 4))
    with pytest.raises(ValueError, match=r"'qkv'.*fused=\(8, 4\) does not sum to its 16 outputs"):
        find_roles(whole, {"qkv": wrong})


def test_coverage_counts_what_was_found():
    tree = {"up": jnp.ones((3, 4)), "norm": {"scale": jnp.ones(3)}}
    told = "matrix 12 parameters, 1 leaf: up gain 3 parameters, 1 leaf: norm/scale"
    assert coverage(tree).split() == told.split()


def test_a_missing_role_is_refused_by_name():
    with pytest.raises(ValueError, match="'b'.*has no role"):
        find_roles({"a": jnp.zeros(2), "b": jnp.zeros(2)}, {"a": Role("gain", (), (), (0,))})


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'bias' is not one of matrix, embedding, head, gain"):
        Role("bias")
    with pytest.raises(ValueError, match="part 'value' is not one of query, key, bias"):
        Role("matrix", part="value")


def test_a_tree_of_roles_serves_part_of_the_tree():
    params = {"a": {"w": jnp.zeros((3, 4))}, "b": jnp.zeros(2)}
    roles = find_roles(params)
    assert find_roles({"a": params["a"]}, roles) == {"a": roles["a"]}


def test_negative_axes():
    found = find_roles({"w": jnp.zeros((3, 4))}, lambda *_: Role("matrix", (), (-1,), (-2,)))
    assert found["w"] == Role("matrix", (), (1,), (0,))


@pytest.mark.parametrize(
    ("role", "shape", "stack"),
    [
        (QUERY, (2, 8, 4, 3), (2, 8, 12)),
        (OUT, (2, 4, 3, 8), (2, 12, 8)),
        (Role("matrix", (1, 3), (2,), (0,)), (2, 3, 4, 5), (15, 4, 2)),
        (Role("gain", (0,), (), (1,)), (2, 8), (2, 1, 8)),
        (Role("gain"), (), (1, 1, 1)),
    ],
)
def test_stacks_come_back(role, shape, stack):
    x = jnp.arange(np.prod(shape, dtype=int)).reshape(shape)
    assert to_stack(x, role).shape == stack == stack_shape(x, role)
    np.testing.assert_array_equal(from_stack(to_stack(x, role), role, shape), x)


def test_a_stack_holds_the_layers_matrices():
    x = jax.random.normal(jax.random.key(0), (2, 8, 4, 3))
    y = jax.random.normal(jax.random.key(1), (5, 8))
    np.testing.assert_allclose(
        y @ to_stack(x, QUERY)[1], jnp.einsum("bd,dhk->bhk", y, x[1]).reshape(5, 12), rtol=1e-5
    )


def test_equal_shapes_of_all_leaves_are_one_call():
    """Tall and wide matrices of one size go together; results return to their leaves."""
    tree = {
        "blocks": {"up": jnp.ones((2, 4, 6)), "down": 2 * jnp.ones((2, 6, 4))},
        "w": 3 * jnp.ones((4, 4)),
        "v": 4 * jnp.ones((6, 4)),
    }
    calls = []

    def fn(x):
        calls.append(x.shape)
        return 10 * x

    result = map_matrices(fn, tree)
    assert sorted(calls) == [(1, 4, 4), (5, 4, 6)]
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(10 * x, y), tree, result)


def test_a_gain_is_not_a_matrix():
    with pytest.raises(ValueError, match="'bias' is a gain"):
        map_matrices(lambda x: x, {"bias": jnp.ones(3)})


def test_grouped_items_are_cut_apart_again():
    items = [(jnp.full((n, 2), n), jnp.full((n, 3), -n)) for n in (1, 2, 3)]
    items.append((jnp.zeros((1, 5)), jnp.zeros((1, 3))))
    results = map_grouped(lambda x: {"sum": x[0].sum(1) + x[1].sum(1)}, items)
    assert [r["sum"].tolist() for r in results] == [[-1], [-2, -2], [-3, -3, -3], [0]]
