"""Config files: `path/to/file.py:argument` with `--config.a.b=value` overrides, strictly."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from lm.config import ConfigError, canonical, fill, finalise, unknown

OPTIMIZER = (["optimizer", "name"], ["optimizer", "preset"])  # what a whole preset hangs on


def complete(config: Mapping) -> ConfigDict:
    """A run's config with every field there is, typed and locked.

    Raises:
      ConfigError: as `lm.config.fill`.
    """
    import optim

    full = fill(config)
    numbers = optim.spec(**full["optimizer"]).traced
    # ConfigDict keeps a field's type, and a number that happens to be whole may become any other.
    full["optimizer"] |= {k: float(v) for k, v in numbers.items() if isinstance(v, int)}
    return ConfigDict(full).lock()


def load_run(spec: str, overrides: Sequence[str] = ()) -> dict:
    """The finalised run of a config file, the overrides applied to its completed config.

    Another `optimizer.name` or `optimizer.preset` stands for all of that preset's values, on which
    the other overrides act: two presets never mix.

    Raises:
      ConfigError: one line; unknown names come with the nearest known one.
    """
    config = read(spec)
    changes = [parse(override) for override in overrides]
    old = config.get("optimizer", {})
    kept = {k: old[k] for k in ("name", "preset") if k in old}
    new = kept | {path[1]: text for path, text in changes if path in OPTIMIZER}
    if new != kept:
        config["optimizer"] = new
    config = complete(config)
    for path, text in changes:
        assign(config, path, text)
    return finalise(json.loads(canonical(config.to_dict())))


def read(spec: str, **choices) -> dict:
    """`get_config(argument, **choices)` of a config file as a nested dict.

    Modules that lie beside the file can be imported from here on: optimizers by path, for one.
    """
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        raise ConfigError(f"--config={spec}: there is no file {path}")
    sys.path.append(str(Path(path).resolve().parent))
    found = importlib.util.spec_from_file_location("bestiary_config", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    for name in choices:
        if name not in inspect.signature(module.get_config).parameters:
            raise ConfigError(f"--config={spec}: its get_config takes no {name}")
    try:
        config = module.get_config(*[argument] * bool(argument), **choices)
    except ValueError as error:
        raise ConfigError(f"--config={spec}: {error}") from None
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def parse(override: str) -> tuple[list[str], str]:
    """(path, text) of `--config.a.b=text`."""
    path, equals, text = override.partition("=")
    if not equals or not path.startswith("--config."):
        raise ConfigError(f"unknown flag {override!r}; overrides look like --config.train.seed=1")
    return path.removeprefix("--config.").split("."), text


def assign(config: dict | ConfigDict, path: Sequence[str], text: str) -> None:
    """Sets one existing field, in place, to a Python literal or, failing that, to the text."""
    node = config
    for depth, name in enumerate(path):
        if not isinstance(node, dict | ConfigDict):
            raise ConfigError(f"config key {'.'.join(path[:depth])} has no parts")
        if name not in node:
            raise ConfigError(unknown("config key", ".".join(path[: depth + 1]), node))
        node, parent = node[name], node
    if isinstance(node, ConfigDict):
        raise ConfigError(f"config key {'.'.join(path)} is a section: set its fields one by one")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(node, str) and not isinstance(value, str):
        value = text  # a name that happens to be a number
    if isinstance(node, int) and isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        parent[path[-1]] = value
    except (TypeError, OverflowError):
        kind = type(node).__name__
        raise ConfigError(f"{'.'.join(path)}={value!r} is not of type {kind}") from None
