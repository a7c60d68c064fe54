"""FLOPs by formula, with the convention stated; peak FLOP/s of known devices.

Convention: two FLOPs per multiply-add of every matrix product of the model, the output head
included and the embedding look-up not; attention scores and values over the causal half only
(`causal=False` counts the full square, as XLA does for the reference attention); backward twice the
forward; recomputation and the optimizer not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm.config import non_embedding_params

# Dense bf16 FLOP/s per chip, from the makers' data sheets.
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def forward_flops_per_token(model: Mapping, *, causal: bool = True) -> float:
    """FLOPs of one token's forward pass in a full sequence."""
    return 2 * non_embedding_params(model) + _head(model) + _attention(model, causal)


def repeated_flops_per_token(config: Mapping, *, causal: bool = True) -> float:
    """What of one token's forward pass the backward pass makes again: the head, if the loss goes in
    chunks, and of the blocks what `program.remat` does not keep.
    """
    model, program = config["model"], config["program"]
    # Nothing in the backward pass asks for a block's last product.
    last = 2 * model["layers"] * model["hidden"] * model["mlp"]
    # Splash's result is kept whatever `remat` says: `attention.KEPT`.
    scores = 0.0 if program["attention"] == "splash" else _attention(model, causal)
    blocks = {"none": 0.0, "dots": scores}
    blocks["block"] = 2 * non_embedding_params(model) + scores - last
    return blocks[program["remat"]] + (_head(model) if program["loss_chunks"] > 1 else 0.0)


def _attention(model: Mapping, causal: bool) -> float:
    length = model["sequence_length"]
    seen = length / 2 if causal else length  # positions, on average
    if causal and 0 < (window := model.get("window", 0)) < length:
        seen = window - window**2 / (2 * length)
    return 4 * model["layers"] * model["hidden"] * seen


def _head(model: Mapping) -> float:
    return 2 * model["hidden"] * model["vocab_size"]


def training_flops(config: Mapping) -> float:
    """Model FLOPs of a whole run, forward and backward, of a finalised config."""
    train, model = config["train"], config["model"]
    tokens = train["steps"] * train["batch_size"] * model["sequence_length"]
    return 3 * forward_flops_per_token(model) * tokens


def peak_flops(device_kind: str) -> float | None:
    """Peak dense bf16 FLOP/s of a device, None if unknown."""
    return by_kind(PEAK, device_kind)


def by_kind(table: Mapping[str, Any], device_kind: str) -> Any | None:
    """The entry of the longest name that `device_kind` begins with, None if there is none."""
    names = [name for name in table if device_kind.lower().startswith(name.lower())]
    return table[max(names, key=len)] if names else None
