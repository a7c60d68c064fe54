"""How leaves are cut into blocks, and that merging would change nothing at the study's sizes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.roles import Role, default_role
from optim.stacks.blocks import merges, plan, plan_tree

MATRIX = Role("matrix", (0,), (1,), (2, 3), heads=2)


@pytest.mark.parametrize("block_size", [None, 2, 3, 100])
@pytest.mark.parametrize("largest", [4, 100])
@pytest.mark.parametrize("merge_toward", [None, 2048])
def test_join_inverts_split(block_size, largest, merge_toward):
    x = jnp.arange(2 * 5 * 3 * 4.0).reshape(2, 5, 3, 4)
    options = dict(largest=largest, vectors=True, block_size=block_size, merge_toward=merge_toward)
    cut = plan(x, MATRIX, **options)
    pieces = cut.split(x)
    assert [piece.shape for piece in pieces] == cut.block_shapes()
    np.testing.assert_array_equal(cut.join(pieces), x)


def test_blocks_are_contiguous_and_ordered_by_layer_row_column():
    x = jnp.arange(2 * 4 * 6).reshape(2, 4, 6)
    cut = plan(x, Role("matrix", (0,), (1,), (2,)), largest=9, vectors=False, block_size=2)
    (pieces,) = cut.split(x)
    assert pieces.shape == (2 * 2 * 3, 2, 2)
    np.testing.assert_array_equal(pieces[1 * 6 + 1 * 3 + 0], x[1, 2:4, 0:2])


def test_long_sides_unit_sides_and_gains_have_no_full_factor():
    shapes = {"embed": (30, 6), "mlp/up": (6, 1), "norm/scale": (6,)}
    cuts = {
        vectors: {
            path: plan(leaf, default_role(path, leaf), largest=10, vectors=vectors, block_size=3)
            for path, shape in shapes.items()
            for leaf in [jax.ShapeDtypeStruct(shape, jnp.float32)]
        }
        for vectors in (False, True)
    }
    sides = {path: (cut.inputs, cut.outputs) for path, cut in cuts[False].items()}
    assert sides == {"embed": (False, True), "mlp/up": (True, False), "norm/scale": (False, False)}
    assert cuts[False]["embed"].block_shapes() == [(2, 30, 3)]  # the vocabulary is not cut
    assert cuts[False]["norm/scale"].block_shapes() == [(1, 1, 6)]
    assert cuts[True]["norm/scale"].block_shapes() == [(2, 1, 3)]


def test_a_leaf_without_entries_has_no_blocks():
    x = jnp.ones((0, 4))
    cut = plan(x, Role("matrix", (), (0,), (1,)), largest=9, vectors=True, merge_toward=2048)
    assert cut.split(x) == cut.block_shapes() == []
    assert cut.join([]).shape == (0, 4)


def test_trees_of_pieces():
    tree = {"a": {"kernel": jnp.ones((5, 4))}, "b": {"kernel": jnp.zeros((3, 3))}}
    blocks = plan_tree(tree, largest=9, vectors=False, block_size=3)
    pieces = blocks.split(tree)
    assert [len(items) for items in (blocks.group(pieces)["a"]["kernel"], pieces)] == [4, 5]
    assert all(x is y for x, y in zip(blocks.ungroup(blocks.group(pieces)), pieces, strict=True))
    joined = blocks.join(pieces)
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), joined, tree)))


def grouping(shape, target):
    """The cheapest way to merge neighbouring dimensions, first found first (levanter's rule)."""

    def loss(d):
        small = math.log2(target / d) + 100 * max(0, math.log2(target / 8 / d))
        large = 10 * math.log2(d / target) + 1000 * max(0, math.log2(d / 8 / target))
        return small if d < target else large

    best = None
    for cuts in itertools.product((True, False), repeat=len(shape) - 1):
        merged = [shape[0]]
        for d, cut in zip(shape[1:], cuts, strict=True):
            merged = [*merged, d] if cut else [*merged[:-1], merged[-1] * d]
        if best is None or sum(map(loss, merged)) < best[0]:
            best = sum(map(loss, merged)), merged
    return best[1]


@pytest.mark.parametrize("target", [2048, 8192])
def test_the_studys_merging_leaves_the_matrices_of_the_roles(target):
    for h in (512, 768, 1024, 1536):
        heads = h // 64
        leaves = {
            (heads, 1, 64, h): (h, h),
            (h, heads, 64): (h, h),
            (4 * h, h): (4 * h, h),
            (h, 4 * h): (h, 4 * h),
            (128_256, h): (128_256, h),
        }
        for shape, matrix in leaves.items():
            assert grouping(shape, target) == list(matrix)
            assert not merges(*matrix, target)


def test_merges_small_matrices():
    for shape in itertools.product((4, 16, 64, 200, 512), repeat=2):
        assert merges(*shape, 2048) == (len(grouping(shape, 2048)) == 1)


def test_merged_order_is_outputs_then_inputs_but_as_it_is_for_embeddings():
    x = jnp.arange(6).reshape(2, 3)
    for kind, expected in {"matrix": x.T, "head": x.T, "embedding": x}.items():
        role = Role(kind, (), (0,), (1,))
        cut = plan(x, role, largest=9, vectors=False, merge_toward=2048)
        np.testing.assert_array_equal(cut.split(x)[0].ravel(), expected.ravel())
