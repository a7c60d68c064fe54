"""What a rule's file states about its optimizer, and the one check of every value.

An argument of the alias that may be traced is annotated `Number`; every other argument is a static
option. The signature's defaults are the `authors` preset, and `Entry.study` says what the study
does differently: each default number stands once, beside its rule.
"""

import collections.abc
import difflib
import inspect
import numbers
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import optax

from optim.roles import Role
from optim.schedules import NUMBERS, Shape

Number = optax.ScalarOrSchedule  # may be traced; a function is one of the step
Precision = Literal["default", "high", "highest", "bfloat16", "tensorfloat32", "float32", None]

PRESETS = ("study", "authors")
FLOAT32_MAX = 3.4028235e38
INT32_MAX = 2**31 - 1
BELOW_ONE = 1 - 2**-24  # of float32: a decay rate of exactly 1 never forgets its zero start

# Allowed ranges, both ends included, of names that mean the same everywhere. Other numbers and
# floats are at least 0, other whole numbers at least 1.
RANGES = {
    "beta1": (0.0, BELOW_ONE),
    "beta2": (0.0, BELOW_ONE),
    "momentum": (0.0, BELOW_ONE),
    "steps": (1, INT32_MAX),
    "decay": (0.0, 1.0),
    "min_lr_ratio": (0.0, 1.0),
    "lr_floor": (0.0, 1.0),
    "auxiliary_decay": (0.0, 1.0),
    "decay_power": (1e-3, 1e3),
    "seed": (0, INT32_MAX),
}

# Numbers that every optimizer of the catalogue has and that change nothing at these values: there
# they are no part of a run's identity.
RATES = {"matrix_lr": 1.0, "embedding_lr": 1.0, "head_lr": 1.0, "gain_lr": 1.0}
OFF = RATES | {name: NUMBERS[name] for name in ("lr_floor", "decay_power", "auxiliary_decay")}


class Field(NamedTuple):
    """One argument of an optimizer; a default of None has no value until one is given."""

    default: Any
    type: Any
    traced: bool  # may be an array, a tracer or a schedule; else static
    low: float
    high: float


@dataclass(frozen=True)
class Entry:
    """One optimizer in the catalogue.

    alias     the full optimizer, `alias(learning_rate, ..., *, roles=None, ...)`, all annotated.
    study     values of the `study` preset where they differ from the alias's defaults.
    schedule  the default learning-rate schedule of both presets.
    bounds    {name: (low, high)} for numbers whose range is not the usual one (`RANGES`).
    flops     (role, leaf, values) -> FLOPs of the leaf's matrix work per step, if there is any.
    place     (path, array, mesh) -> PartitionSpec of a state array that belongs to no parameter;
              see `optim.state_shardings`.
    version   raised when the rule comes to make other numbers: from 2 on it is a static option of
              every specification, so that a run of the new rule is not taken for one of the old.
    """

    alias: Callable
    study: Mapping[str, Any]
    schedule: Shape = "cosine"
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    flops: Callable[[Role, Any, Mapping[str, Any]], float] | None = None
    place: Callable | None = None
    version: int = 1

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Every number and option by name, the schedule's among them: numbers come first."""
        rows = {}
        for p in inspect.signature(self.alias, eval_str=True).parameters.values():
            if p.annotation is p.empty:
                raise ValueError(f"{self.alias.__name__}: argument {p.name!r} has no annotation")
            rows[p.name] = (None if p.default is p.empty else p.default, p.annotation)
        rows = {name: row for name, row in rows.items() if name not in ("roles", "scaling")}
        rows |= {name: (default, Number) for name, default in NUMBERS.items()}
        rows |= {"schedule": (self.schedule, Shape)}
        if self.version > 1:
            rows["version"] = self.version, Literal[self.version]
        found = {
            name: Field(default, hint, may_be_traced(hint), *self._range(name, hint))
            for name, (default, hint) in rows.items()
        }
        return dict(sorted(found.items(), key=lambda item: not item[1].traced))

    def _range(self, name: str, hint) -> tuple[float, float]:
        whole = int in (hint, *typing.get_args(hint))
        usual = (1, INT32_MAX) if whole else (0.0, FLOAT32_MAX)
        return self.bounds.get(name, RANGES.get(name, usual))

    def defaults(self, preset: str) -> dict[str, Any]:
        """Every number and option of a preset (of `PRESETS`)."""
        authors = {name: field.default for name, field in self.fields.items()}
        return authors | (self.study if preset == "study" else {})

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError, one line, unless `value` is allowed for the number or option `name`.

        Scalar arrays, tracers and schedules pass as numbers: their values are not known here.
        """
        if name not in self.fields:
            raise ValueError(
                f"{name!r} is not a hyper-parameter or option{nearest(name, self.fields)}"
            )
        default, hint, _, low, high = self.fields[name]
        if not fits(value, hint) and not (value is None and default is None):
            raise ValueError(f"{name}={value!r} is not {words(hint)}")
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if number and typing.get_origin(hint) is not Literal and not low <= value <= high:
            end = "1)" if high == BELOW_ONE else f"{high:.10g}]"
            raise ValueError(f"{name}={value!r} is outside [{low:.10g}, {end}")


def may_be_traced(hint: Any) -> bool:
    """May an argument of this annotation be an array, a tracer or a schedule?"""
    return set(typing.get_args(Number)) <= set(typing.get_args(hint))


def fits(value: Any, hint: Any) -> bool:
    """Is the value of the annotated type? Sequences and mappings are looked through."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(allowed) and value == allowed for allowed in args)
    if origin is tuple:
        return isinstance(value, tuple | list) and all(fits(v, args[0]) for v in value)
    if origin is collections.abc.Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, args[0]) and fits(item, args[1]) for key, item in value.items()
        )
    if origin is collections.abc.Callable:
        return callable(value)
    if args:  # a union
        return any(fits(value, part) for part in args)
    if hint is jax.Array:
        return getattr(value, "shape", None) == () and not isinstance(value, numbers.Number)
    kind = {float: numbers.Real, int: numbers.Integral}.get(hint, hint)
    return isinstance(value, kind) and (hint is bool or not isinstance(value, bool))


def words(hint: Any) -> str:
    """What an annotation allows, for error messages."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if may_be_traced(hint):
        return "a number, a scalar array or a schedule"
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    if origin is tuple:
        return f"a list, each {words(args[0])}"
    if origin is collections.abc.Mapping:
        return f"a mapping from {words(args[0])} to {words(args[1])}"
    if args:
        return " or ".join(map(words, args))
    known = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    return known.get(hint, "None" if hint is type(None) else str(hint))


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' or, without a near name, the list of the known ones."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
