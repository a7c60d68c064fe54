"""How SOAP and Kron see a leaf: a stack of matrices, cut into blocks with a factor on each side.

A leaf becomes (stack, inputs, outputs) by its role. A side that gets a full (square) factor is cut
into blocks of at most `block_size`; the blocks join the stack, so that they are all one batch.
Unlike levanter's code, a last block that is shorter is not padded: it is a batch of its own shape.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from optim.roles import Role, Roles, find_roles, from_stack, stack_shape, to_stack

Parts = tuple[tuple[int, int], ...]  # (block length, number of such blocks), in order


@dataclass(frozen=True)
class Plan:
    """The cut of one leaf, from static facts only; see `plan`."""

    role: Role
    shape: tuple[int, ...]
    vector: bool  # seen as (stack, 1, features): one side only, the outputs
    inputs: bool  # the inputs have full factors
    outputs: bool  # the outputs have full factors
    rows: Parts
    columns: Parts

    def split(self, leaf: jax.Array) -> list[jax.Array]:
        """The leaf as pieces (stack * blocks, block rows, block columns), one per block shape."""
        x, pieces, top = self._to_matrices(leaf), [], 0
        for height, down in self.rows:
            left = 0
            for width, across in self.columns:
                piece = x[:, top : top + height * down, left : left + width * across]
                piece = piece.reshape(-1, down, height, across, width).transpose(0, 1, 3, 2, 4)
                pieces.append(piece.reshape(-1, height, width))
                left += width * across
            top += height * down
        return pieces

    def join(self, pieces: list[jax.Array]) -> jax.Array:
        """The inverse of `split`."""
        if not pieces:
            return jnp.zeros(self.shape)
        rest, bands = list(pieces), []
        for height, down in self.rows:
            band = []
            for width, across in self.columns:
                piece = rest.pop(0).reshape(-1, down, across, height, width)
                piece = piece.transpose(0, 1, 3, 2, 4)
                band.append(piece.reshape(-1, down * height, across * width))
            bands.append(jnp.concatenate(band, axis=2))
        return self._from_matrices(jnp.concatenate(bands, axis=1))

    def block_shapes(self) -> list[tuple[int, int, int]]:
        """The shapes of the pieces."""
        stack = math.prod(self.shape[axis] for axis in self.role.batch)
        return [
            (stack * down * across, height, width)
            for height, down in self.rows
            for width, across in self.columns
        ]

    def flops(self, products: float, cubes: float) -> float:
        """FLOPs of work on every block and each of its sides with a full factor: `products` times
        height * width * side, and `cubes` times side^3."""
        sides = [
            (number, height * width, side)
            for number, height, width in self.block_shapes()
            for side, full in ((height, self.inputs), (width, self.outputs))
            if full
        ]
        return float(sum(n * (products * area * s + cubes * s**3) for n, area, s in sides))

    def _to_matrices(self, leaf):
        x = to_stack(leaf, self.role)
        if not self.vector:
            return x
        return (x if self._inputs_first() else x.swapaxes(1, 2)).reshape(x.shape[0], 1, -1)

    def _from_matrices(self, x):
        if self.vector:
            stack, fan_in, fan_out = stack_shape(
                jax.ShapeDtypeStruct(self.shape, x.dtype), self.role
            )
            if self._inputs_first():
                x = x.reshape(stack, fan_in, fan_out)
            else:
                x = x.reshape(stack, fan_out, fan_in).swapaxes(1, 2)
        return from_stack(x, self.role, self.shape)

    def _inputs_first(self):
        """levanter's order of a merged matrix: (outputs, inputs), but (vocabulary, features)."""
        return self.role.kind in ("gain", "embedding")


@dataclass(frozen=True)
class TreePlan:
    """The cut of a whole tree. A flat list of its pieces goes through them leaf by leaf."""

    treedef: Any
    plans: tuple[Plan, ...]

    def split(self, tree) -> list[jax.Array]:
        """All pieces of all leaves."""
        rows = zip(self.plans, self.treedef.flatten_up_to(tree), strict=True)
        return [piece for plan, leaf in rows for piece in plan.split(leaf)]

    def join(self, pieces: list[jax.Array]):
        """The inverse of `split`."""
        rows = zip(self.plans, self.treedef.flatten_up_to(self.group(pieces)), strict=True)
        return self.treedef.unflatten([plan.join(mine) for plan, mine in rows])

    def group(self, items: list[Any]):
        """A tree with, for each leaf, the list of the items of its pieces."""
        rest, lists = list(items), []
        for plan in self.plans:
            number = len(plan.rows) * len(plan.columns)
            lists.append(rest[:number])
            rest = rest[number:]
        return self.treedef.unflatten(lists)

    def ungroup(self, tree) -> list[Any]:
        """The inverse of `group`."""
        return [item for items in self.treedef.flatten_up_to(tree) for item in items]

    def make(self, new: Callable[[Plan, tuple[int, int, int]], Any]):
        """`group` of new(plan, block shape) for all pieces."""
        return self.group(
            [new(plan, shape) for plan in self.plans for shape in plan.block_shapes()]
        )


def plan_tree(tree, roles: Roles = None, **options) -> TreePlan:
    """The plan of every leaf; options as in `plan`."""
    leaves, treedef = jax.tree.flatten(tree)
    rows = zip(leaves, treedef.flatten_up_to(find_roles(tree, roles)), strict=True)
    return TreePlan(treedef, tuple(plan(leaf, role, **options) for leaf, role in rows))


def plan(
    leaf,
    role: Role,
    *,
    largest: int,
    vectors: bool,
    block_size: int | None = None,
    merge_toward: int | None = None,
    merge_up_to: int | None = None,
) -> Plan:
    """Decide how a leaf is cut.

    Args:
      leaf: anything with a shape.
      largest: sides longer than this get no full factor and are not cut.
      vectors: gains get a full factor too. Sides of length 1 never do.
      block_size: longest block of a side with a full factor; None does not cut.
      merge_toward: flatten a matrix to a vector where levanter's merging of small dimensions would
        with this target; None never does.
      merge_up_to: flatten a matrix of at most so many entries to a vector; None never does.

    A leaf without entries has no blocks.
    """
    _, fan_in, fan_out = stack_shape(leaf, role)
    merged = fan_in * fan_out <= (merge_up_to or 0)
    merged |= bool(merge_toward and fan_in * fan_out and merges(fan_in, fan_out, merge_toward))
    merged &= role.kind != "gain" and fan_in * fan_out > 0
    inputs, outputs = (1 < side <= largest for side in (fan_in, fan_out))
    if role.kind == "gain":
        inputs, outputs = False, outputs and vectors
    if merged:
        inputs, outputs, fan_in, fan_out = False, inputs or outputs, 1, fan_in * fan_out
    rows = _parts(fan_in, block_size if inputs else None)
    columns = _parts(fan_out, block_size if outputs else None)
    if 0 in leaf.shape:
        rows, columns = (), ()
    vector = role.kind == "gain" or merged
    return Plan(role, tuple(leaf.shape), vector, inputs, outputs, rows, columns)


def merges(fan_in: int, fan_out: int, target: int) -> bool:
    """Whether levanter's `_merge_small_dims` makes one dimension of two (in the study: SOAP toward
    2048, Kron toward 8192; never at its four sizes)."""

    def loss(d):
        if d < target:
            return math.log2(target / d) + 100 * max(0.0, math.log2(target / 8 / d))
        return 10 * math.log2(d / target) + 1000 * max(0.0, math.log2(d / (8 * target)))

    return loss(fan_in * fan_out) < loss(fan_in) + loss(fan_out)


def _parts(length: int, block_size: int | None) -> Parts:
    if not block_size or length <= block_size:
        return ((length, 1),)
    number, rest = divmod(length, block_size)
    return ((block_size, number), (rest, 1)) if rest else ((block_size, number),)
