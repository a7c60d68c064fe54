"""A study's config: loaded, completed, checked whole, compared with the one on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm.config import FIELDS, HOW, ConfigError, Field, canonical, checked, section, unknown
from lm.config_file import assign, parse, read
from sweeps.plan import rules, transfer

TRIALS = ("chinchilla_ratio", "batch_size", "steps", "seed")  # of a trial, not of its study
SECTIONS: dict[str, dict[str, Field]] = {
    **{name: FIELDS[name] for name in ("data", "eval", *HOW)},
    "train": {name: field for name, field in FIELDS["train"].items() if name not in TRIALS},
    "budget": dict.fromkeys(("trials", "tokens", "flops", "hours"), Field(float, 0.0, 0.0, 1e30)),
    "pack": {"width": Field(int, 16, 1, 4096)},  # most runs in one program
}
MODEL = {name: field for name, field in FIELDS["model"].items() if name != "name"}
OWN = ("name", "sizes", "ratios", "phases", "optimizers", "rule", "seeds")
# told: trials are trained elsewhere, see sweeps.race; transfer: see sweeps.plan.transfer
MORE = ("baseline", "told", "transfer")
ENTRY = ("preset", "source", "start", "starts", "grids", "bounds", "phase_two")
# What a finished study may not change: its trials would mean something else under the same names.
FIXED = ("name", "data", "eval", "train", "told")


def load(spec: str, overrides: Sequence[str] = (), optimizers: Sequence[str] = ()) -> dict:
    """The study of `path/to/file.py:argument`, with `--config.a.b=value` overrides of any field.

    With `optimizers`, names or import paths, it races those instead of its own.

    Another `rule.mode` stands for that rule's own knobs, on which the other overrides act.

    Raises:
      ConfigError: one line; unknown names come with the nearest known one.
    """
    config = read(spec, **({"optimizers": tuple(optimizers)} if optimizers else {}))
    changes = [parse(override) for override in overrides]
    for mode in [value for path, value in changes if path == ["rule", "mode"]]:
        kept = {n: v for n, v in config.get("rule", {}).items() if n in rules.SHARED}
        config["rule"] = {"mode": mode, **kept}
    config = complete(config)
    for path, value in changes:
        if path[0] == "rule" and len(path) == 2:
            _check_knob(path[1], config["rule"]["mode"])
        assign(config, path, value)
    return complete(config)


def complete(config: Any) -> dict:
    """A study with every field there is, each checked by itself; a plain dict, ready for JSON.

    `Study.check` checks the values of its trials.

    Args:
      config: a mapping or a ConfigDict.
    Raises:
      ConfigError: one line naming the field, its value and what is allowed.
    """
    config = config.to_dict() if hasattr(config, "to_dict") else config
    config = json.loads(canonical(config))
    for name in config:
        if name not in (*OWN, *SECTIONS, *MORE):
            raise ConfigError(unknown("study key", name, (*OWN, *SECTIONS, *MORE)))
    for name in OWN:
        if name not in config:
            raise ConfigError(f"study key {name!r} is missing")
    out = {"name": checked("name", Field(str, ""), config["name"])}
    for name, fields in SECTIONS.items():
        out[name] = section(name, _mapping(name, config.get(name, {})), fields)
    out["sizes"] = {
        size: section(f"sizes.{size}", _mapping(f"sizes.{size}", given), MODEL)
        for size, given in _mapping("sizes", config["sizes"]).items()
    }
    out["ratios"] = _each("ratios", Field(float, 1.0, 1e-6, 1e6), config["ratios"])
    out["phases"] = _phases(config["phases"], out["sizes"], out["ratios"])
    out["rule"] = _rule(_mapping("rule", config["rule"]))
    out["seeds"] = _each("seeds", Field(int, 0, 0, 2**31 - 1), config["seeds"])
    if not out["seeds"] or len(set(out["seeds"])) != len(out["seeds"]):
        raise ConfigError(f"seeds={out['seeds']} must be one or more different numbers")
    optimizers = _mapping("optimizers", config["optimizers"])
    out["optimizers"] = {name: _entry(f"optimizers.{name}", e) for name, e in optimizers.items()}
    if config.get("transfer"):
        out["transfer"] = transfer.complete(config["transfer"], out)
    out["told"] = checked("told", Field(bool, False), config.get("told", False))
    if not optimizers:
        raise ConfigError("optimizers names none")
    usual = "adamw" if "adamw" in optimizers else next(iter(optimizers))
    out["baseline"] = config.get("baseline", usual)
    if out["baseline"] not in optimizers:
        raise ConfigError(unknown("optimizer in baseline", out["baseline"], optimizers))
    return out


def _mapping(path: str, value: Any) -> Mapping:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}={value!r} is not a mapping")
    return value


def _each(path: str, field: Field, values: Any) -> list:
    """A list of values, each checked."""
    if not isinstance(values, list):
        raise ConfigError(f"{path}={values!r} is not a list")
    return [checked(f"{path}[{i}]", field, value) for i, value in enumerate(values)]


def _phases(given: Any, sizes: Mapping, ratios: Sequence[float]) -> dict:
    out = {phase: [] for phase in rules.PHASES}
    for phase, settings in _mapping("phases", given).items():
        if phase not in out:
            raise ConfigError(unknown("phase", phase, out))
        for setting in _each(f"phases.{phase}", Field(list, []), settings):
            if len(setting) != 2:
                raise ConfigError(f"phases.{phase}: {setting!r} is not [size, ratio]")
            size, ratio = setting
            if size not in sizes:
                raise ConfigError(unknown(f"size in phases.{phase}", size, sizes))
            if ratio not in ratios:
                raise ConfigError(f"phases.{phase}: ratio {ratio!r} is not one of {ratios}")
            if any(setting in others for others in out.values()):
                raise ConfigError(f"phases: {size} at ratio {ratio:g} is listed twice")
            out[phase].append(setting)
    return out


def _rule(given: Mapping) -> dict:
    mode = given.get("mode", "published")
    if mode not in rules.RULES:
        raise ConfigError(unknown("rule.mode", mode, rules.RULES))
    knobs = rules.knobs(mode)
    for name in given:
        _check_knob(name, mode)
    many = {n: field for n, field in knobs.items() if isinstance(field.default, tuple)}
    lists = {n: _each(f"rule.{n}", f, given.get(n, list(f.default))) for n, f in many.items()}
    single = {n: v for n, v in given.items() if n != "mode" and n not in many}
    rest = section("rule", single, {n: f for n, f in knobs.items() if n not in many})
    looks = lists.get("looks", [1])
    if sorted(set(looks)) != looks or not looks:
        raise ConfigError(f"rule.looks={looks} must grow from look to look")
    return {"mode": mode, **rest, **lists}


def _check_knob(name: str, mode: str) -> None:
    known = ("mode", *rules.knobs(mode))
    of = next((other for other in rules.RULES if name in rules.knobs(other)), None)
    if name not in known and of:
        raise ConfigError(f"rule.{name} belongs to rule.mode={of!r}, not to {mode!r}")
    if name not in known:
        raise ConfigError(unknown("config key rule.", name, known))


def _entry(path: str, given: Any) -> dict:
    """One optimizer: its starting points, what is searched, and how far grids may grow."""
    for name in _mapping(path, given):
        if name not in ENTRY:
            raise ConfigError(unknown(f"config key {path}.", name, ENTRY))
    entry = {"preset": given.get("preset", "study")}
    if "source" in given:  # of an optimizer by import path
        entry["source"] = checked(f"{path}.source", Field(str, ""), given["source"])
    for part in ENTRY[2:]:
        entry[part] = dict(_mapping(f"{path}.{part}", given.get(part, {})))
    if "batch_size" not in entry["start"]:
        raise ConfigError(f"{path}.start has no batch_size")
    for part in ("grids", "bounds", "phase_two"):
        for name, value in entry[part].items():
            if name not in entry["start"]:
                raise ConfigError(
                    unknown(f"hyper-parameter in {path}.{part}", name, entry["start"])
                )
            if part != "phase_two" and not (isinstance(value, list) and value):
                raise ConfigError(f"{path}.{part}.{name}={value!r} is not a list of values")
    for name, values in entry["bounds"].items():
        low, *high = _each(f"{path}.bounds.{name}", Field(float, 0.0), values)
        if len(high) != 1 or not low < high[0]:
            raise ConfigError(f"{path}.bounds.{name}={values} is not [lowest, highest]")
    return entry


def own_grids(config: Mapping) -> Iterator[str]:
    """A line for each hyper-parameter of each optimizer by import path: its start and its grid."""
    for optimizer, entry in config["optimizers"].items():
        for name, value in entry["start"].items() if "source" in entry else ():
            grid = ", ".join(f"{v:g}" for v in entry["grids"].get(name, []))
            yield f"{optimizer}: {name} from {value}" + (f", grid {grid}" if grid else ", fixed")


def differences(old: Mapping, new: Mapping, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, old value, new value) of every difference, in a fixed order."""
    for name in sorted({*old, *new}):
        here = f"{path}.{name}" if path else name
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, here)
        elif canonical(a) != canonical(b):
            yield here, a, b


def changes(old: Mapping, new: Mapping) -> list[tuple[str, Any, Any]]:
    """The differences that say another study; how packs are trained, and at what cost, does not."""
    free = ("pack", "budget", "baseline", *HOW)
    old = {**old, "rule": _rule(old.get("rule", {}))}  # a knob that came later was at its default
    return [change for change in differences(old, new) if change[0].split(".")[0] not in free]


def other(old: Mapping, new: Mapping) -> str | None:
    """The first difference that says another study, in words."""
    return next((f"{n} is {a!r} there and {b!r} here" for n, a, b in changes(old, new)), None)


def incompatible(old: Mapping, new: Mapping) -> str | None:
    """Why a study may not continue another's workdir, or None: adding and extending is allowed."""
    for name, a, b in differences(old, new):
        top = name.split(".")[0]
        if top == "optimizers" and name.endswith(".source") and a and b:
            return f"the source of {name[11:-7]} has changed (digest {a} there, {b} here)"
        if top in FIXED or (top == "sizes" and a is not None and b is not None):
            return f"{name} is {a!r} there and {b!r} here"
    return None
