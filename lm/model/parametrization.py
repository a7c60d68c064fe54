"""A scaling rule applied to a run: its model's multipliers, its start, its optimizer's leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

import optim
from lm.config import base_model
from lm.model import llama
from optim.assemble import Scaling
from optim.roles import path_name, stack_shape


class Parametrized(NamedTuple):
    model: llama.Llama
    init: Callable[[jax.Array], dict]  # of a key
    scaling: Callable[[Any], Scaling]  # of the number of steps, which may be traced


def apply(config: Mapping) -> Parametrized:
    """The model of a finalised config, how it starts, and what its optimizer gives each leaf.

    `parametrization.base` is a run like this one but for the sizes it states. Initial deviations
    are the base's times the rule's multiplier: what the study lets grow with the width besides
    (embedding 1 / D) stays where the base has it.
    """
    module = llama.build(config)
    if "parametrization" not in config:
        return Parametrized(module, lambda key: llama.init(module, key), lambda steps: None)
    given, train, model = config["parametrization"], config["train"], config["model"]
    base, old = given["base"], base_model(config)
    spec = optim.spec(**config["optimizer"])
    sizes = {
        "depth": model["layers"] / old["layers"],
        "batch": train["batch_size"] / (base["batch_size"] or train["batch_size"]),
    }
    parts = optim.scaling.model(
        given["rule"],
        optimizer=spec.name,
        width=model["hidden"] / old["hidden"],
        depth=sizes["depth"],
    )
    blocks = module.blocks._replace(residual=parts["residual"])
    module = module.clone(blocks=blocks, output=parts["output"])
    here, there = _shapes(module), _shapes(llama.build({**config, "model": old}))
    exponent = given["decay_exponent"]

    def leafwise(tokens):
        return optim.scaling.leafwise(
            given["rule"],
            *(spec.name, spec.values, here, there),
            roles=llama.role,
            tokens=tokens,
            decay_exponent=exponent if exponent >= 0 else None,
            **sizes,
        )

    _, stds = leafwise(1.0)

    def init(key):
        def start(key_path, leaf, before):
            role = llama.role(path_name(key_path), leaf)
            own = _std(leaf, role) / _std(before, role)
            return leaf * (stds[path_name(key_path)] / own)

        return jax.tree.map_with_path(start, llama.init(module, key), there)

    def scaling(steps):
        tokens = train["batch_size"] * model["sequence_length"] * steps
        return leafwise(tokens / base["tokens"] if base["tokens"] else 1.0)[0]

    return Parametrized(module, init, scaling)


def _shapes(module: llama.Llama):
    return jax.eval_shape(lambda: llama.init(module, jax.random.key(0)))


def _std(leaf, role: optim.Role) -> float:
    """The deviation that `llama.init` draws a leaf with, but for a constant."""
    _, inputs, outputs = stack_shape(leaf, role)
    return {"matrix": inputs**-0.5, "head": inputs**-0.5, "embedding": 1 / outputs}.get(
        role.kind, 1
    )
