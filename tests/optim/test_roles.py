"""Roles are found or refused; leaves become stacks of matrices and come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.roles import Role, default_role, find_roles, from_stack, stack_shape, to_stack
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
