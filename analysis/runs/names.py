"""Names: the columns that name a cell, how optimizers are spelled and shown, and the reading order.

Column conventions of every table of this room: `optimizer`, `model_size`, `chinchilla_ratio` name a
cell; `loss` is the final validation loss in nats per token; `tokens`, `steps`, `flops`, `seconds`
are totals of a run; hyper-parameters carry the prefix `hp_`.
"""

import difflib
import re

import numpy as np
import pandas as pd

CELL = ["optimizer", "model_size", "chinchilla_ratio"]
RACE = CELL[1:]
BASELINE = "adamw"  # whom speed-ups are measured against unless a study says otherwise

LABELS = {  # in the order in which tables and legends list them
    "adamw": "AdamW",
    "nadamw": "NAdamW",
    "cautious": "Cautious",
    "mars": "Mars",
    "lion": "Lion",
    "adam_mini": "Adam-mini",
    "muon": "Muon",
    "scion": "Scion",
    "kron": "Kron",
    "soap": "SOAP",
    "sophia": "Sophia",
    "ademamix": "AdEMAMix",
    "schedule_free": "Schedule-Free",
    "adamc": "AdamC",
    "adamh": "AdamH",
    "normuon": "NorMuon",
    "adamuon": "AdaMuon",
    "dion": "Dion",
    "muonc": "MuonC",
    "muonh": "MuonH",
    "shampoo": "Shampoo",
    "kl_shampoo": "KL-Shampoo",
    "kl_soap": "KL-SOAP",
}
_ALIASES = {
    "mini": "adam_mini",
    "soape": "soap",
    "soapb": "soap",
    "psgd": "kron",
    "psgdkron": "kron",
    "cautiousadamw": "cautious",
    "cadamw": "cautious",
    "sophiah": "sophia",
    "marsadamw": "mars",
}


def label(optimizer: str) -> str:
    """How an optimizer is shown; one that is not in the catalogue under its own name."""
    return LABELS.get(optimizer, optimizer)


def canonical(name: str) -> str:
    """The catalogue's name for any spelling of an optimizer; unknown names stay as they are."""
    squeezed = re.sub(r"[^a-z0-9]", "", str(name).lower())
    known = {re.sub("_", "", optimizer): optimizer for optimizer in LABELS}
    return known.get(squeezed) or _ALIASES.get(squeezed) or str(name)


def did_you_mean(name: str, known) -> str:
    """`; did you mean muon?` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def ordered(optimizers) -> list[str]:
    """Catalogue order (AdamW first), strangers last by name."""
    names = list(LABELS)
    return sorted(set(optimizers), key=lambda n: (names.index(n) if n in names else len(names), n))


def size_order(table: pd.DataFrame) -> list[str]:
    """Model sizes from small to large by parameter count, or as they first appear without one."""
    sizes = table.drop_duplicates("model_size")
    if "non_embedding_params" in table:
        sizes = sizes.sort_values(["non_embedding_params", "model_size"])
    return list(sizes["model_size"])


def reading_order(table: pd.DataFrame, then=()) -> pd.DataFrame:
    """Rows by size (small first), ratio, optimizer (catalogue order), then `then`."""
    if table.empty:
        return table.reset_index(drop=True)
    optimizers, sizes = ordered(table["optimizer"]), size_order(table)
    keys = pd.DataFrame(
        {
            "size": table["model_size"].map(sizes.index),
            "ratio": table["chinchilla_ratio"],
            "optimizer": table["optimizer"].map(optimizers.index),
            **{name: table[name].map(_sortable) for name in then},
        }
    )
    order = keys.sort_values(list(keys.columns), kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _sortable(value):
    """Numbers by size, everything else after them by name."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, str(value))


def at(row) -> dict:
    """The cell of a row (a named tuple or a mapping) as keyword arguments."""
    if isinstance(row, dict | pd.Series):
        return {name: row[name] for name in CELL}
    return {name: getattr(row, name) for name in CELL}


def cell_name(row) -> str:
    """`muon 130m 8x`."""
    cell = at(row)
    return f"{cell['optimizer']} {cell['model_size']} {cell['chinchilla_ratio']:g}x"


def settings(runs: pd.DataFrame) -> list[str]:
    """The columns that hold hyper-parameters."""
    return [column for column in runs if column.startswith("hp_")]


def same_setting(runs: pd.DataFrame, run) -> pd.Series:
    """Which runs have every hyper-parameter of `run`, absent ones included."""
    run = pd.Series({name: run[name] for name in settings(runs)}, dtype=object)
    names = list(run.index)
    return ((runs[names] == run) | (runs[names].isna() & run.isna())).all(axis=1)
