"""Every optimizer by name. Adding one: one file with an `ENTRY`, and one line here."""

from collections.abc import Mapping
from typing import Any

from optim.entry import Entry, nearest
from optim.rules import (
    adam_mini,
    adamw,
    cautious,
    kron,
    lion,
    mars,
    muon,
    nadamw,
    scion,
    soap,
    sophia,
)

CATALOGUE: dict[str, Entry] = {
    "adamw": adamw.ENTRY,
    "nadamw": nadamw.ENTRY,
    "cautious": cautious.ENTRY,
    "mars": mars.ENTRY,
    "lion": lion.ENTRY,
    "adam_mini": adam_mini.ENTRY,
    "muon": muon.ENTRY,
    "scion": scion.ENTRY,
    "kron": kron.ENTRY,
    "soap": soap.ENTRY,
    "sophia": sophia.ENTRY,
}


def get(name: str) -> Entry:
    """The entry of an optimizer; ValueError with the nearest name if there is none."""
    if name not in CATALOGUE:
        raise ValueError(f"optimizer {name!r} is unknown{nearest(name, CATALOGUE)}")
    return CATALOGUE[name]


def defaults(name: str, preset: str = "study") -> dict[str, Any]:
    """All hyper-parameters and options of a preset; a `learning_rate` of None has to be given."""
    return get(name).defaults(preset)


def check(name: str, mapping: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a flat mapping into (hyper-parameters, options), or raise ValueError in one line.

    The error names the field, its value and the allowed range, or the nearest known name.
    Arrays, tracers and schedules are taken as they are; only plain numbers are checked against
    their range.
    """
    entry = get(name)
    for field, value in mapping.items():
        try:
            entry.check(field, value)
        except ValueError as error:
            raise ValueError(f"optimizer {name}: {error}") from None
    warmup, steps = mapping.get("warmup"), mapping.get("steps")
    if isinstance(warmup, int | float) and isinstance(steps, int | float) and warmup > steps:
        raise ValueError(f"optimizer {name}: warmup={warmup!r} is outside [0, steps={steps!r}]")
    hparams = {k: v for k, v in mapping.items() if k in entry.hyperparameters}
    return hparams, {k: v for k, v in mapping.items() if k in entry.options}
