"""Config files: `path/to/file.py:argument` with `--config.a.b=value` overrides, strictly."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from lm.config import ConfigError, unknown


def load(spec: str, overrides: Sequence[str] = ()) -> dict:
    """`get_config(argument)` of a config file as a nested dict, with overrides applied.

    Raises:
      ConfigError: one line; unknown names come with the nearest known one.
    """
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        raise ConfigError(f"--config={spec}: there is no file {path}")
    found = importlib.util.spec_from_file_location("bestiary_config", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    try:
        config = module.get_config(argument) if argument else module.get_config()
    except ValueError as error:
        raise ConfigError(f"--config={spec}: {error}") from None
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    for override in overrides:
        apply(config, override)
    return config


def apply(config: dict, override: str) -> None:
    """Sets one existing field from `--config.a.b=value`; the value is a Python literal or a plain
    string.
    """
    path, equals, text = override.partition("=")
    if not equals or not path.startswith("--config."):
        raise ConfigError(f"unknown flag {override!r}; overrides look like --config.train.seed=1")
    *parents, last = path.removeprefix("--config.").split(".")
    node = config
    for depth, name in enumerate([*parents, last]):
        if not isinstance(node, Mapping):
            raise ConfigError(f"config key {'.'.join(parents[:depth])} has no parts")
        if name not in node:
            raise ConfigError(unknown("config key", ".".join([*parents[:depth], name]), node))
        node = node[name] if depth < len(parents) else node
    try:
        node[last] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        node[last] = text
