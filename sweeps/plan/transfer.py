"""A study's `transfer`: settings tuned at a base size, carried to the others by scaling rules.

    transfer = {"base": "nano-xs", "rules": {"muon": ["mup", "mup,p=0"]}}

A rule is one of `optim.scaling.RULES`, "mup", or one with its own exponent of independent decay ~
width^-p, "mup,p=0.5". The winners of every optimizer are also carried as they are. What a carried
setting stands for is a point with the hyper-parameter `NAME`, and a run with a `parametrization`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm.config import ConfigError, unknown

NAME = "parametrization"


def complete(given: Any, study: Mapping) -> dict:
    """The checked `transfer` of a study whose sizes and optimizers are complete.

    Raises:
      ConfigError: one line; also where a rule has no answer for an optimizer.
    """
    if not isinstance(given, Mapping) or set(given) != {"base", "rules"}:
        raise ConfigError(f"transfer={given!r} needs base and rules only")
    if given["base"] not in study["sizes"]:
        raise ConfigError(unknown("size in transfer.base", given["base"], study["sizes"]))
    for optimizer, rules in given["rules"].items():
        if optimizer not in study["optimizers"]:
            known = study["optimizers"]
            raise ConfigError(unknown("optimizer in transfer.rules", optimizer, known))
        for rule in rules:
            section(rule, study["sizes"][given["base"]])
    if len(study["seeds"]) < 2:
        raise ConfigError("transfer needs a seed beyond the first, for what is carried")
    return {"base": given["base"], "rules": {o: list(r) for o, r in given["rules"].items()}}


def section(rule: str, base: Mapping[str, Any]) -> dict:
    """The `parametrization` of a run, from a rule's name and the base's model."""
    name, comma, exponent = rule.partition(",p=")
    try:
        own = float(exponent) if comma else -1.0
    except ValueError:
        raise ConfigError(f"transfer: rule {rule!r} is not NAME or NAME,p=NUMBER") from None
    sizes = {n: base[n] for n in ("hidden", "layers", "heads", "mlp")}
    return {"rule": name, "decay_exponent": own, "base": sizes}


def label(given: Mapping[str, Any]) -> str:
    """The inverse of `section`: the rule's name."""
    exponent = given["decay_exponent"]
    return given["rule"] + (f",p={exponent:g}" if exponent >= 0 else "")
