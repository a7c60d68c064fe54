"""The study that a store holds: `study.json`, and why a command cannot go on with it."""

from __future__ import annotations

from typing import Any

from lm.storage import Store
from sweeps.plan.study import Study


class Refused(Exception):
    """The study cannot start or go on; one line says why."""


def config_of(store: Store) -> dict[str, Any] | None:
    """The config of the study that a store holds; None where nobody has begun one.

    Raises:
      Refused: it is damaged.
    """
    try:
        config = store.read_json("study.json")
        if not isinstance(config, dict | None):
            raise ValueError("it is no object")
    except ValueError as error:
        raise Refused(f"{store.path('study.json')} cannot be read: {error}") from None
    return config


def begun(store: Store) -> Study:
    """The study that a store holds.

    Raises:
      Refused: there is none, it is damaged, or another version wrote it.
    """
    config = config_of(store)
    if config is None:
        raise Refused(f"{store.address} holds no study; python -m sweeps.run begins one")
    try:
        return Study(config)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Refused(f"{store.path('study.json')} is of another version: {error!r}") from None
