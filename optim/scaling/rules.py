"""The rules for width and depth, each with its formula, source, validity and contradictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from optim.assemble import WeightDecay
from optim.entry import nearest
from optim.roles import Role
from optim.scaling.sizes import UNSIZED, Leaf, Sides, family_of, measure


@dataclass(frozen=True)
class Multipliers:
    """Of a base's values. `decay` is that of independent decay, learning rate included."""

    learning_rate: float = 1.0
    epsilon: float = 1.0
    decay: float = 1.0
    init_std: float = 1.0


def standard(leaf: Leaf) -> Multipliers:
    """Standard parametrization: nothing moves but the initialisation, std ~ 1 / sqrt(inputs).

    The baseline of arXiv 2512.05620 ("SP"). The study's own initialisation differs: its embedding
    has std 1 / width and its head is drawn like the embedding.
    """
    return Multipliers(init_std=leaf.fan_in_std)


def mup(leaf: Leaf) -> Multipliers:
    """Maximal update parametrization, by optimizer, with independent decay ~ 1 / width.

        family                     learning rate                       epsilon
        adam, grafted to Adam      1 / r_i                             1 / (r_o r_L sqrt(kappa))
        muon                       sqrt(r_o / r_i)                     sqrt(r_i / r_o) / r_L
        adamuon                    1 / r_i                             1 / sqrt(r_i r_o)
        shampoo                    (r_o/r_i)^(1-E) r_L^(1-2E) n^-E     r_i / (r_o r_L^2 n kappa)
        soap, both sides           sqrt(r_o / (r_i n))                 sqrt(r_i / (r_o n)) / r_L
        soap, inputs only          1 / sqrt(r_i n_i)                   sqrt(r_i / n_i) / r_o
        soap, outputs only         sqrt(r_o / n_o) / r_i               1 / sqrt(r_o n_o)

    Init: matrices 1 / sqrt(r_i), head 1 / r_i (the source starts it at 0). Residual branches are
    multiplied by 1 / r_L (`model`); r_L is 1 outside the blocks.

    Source: arXiv 2512.05620; code charliezchen/scaling-matrix-preconditioning at 5a02d4f, train.py
    256-316 (learning rates) and optax_optim (epsilons). Validity: widths 512 to 1536 at 32 layers,
    20 tokens per parameter; depth was not varied in its scaling runs. NorMuon, Scion and Dion have
    Muon's answer because their update has Muon's norm, KL-SOAP has SOAP's; the source did not run
    them.

    Contradictions: the source itself finds that this fails the coordinate check for SOAP and drifts
    for updates of constant RMS, and mends both by a fixed block size or an explicit spectral norm.
    Its branch `fineweb` has no block and depth factors for Shampoo. Its text keeps decay constant
    in width under a fixed budget of FLOPs. CompleteP keeps learning rate times decay constant.
    For AdaMuon its code has the epsilon above, not Adam's.
    """
    ratio = leaf.outputs / leaf.inputs
    if leaf.family == "adam" or leaf.grafted:
        rate = 1 / leaf.inputs
        epsilon = 1 / (leaf.outputs * leaf.block_depth * math.sqrt(leaf.batch))
    elif leaf.family == "muon":
        rate = math.sqrt(ratio) / leaf.own
        epsilon = math.sqrt(1 / ratio) / leaf.block_depth
    elif leaf.family == "adamuon":
        rate, epsilon = 1 / leaf.inputs, 1 / math.sqrt(leaf.inputs * leaf.outputs)
    elif leaf.family == "shampoo":
        total = leaf.exponent * (2 if leaf.sides == "both" else 1)
        rate = ratio ** (1 - total) * leaf.block_depth ** (1 - 2 * total) * leaf.blocks**-total
        epsilon = 1 / (ratio * leaf.block_depth**2 * leaf.blocks * leaf.batch)
    elif leaf.family == "soap":
        rate, epsilon = _soap(leaf, ratio)
    else:
        raise _no_answer("mup", leaf, "its steps are relative to the matrix's norm; see 'hyperp'")
    head = leaf.kind == "head"
    std = 1 / leaf.inputs if head else leaf.fan_in_std
    return Multipliers(rate, epsilon, 1 / leaf.width, std)


def completep(leaf: Leaf) -> Multipliers:
    """CompleteP (alpha = 1): muP for AdamW in width, learning rates independent of depth.

        leaf       learning rate   coupled decay   init std
        matrix     1 / r_i         r_i             1 / sqrt(r_i)
        embedding  1               1               1
        head       1               1               1              (output times 1 / r_w)
        gain       1               0               1

    epsilon 1 / (r_w r_L) for all; residual branches times 1 / r_L (`model`).

    Source: arXiv 2505.01618; code EleutherAI/nanoGPT-mup, branch completep, model.py 113, 165-175,
    223-227, 305-360; head tied to the embedding there. Validity: AdamW, 2 to 128 layers, widths
    from 256; other optimizers are not in it.

    Contradictions: learning rate times decay stays constant here, while 2512.05620 divides it by
    the width. The code scales epsilon for every group by depth, also outside the blocks.
    """
    if leaf.family != "adam":
        raise _no_answer("completep", leaf, "it is derived for AdamW; 'mup' has the same depth")
    matrix = leaf.kind == "matrix"
    rate = 1 / leaf.inputs if matrix else 1.0
    decay = 0.0 if leaf.kind == "gain" else 1.0
    std = leaf.inputs**-0.5 if matrix else 1.0
    return Multipliers(rate, 1 / (leaf.width * leaf.depth), decay, std)


def spectral(leaf: Leaf) -> Multipliers:
    """The spectral condition: weights and updates of spectral norm sqrt(outputs / inputs).

    Learning rate sqrt(r_o / r_i) over the growth of the update's spectral norm: 1 / r_i for Adam
    (its entries are signs), sqrt(r_o / r_i) over its own `scale` for Muon's family, so 1 for Scion
    and Dion ("ratio"). Init std 1 / sqrt(r_i) min(1, sqrt(r_o / r_i)). Epsilon and coupled decay
    stay.

    Source: arXiv 2310.17813, sections 3 and 4, whose deviations nanotron's parametrization.py has
    too; the growth of Muon's update from 2512.05620. Validity: width only, losses without decay.
    Both take an update's stable rank as constant. SOAP, Shampoo and AdaMuon have no known spectral
    norm and are refused: normalise their update first.

    Contradictions: nanotron gives AdamW the paper's rate of SGD, outputs / inputs.
    """
    if leaf.family == "adam":
        rate = 1 / leaf.inputs
    elif leaf.family == "muon":
        rate = math.sqrt(leaf.outputs / leaf.inputs) / leaf.own
    else:
        raise _no_answer("spectral", leaf, "the spectral norm of its update is not known")
    narrow = min(1.0, math.sqrt(leaf.outputs / leaf.inputs))
    std = leaf.fan_in_std * (narrow if leaf.kind in ("matrix", "head") else 1.0)
    return Multipliers(learning_rate=rate, decay=rate, init_std=std)


def hyperp(leaf: Leaf) -> Multipliers:
    """HyperP: depth, batch and duration for matrices on the hyperball, without a width factor.

        optimizer     learning rate                          coupled decay
        muonh, adamh  sqrt(kappa / r_L) tokens^-0.32         0
        muon          sqrt(kappa / r_L)                      1 / r_w for matrices, else 0
        AdamW         sqrt(kappa / r_L), matrices / r_w      1 for matrices, else 0

    r_L is the model's depth for every leaf. Residual branches times 1 / sqrt(r_L); logits of Muon
    and AdamW times 1 / r_w (`model`). Epsilon stays.

    Source: arXiv 2603.28743; code microsoft/ArchScale at c2ec1d6, pretrain.py 311-365, 565-592,
    1183-1222, lit_gpt/model.py 109, 593. Validity: muonh at one base batch, without warm-up, zero
    or fixed head init, to 6e21 FLOPs.

    Contradictions: in ArchScale the width is proportional to the depth on purpose, and its L0 / L
    for matrices and decay stands for 1 / r_w here. Its code calls the usual batch size law wrong
    for muonh. Its head is on the hyperball; ours is under `muonh` as in levanter, too.
    """
    rate = math.sqrt(leaf.batch / leaf.depth)
    matrix = leaf.kind == "matrix"
    if leaf.optimizer in ("muonh", "adamh"):
        return Multipliers(rate * leaf.tokens**-0.32, decay=0.0, init_std=leaf.fan_in_std)
    if leaf.optimizer in ("muon", "muonc"):
        decay = rate / leaf.width if matrix else 0.0
        return Multipliers(rate, decay=decay, init_std=leaf.fan_in_std)
    if leaf.family == "adam":
        rate = rate / leaf.width if matrix else rate
        return Multipliers(rate, decay=rate if matrix else 0.0, init_std=leaf.fan_in_std)
    raise _no_answer("hyperp", leaf, "its source has muonh, Muon and AdamW only")


def moonlight(leaf: Leaf) -> Multipliers:
    """Muon's update at the RMS of AdamW's: 0.2 sqrt(max(inputs, outputs)) times an orthogonal
    matrix, so that learning rate and decay are AdamW's and one for all leaves.

    Learning rate sqrt(max(in, out) over the base's max) over the growth of its own `scale`: 1 with
    scale="rms", which does it in the rule. Everything else stays.

    Source: arXiv 2502.16982, section 2.2. Validity: matches sizes, no transfer is claimed; under
    width it contradicts `mup` and `spectral`, which let the RMS of an update fall.
    """
    if leaf.family not in ("adam", "muon"):
        raise _no_answer("moonlight", leaf, "it matches Muon to AdamW")
    rate = math.sqrt(leaf.longest) / leaf.own if leaf.family == "muon" else 1.0
    return Multipliers(learning_rate=rate, decay=rate, init_std=leaf.fan_in_std)


def _soap(leaf: Leaf, ratio: float) -> tuple[float, float]:
    """Learning rate and epsilon under muP, by the sides that are rotated."""
    if leaf.sides == "inputs":
        rate = (leaf.inputs * leaf.blocks_inputs) ** -0.5
        return rate, math.sqrt(leaf.inputs / leaf.blocks_inputs) / leaf.outputs
    if leaf.sides == "outputs":
        rate = math.sqrt(leaf.outputs / leaf.blocks_outputs) / leaf.inputs
        return rate, (leaf.outputs * leaf.blocks_outputs) ** -0.5
    rate = math.sqrt(ratio / leaf.blocks)
    return rate, math.sqrt(1 / (ratio * leaf.blocks)) / leaf.block_depth


def _no_answer(rule: str, leaf: Leaf, reason: str) -> ValueError:
    reason = UNSIZED.get(leaf.optimizer, reason)
    return ValueError(f"rule {rule!r} has no answer for {leaf.optimizer}: {reason}")


RULES = {
    "standard": standard,
    "mup": mup,
    "completep": completep,
    "spectral": spectral,
    "hyperp": hyperp,
    "moonlight": moonlight,
}


def multipliers(
    rule: str,
    *,
    optimizer: str,
    role: Role,
    shape: Sequence[int],
    base: Sequence[int],
    depth: float = 1.0,
    batch: float = 1.0,
    tokens: float = 1.0,
    weight_decay_kind: WeightDecay = "decoupled",
    scale: str | None = None,
    block_size: int | None = None,
    sides: Sides | None = None,
    exponent: float = 0.25,
    grafted: bool = False,
) -> dict[str, float]:
    """By what to multiply the base's hyper-parameters for one leaf of a larger (or smaller) model.

    Args:
      rule: a name of `RULES`.
      optimizer: a name of the catalogue, or for an optimizer of one's own its family, see
        `optim.scaling.sizes.FAMILIES`.
      role: what the leaf is.
      shape, base: the leaf's shape in this model and in the base, axes as in `role`.
      depth, batch, tokens: number of layers, tokens a step and tokens in all over the base's. Only
        rules whose source says so use the last two; see `budget` for rules of their own.
      weight_decay_kind: the answer is for decay that is multiplied by the learning rate
        ("decoupled", "corrected", "cautious") or not ("independent").
      scale: of optimizers of Muon's family, their own shape factor (`scale_factor`), which is
        divided out; None is "ratio" for Scion and Dion, else "spectral".
      block_size, sides, exponent, grafted: of Shampoo and SOAP: block length, preconditioned sides
        (embedding: outputs, head: inputs, else both), exponent of a factor, norm from Adam.

    Returns:
      {"learning_rate", "epsilon", "weight_decay", "init_std"}. `epsilon` is the one of the rule
      itself: beside Adam's root, in Muon's norm, on the diagonal of Shampoo's factors.

    Raises:
      ValueError: an unknown name, or the reason why the rule has no answer for this optimizer.

    Example:
      >>> import optim
      >>> role = optim.Role("matrix", inputs=(0,), outputs=(1,))
      >>> sizes = {"shape": (1024, 4096), "base": (256, 1024)}
      >>> optim.scaling.multipliers("mup", optimizer="adamw", role=role, **sizes)
      {'learning_rate': 0.25, 'epsilon': 0.25, 'weight_decay': 1.0, 'init_std': 0.5}
    """
    leaf = measure(
        optimizer,
        role,
        shape,
        base,
        depth=depth,
        batch=batch,
        tokens=tokens,
        scale=scale,
        block_size=block_size,
        sides=sides,
        exponent=exponent,
        grafted=grafted,
    )
    if weight_decay_kind not in get_args(WeightDecay):
        known = ", ".join(get_args(WeightDecay))
        raise ValueError(f"weight_decay_kind={weight_decay_kind!r} is not one of {known}")
    found = _named(rule)(leaf)
    coupled = weight_decay_kind != "independent"
    return {
        "learning_rate": found.learning_rate,
        "epsilon": found.epsilon,
        "weight_decay": found.decay and found.decay / (found.learning_rate if coupled else 1.0),
        "init_std": found.init_std,
    }


def model(rule: str, *, optimizer: str, width: float = 1.0, depth: float = 1.0) -> dict[str, float]:
    """Multipliers of the model itself: {"residual", "output"}, of what each residual branch adds
    and of the logits; for a width r_w and depth r_L over the base's.

        rule                            residual       output
        standard, spectral, moonlight   1              1
        mup                             1 / r_L        1   (the head's rate and init do it)
        completep                       1 / r_L        1 / r_w
        hyperp                          1 / sqrt(r_L)  1 / r_w, on the hyperball 1

    Sources as in each rule.

    Raises:
      ValueError: an unknown name.

    Example:
      >>> import optim
      >>> optim.scaling.model("completep", optimizer="adamw", width=4.0, depth=2.0)
      {'residual': 0.5, 'output': 0.25}
    """
    _named(rule)
    on_sphere = family_of(optimizer) == "hyperball"
    residual = {"mup": 1 / depth, "completep": 1 / depth, "hyperp": depth**-0.5}
    output = {"completep": 1 / width, "hyperp": 1.0 if on_sphere else 1 / width}
    return {"residual": residual.get(rule, 1.0), "output": output.get(rule, 1.0)}


def _named(rule: str):
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown{nearest(rule, RULES)}")
    return RULES[rule]
