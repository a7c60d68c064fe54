"""How large a leaf is over the base's, and how the size of an optimizer's update follows it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from optim.entry import nearest
from optim.roles import Role, stack_shape
from optim.rules.muons.parts import scale_factor

# How the size of an optimizer's update depends on the shape of its matrix decides its rule.
#   adam       every entry about 1, whatever the shape (also signs, and what is grafted to Adam)
#   muon       every singular value about 1, times the optimizer's own `scale`
#   adamuon    orthogonal, then every entry about 1
#   shampoo    L^-e M R^-e, E = 2e, and what its blocks add
#   soap       Adam in eigenbases: singular values about 1 for an aligned matrix
#   hyperball  a share of the matrix's own norm
#   unsized    see `UNSIZED`
FAMILIES: dict[str, str] = {
    **dict.fromkeys(("adamw", "nadamw", "cautious", "mars", "lion", "adam_mini"), "adam"),
    **dict.fromkeys(("ademamix", "adamc", "schedule_free"), "adam"),
    **dict.fromkeys(("muon", "muonc", "normuon", "scion", "dion"), "muon"),
    **dict.fromkeys(("muonh", "adamh"), "hyperball"),
    **dict.fromkeys(("soap", "kl_soap"), "soap"),
    "adamuon": "adamuon",
    "shampoo": "shampoo",
}
UNSIZED = {  # optimizers whose update no source sizes, and why
    "sophia": "the size of m / h depends on the curvature, which no source scales",
    "kron": "no source gives the size of its whitened update under width",
    "kl_shampoo": "no source gives the size of its update under width",
}
FAMILIES |= dict.fromkeys(UNSIZED, "unsized")
# These apply their own rule to hidden matrices only, and AdamW (Scion: signs) to the rest.
MATRICES_ONLY = ("muon", "muonc", "normuon", "scion", "dion", "adamuon", "kl_soap", "kl_shampoo")
OWN_SCALE = {"scion": "ratio", "dion": "ratio"}  # else "spectral", see optim.rules.muons.parts

Sides = Literal["both", "inputs", "outputs"]


@dataclass(frozen=True)
class Leaf:
    """A leaf's sizes over the base's, and what of its optimizer matters."""

    optimizer: str
    family: str
    kind: str  # of its role
    inputs: float  # r_i; 1 for an embedding, whose rows do not add up
    outputs: float  # r_o; 1 for a head
    depth: float  # r_L of the model
    in_blocks: bool
    batch: float  # kappa
    tokens: float
    own: float  # by what the optimizer's own `scale` grows
    longest: float  # the longer side
    blocks_inputs: float  # n_i, preconditioner blocks along the inputs
    blocks_outputs: float  # n_o
    sides: Sides  # that are preconditioned
    exponent: float  # of each factor of Shampoo
    grafted: bool

    @property
    def width(self) -> float:
        """r_w: the side that grows with the model's width."""
        return self.outputs if self.kind in ("embedding", "gain") else self.inputs

    @property
    def block_depth(self) -> float:
        """r_L inside the blocks, 1 outside."""
        return self.depth if self.in_blocks else 1.0

    @property
    def blocks(self) -> float:
        return self.blocks_inputs * self.blocks_outputs

    @property
    def fan_in_std(self) -> float:
        """1 / sqrt(r_i) for matrices and heads, 1 for embeddings and gains."""
        return self.inputs**-0.5 if self.kind in ("matrix", "head") else 1.0


def measure(
    optimizer: str,
    role: Role,
    shape: Sequence[int],
    base: Sequence[int],
    *,
    scale: str | None,
    block_size: int | None,
    sides: Sides | None,
    **others,
) -> Leaf:
    """The sizes of a leaf; arguments as in `optim.scaling.rules.multipliers`."""
    family = family_of(optimizer)
    if len(shape) != len(base):
        raise ValueError(f"shape={tuple(shape)} and base={tuple(base)} have other numbers of axes")
    new, old = (_ShapeOnly(tuple(s)) for s in (shape, base))
    (_, *lengths), (_, *before) = stack_shape(new, role), stack_shape(old, role)
    inputs, outputs = (a / b for a, b in zip(lengths, before, strict=True))
    kind = role.kind
    if kind == "gain" or (kind != "matrix" and optimizer in MATRICES_ONLY):
        family = "adam"
    if kind == "embedding" and family == "hyperball":
        family = "adam"
    scale = scale or OWN_SCALE.get(optimizer, "spectral")
    sides = sides or {"embedding": "outputs", "head": "inputs"}.get(kind, "both")

    def count(side, name):
        return math.ceil(side / block_size) if block_size and sides in ("both", name) else 1

    columns = zip(lengths, before, ("inputs", "outputs"), strict=True)
    blocks = [count(a, name) / count(b, name) for a, b, name in columns]
    return Leaf(
        optimizer,
        family,
        kind,
        inputs=1.0 if kind in ("embedding", "gain") else inputs,
        outputs=1.0 if kind == "head" else outputs,
        in_blocks=kind == "matrix" or (kind == "gain" and bool(role.batch)),
        own=scale_factor(new, role, scale) / scale_factor(old, role, scale),
        longest=max(lengths) / max(before),
        blocks_inputs=blocks[0],
        blocks_outputs=blocks[1],
        sides=sides,
        **others,
    )


class _ShapeOnly(NamedTuple):
    shape: tuple[int, ...]


def family_of(optimizer: str) -> str:
    """The family of an optimizer's name, or the name itself if it is one of a family."""
    if optimizer in FAMILIES.values():
        return optimizer
    if optimizer not in FAMILIES:
        raise ValueError(f"optimizer {optimizer!r} is unknown{nearest(optimizer, FAMILIES)}")
    return FAMILIES[optimizer]
