"""A study's config: loaded, checked, completed, compared with the one on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm import config_file as config_files
from lm.config import HOW, ConfigError, canonical, unknown
from sweeps.plan import rules

REQUIRED = ("name", "sizes", "ratios", "phases", "optimizers", "rule", "seeds", "data", "eval")
OPTIONAL = ("train", "budget", "pack", *HOW)
ENTRY = ("preset", "start", "starts", "grids", "bounds", "phase_two")
BUDGETS = ("trials", "tokens", "flops", "hours")
# What a finished study may not change: its trials would mean something else under the same names.
FIXED = ("name", "data", "eval", "train")


def load(spec: str, overrides: Sequence[str] = ()) -> dict:
    """`get_config` of `path/to/file.py:argument` with `--config.a.b=value` overrides, checked and
    completed.

    Raises:
      ConfigError: one line; unknown names come with the nearest known one.
    """
    study = json.loads(canonical(config_files.load(spec, overrides)))
    return check(study)


def check(study: dict) -> dict:
    """Completes the rule; checks names and shapes. `Study.check` checks the values of trials."""
    for name in study:
        if name not in REQUIRED + OPTIONAL:
            raise ConfigError(unknown("study key", name, REQUIRED + OPTIONAL))
    for name in REQUIRED:
        if name not in study:
            raise ConfigError(f"study key {name!r} is missing")
    mode = study["rule"].get("mode", "published")
    if mode not in rules.RULES:
        raise ConfigError(unknown("rule.mode", mode, rules.RULES))
    for name in study["rule"]:
        if name not in ("mode", *rules.knobs(mode)):
            raise ConfigError(unknown("config key rule.", name, rules.knobs(mode)))
    study["rule"] = json.loads(canonical(rules.values(rules.make(study["rule"]))))
    for name in study.get("budget", {}):
        if name not in BUDGETS:
            raise ConfigError(unknown("config key budget.", name, BUDGETS))
    for phase, settings in study["phases"].items():
        if phase not in ("I", "II", "III"):
            raise ConfigError(unknown("phase", phase, ("I", "II", "III")))
        for size, ratio in settings:
            if size not in study["sizes"]:
                raise ConfigError(unknown(f"size in phases.{phase}", size, study["sizes"]))
            if ratio not in study["ratios"]:
                raise ConfigError(
                    f"phases.{phase}: ratio {ratio:g} is not one of {study['ratios']}"
                )
    cells = [tuple(setting) for settings in study["phases"].values() for setting in settings]
    if twice := [cell for cell in cells if cells.count(cell) > 1]:
        raise ConfigError(f"phases: {twice[0][0]} at ratio {twice[0][1]:g} is listed twice")
    seeds = study["seeds"]
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds={seeds} must be one or more different numbers")
    for optimizer, entry in study["optimizers"].items():
        where = f"optimizers.{optimizer}"
        for name in entry:
            if name not in ENTRY:
                raise ConfigError(unknown(f"config key {where}.", name, ENTRY))
        for part in ("grids", "bounds", "phase_two"):
            for name in entry.get(part, {}):
                if name not in entry["start"]:
                    raise ConfigError(
                        unknown(f"hyper-parameter in {where}.{part}", name, entry["start"])
                    )
        if "batch_size" not in entry["start"]:
            raise ConfigError(f"{where}.start has no batch_size")
    return study


def differences(old: Mapping, new: Mapping, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, old value, new value) of every difference, in a fixed order."""
    for name in sorted({*old, *new}):
        here = f"{path}.{name}" if path else name
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, here)
        elif canonical(a) != canonical(b):
            yield here, a, b


def incompatible(old: Mapping, new: Mapping) -> str | None:
    """Why a study may not continue another's workdir, or None: adding and extending is allowed."""
    for name, a, b in differences(old, new):
        top = name.split(".")[0]
        if top in FIXED or (top == "sizes" and a is not None and b is not None):
            return f"{name} is {a!r} there and {b!r} here"
    return None
