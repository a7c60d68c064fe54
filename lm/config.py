"""A run's config: checked, completed, hashed. Imports no JAX until an optimizer is looked up.

A config has two halves. *What* is trained (`model data train optimizer eval`, and a
`parametrization` where there is one) determines the result, is stored in `config.json` and hashed.
*How* it is trained (`program mesh checkpoint log`) does not, and is not.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

WHAT = ("model", "data", "train", "optimizer", "eval", "parametrization")
HOW = ("program", "mesh", "checkpoint", "log")


class ConfigError(ValueError):
    """One line: the field, its value, what is allowed."""


class Field(NamedTuple):
    """What one config field may hold; bounds are inclusive, `choices` closes the set."""

    kind: type
    default: Any
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()


REQUIRED = object()

# The section `optimizer` is not here: its fields are those of `optim.spec`.
FIELDS: dict[str, dict[str, Field]] = {
    "model": {
        "name": Field(str, REQUIRED),
        "hidden": Field(int, REQUIRED, 2, 65536),
        "layers": Field(int, REQUIRED, 1, 512),
        "heads": Field(int, REQUIRED, 1, 512),
        "mlp": Field(int, REQUIRED, 1, 262144),
        "vocab_size": Field(int, REQUIRED, 2, 2**20),
        "sequence_length": Field(int, REQUIRED, 2, 2**20),
        # The study's early runs let documents see each other; all later ones did not.
        "block_documents": Field(bool, True),
        "separator": Field(int, 256, -1, 2**20),  # -1: the corpus marks no documents
        # What the study's Llama does not have; at these values no part of a run's name.
        "qk_norm": Field(bool, False),
        "post_norm": Field(bool, False),  # a second norm, after each part ("hybrid norm")
        "tied": Field(bool, False),  # the head is the embedding
        "activation": Field(str, "swiglu", choices=("swiglu", "relu2")),
        "kv_heads": Field(int, 0, 0, 512),  # of grouped queries; 0: as many as heads
        "window": Field(int, 0, 0, 2**20),  # positions that attention looks back on; 0: all
    },
    "parametrization": {
        "rule": Field(str, ""),  # of optim.scaling; "": none, and the section is not stored
        "decay_exponent": Field(float, -1.0, -1.0, 10.0),  # p of width^-p; -1: the rule's own
    },
    "data": {  # what is left at its default is not stored
        "corpus": Field(str, ""),
        "fingerprint": Field(str, ""),  # of the corpus, as it must be
        "vocab_size": Field(int, 0, 0, 2**20),  # of a TFDS dataset, which does not say it
        "separator": Field(int, -1, -1, 2**20),  # of a TFDS dataset
    },
    "train": {
        "chinchilla_ratio": Field(float, REQUIRED, 1e-6, 1e6),
        "batch_size": Field(int, REQUIRED, 1, 2**20),
        "steps": Field(int, 0, 0, 2**31 - 1),  # 0: from the ratio
        "seed": Field(int, 0, 0, 2**31 - 1),
        "compute_dtype": Field(str, "float32", choices=("float32", "bfloat16")),
        "z_loss": Field(float, 0.0, 0.0, 1.0),
    },
    "eval": {
        "sequences": Field(int, 256, 1, 2**31 - 1),
        "points": Field(int, 4, 1, 10_000),
    },
    "program": {
        "remat": Field(str, "none", choices=("none", "block", "dots")),
        "unroll": Field(bool, False),
        "attention": Field(str, "auto", choices=("auto", "reference", "cudnn", "splash")),
        "loss_chunks": Field(int, 0, 0, 65536),  # 0: by the logits of one device
        "accumulate": Field(int, 1, 1, 65536),
        "steps_per_call": Field(int, 0, 0, 100_000),  # 0: chosen for the platform
    },
    "mesh": {
        "data": Field(int, -1, -1, 2**20),  # -1: whatever is left
        "model": Field(int, 1, -1, 2**20),
    },
    "checkpoint": {
        "every_steps": Field(int, 0, 0, 2**31 - 1),  # 0: never by step
        "every_minutes": Field(float, 5.0, 0.0, 1e6),  # 0: never by time; at logged lines
        "keep": Field(int, 2, 1, 1000),
        "delete_when_finished": Field(bool, True),
        "grace_seconds": Field(float, 25.0, 0.0, 3600.0),  # from SIGTERM to the end
        # A process of several ends when the others make no progress for so long.
        "patience_seconds": Field(float, 60.0, 1.0, 86_400.0),
    },
    "log": {
        "every_steps": Field(int, 0, 0, 2**31 - 1),  # 0: at most a thousand lines a run
        "tensorboard": Field(bool, False),
        "wandb": Field(str, ""),  # a project name switches it on
        "mlflow": Field(str, ""),  # an experiment's name does
        "profile": Field(str, ""),  # "first:last" steps to trace
    },
}
BASE = {  # the run that a parametrization starts from; 0: the same as in this one
    **{name: FIELDS["model"][name]._replace(default=0, low=0) for name in ("hidden", "layers")},
    **{name: FIELDS["model"][name]._replace(default=0, low=0) for name in ("heads", "mlp")},
    "batch_size": Field(int, 0, 0, 2**20),
    "tokens": Field(float, 0.0, 0.0, 1e30),
}
OPTIONS = ("qk_norm", "post_norm", "tied", "activation", "kv_heads", "window")  # of a model


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The line that answers a misspelt name with its nearest neighbour."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(known)})"


def fill(config: Mapping) -> dict:
    """Every section and field of a run config, each checked by itself; what is missing gets its
    default, an optimizer's numbers those of its preset ("study" if none is named).

    Args:
      config: nested mapping (an ml_collections ConfigDict will do) with the sections of `WHAT` and,
        optionally, `HOW`.
    Raises:
      ConfigError: one line naming the field, its value and what is allowed.
    """
    config = config.to_dict() if hasattr(config, "to_dict") else config
    for name, given in config.items():
        if not isinstance(given, Mapping):
            raise ConfigError(f"config section {name}={given!r} is not a mapping")
        if name not in WHAT + HOW:
            raise ConfigError(unknown("config section", name, WHAT + HOW))
    given = dict(config.get("parametrization", {}))
    base = section("parametrization.base", given.pop("base", {}), BASE)
    sections = {**config, "parametrization": given}
    out = {name: section(name, sections.get(name, {}), FIELDS[name]) for name in FIELDS}
    out["parametrization"]["base"] = base
    out["optimizer"] = _optimizer(config.get("optimizer", {}))
    return out


def finalise(config: Mapping) -> dict:
    """A run config filled, with its fields checked against each other and its steps counted.

    Args, Raises: as `fill`.
    """
    out = fill(config)
    train, model, optimizer = out["train"], out["model"], out["optimizer"]
    out["data"] = {k: v for k, v in out["data"].items() if v != FIELDS["data"][k].default}
    _model_shape(model)
    budget = train["chinchilla_ratio"] * 20 * non_embedding_params(model)
    batch = train["batch_size"] * model["sequence_length"]
    train["steps"] = train["steps"] or int(budget // batch)
    if train["steps"] < 1:
        raise ConfigError(
            f"train.batch_size={train['batch_size']} leaves no step: the budget is {budget:.0f} "
            f"tokens, one batch {batch}"
        )
    if train["batch_size"] % out["program"]["accumulate"]:
        raise ConfigError(
            f"program.accumulate={out['program']['accumulate']} does not divide "
            f"train.batch_size={train['batch_size']}"
        )
    if optimizer["learning_rate"] is None:
        raise ConfigError(
            f"optimizer.learning_rate is missing: preset {optimizer['preset']!r} has no default"
        )
    if optimizer["warmup"] > train["steps"]:
        raise ConfigError(
            f"optimizer.warmup={optimizer['warmup']} is longer than training: "
            f"it must be in [0, {train['steps']}], the run's steps"
        )
    if not out["parametrization"]["rule"]:
        del out["parametrization"]
    else:
        _parametrization(out)
    canonical(what(out))  # a value without canonical form stops here
    return out


def section(path: str, given: Mapping, fields: Mapping[str, Field]) -> dict:
    """A section of a config with all its fields, each checked; what is missing gets its default."""
    for name in given:
        if name not in fields:
            raise ConfigError(unknown(f"config key {path}.", name, fields).replace(". '", ".'"))
    return {
        name: checked(f"{path}.{name}", field, given.get(name, field.default))
        for name, field in fields.items()
    }


def checked(path: str, field: Field, value: Any) -> Any:
    """A field's value, as its type. Raises ConfigError: path, value, what is allowed."""
    if value is REQUIRED:
        raise ConfigError(f"{path} is missing ({field.kind.__name__})")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not field.low <= value <= field.high:
            raise ConfigError(f"{path}={value} is outside [{field.low:g}, {field.high:g}]")
        if field.kind is float or (field.kind is int and value == int(value)):
            value = field.kind(value)
    if not isinstance(value, field.kind) or (field.kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{path}={value!r} is not of type {field.kind.__name__}")
    if field.choices and value not in field.choices:
        raise ConfigError(f"{path}={value!r} is not one of {', '.join(map(str, field.choices))}")
    return value


def _model_shape(model: dict) -> None:
    head_dim, rest = divmod(model["hidden"], model["heads"])
    if model["separator"] < 0 and model["block_documents"]:
        raise ConfigError(
            "model.separator=-1 marks no documents: set model.block_documents=False with it"
        )
    if rest or head_dim % 2:
        raise ConfigError(
            f"model.heads={model['heads']} must divide model.hidden={model['hidden']} "
            "into even head dimensions"
        )
    if model["kv_heads"] and model["heads"] % model["kv_heads"]:
        raise ConfigError(
            f"model.kv_heads={model['kv_heads']} must divide model.heads={model['heads']}"
        )


def _parametrization(config: dict) -> None:
    import optim

    rule, spec = config["parametrization"]["rule"], optim.spec(**config["optimizer"])
    matrix = {"role": optim.Role("matrix", (), (0,), (1,)), "shape": (2, 2), "base": (2, 2)}
    try:
        optim.scaling.multipliers(rule, optimizer=spec.name, **matrix)
        optim.scaling.leafwise(rule, spec.name, spec.values, {}, {})
    except ValueError as error:
        raise ConfigError(f"parametrization: {error}") from None
    _model_shape(base_model(config))


def base_model(config: Mapping) -> dict:
    """The model that a parametrization starts from: the run's own with the base's sizes."""
    base, model = config["parametrization"]["base"], config["model"]
    return {**model, **{name: base[name] for name in base if name in model and base[name]}}


def _optimizer(given: Mapping) -> dict:
    import optim

    if "name" not in given:
        raise ConfigError("optimizer.name is missing")
    try:
        flat = optim.spec(**{"preset": "study"} | {str(k): v for k, v in given.items()}).flat()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if flat.pop("steps") is not None:
        raise ConfigError("optimizer.steps is not set here: the schedule spans train.steps")
    return flat


def non_embedding_params(model: Mapping) -> int:
    """Parameters of the blocks' matrices, the study's N: layers (4 D² + 3 D F).

    Fewer of both with grouped queries and without a gate.
    """
    d, f, heads = model["hidden"], model["mlp"], model["heads"]
    keys = d * (model.get("kv_heads") or heads) // heads
    mlp = 2 if model.get("activation") == "relu2" else 3
    return model["layers"] * (2 * d * d + 2 * d * keys + mlp * d * f)


def total_params(model: Mapping) -> int:
    """All parameters: blocks, norm gains, embedding and, unless tied to it, head."""
    d, layers = model["hidden"], model["layers"]
    gains = ((4 if model.get("post_norm") else 2) * layers + 1) * d
    gains += 2 * layers * (d // model["heads"]) if model.get("qk_norm") else 0
    tables = 1 if model.get("tied") else 2
    return non_embedding_params(model) + gains + tables * model["vocab_size"] * d


def canonical(config: Any) -> str:
    """The one text of a config, the same for every process, Python, key order and number spelling.

    Numbers equal in value are equal in text (1 and 1.0; 1e-3 and 0.001).
    Raises:
      ConfigError: for NaN, infinities and anything that is not a plain number, string, bool, None,
        list or mapping with string keys.
    """
    return json.dumps(_plain(config, ""), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{path}={value} has no canonical form: numbers must be finite")
        return int(value) if value == int(value) else value
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path} has the key {key!r}: keys must be strings")
        return {k: _plain(v, f"{path}.{k}" if path else k) for k, v in value.items()}
    raise ConfigError(f"{path}={value!r} ({type(value).__name__}) has no canonical form")


def what(config: Mapping) -> dict:
    """The half of a finalised config that determines the result, as `config.json` stores it."""
    return {section: config[section] for section in WHAT if section in config}


def config_hash(config: Mapping, *, ours: bool = True) -> str:
    """16 hex digits naming the run: of what is trained, not of how.

    What is off has no part in it, so that a new option renames no old run.

    Args:
      ours: its optimizer is one of the catalogue's; otherwise nothing of JAX is imported.
    """
    off = {"model": {n: FIELDS["model"][n].default for n in OPTIONS}}
    if ours:
        import optim

        off["optimizer"] = optim.OFF
    named = what(config)
    for part, values in off.items():
        given = named[part].items()
        named[part] = {k: v for k, v in given if k not in values or v != values[k]}
    return hashlib.sha256(canonical(named).encode()).hexdigest()[:16]


def program_key(config: Mapping) -> str:
    """Runs with equal keys can share a pack: the same program and number of steps, other numbers
    and seeds.
    """
    import optim

    spec = optim.spec(**config["optimizer"])
    program = {"name": spec.name, "preset": spec.preset, **spec.static}
    train = {k: v for k, v in config["train"].items() if k not in ("seed", "chinchilla_ratio")}
    parts = {**what(config), "optimizer": program, "train": train}
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]
