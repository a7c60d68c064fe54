"""What a rule's file states about its optimizer, and the one check of every value.

An argument of the alias that may be traced is annotated `Number`; every other argument is a static
option. The signature's defaults are the `authors` preset, and `Entry.study` says what the study
does differently: each default number stands once, beside its rule.
"""

import collections.abc
import difflib
import inspect
import numbers
import re
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
SURROUNDINGS = {"weight_decay": 0.1, "max_grad_norm": 1.0, "decayed": ("matrix", "head")}
FLOAT32_MAX = 3.4028235e38
INT32_MAX = 2**31 - 1
BELOW_ONE = 1 - 2**-24  # of float32: a decay rate of exactly 1 never forgets its zero start

# Allowed ranges, both ends included, by name. Decay rates (DECAY_RATE) are below 1, other numbers
# and floats at least 0, other whole numbers at least 1; a default is always allowed.
DECAY_RATE = re.compile(r"(.*_)?(beta\d?|momentum)")
RANGES = {
    "steps": (1, INT32_MAX),
    "decay": (0.0, 1.0),
    "min_lr_ratio": (0.0, 1.0),
    "lr_floor": (0.0, 1.0),
    "auxiliary_decay": (0.0, 1.0),
    "decay_power": (1e-3, 1e3),
    "seed": (0, INT32_MAX),
    "rank_fraction": (1e-3, 1.0),
    "init_eigenvalue": (1e-30, 1e30),
    "preconditioner_update_probability": (0.0, 1.0),
    "update_prob_flat_start": (-FLOAT32_MAX, FLOAT32_MAX),
}

APART = ("roles", "scaling", "weight_decay_mask")  # arguments that no config can hold
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

    @classmethod
    def of(cls, name: str, default: Any, hint: Any) -> "Field":
        """The field of an argument, as its name, default and annotation say."""
        default = None if default is inspect.Parameter.empty else default
        traced = may_be_traced(hint)
        low, high = 0.0, FLOAT32_MAX
        if name in RANGES:
            low, high = RANGES[name]
        elif DECAY_RATE.fullmatch(name):
            high = BELOW_ONE
        elif not traced and int in (hint, *typing.get_args(hint)):
            low, high = 1, INT32_MAX
        if isinstance(default, int | float):
            low, high = min(low, default), max(high, default)
        return cls(default, hint, traced, low, high)

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError, one line, unless the value of the argument `name` is allowed.

        Scalar arrays, tracers and schedules pass as numbers: their values are not known here.
        """
        if not fits(value, self.type) and not (value is None and self.default is None):
            raise ValueError(f"{name}={value!r} is not {words(self.type)}")
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        one_of = typing.get_origin(self.type) is Literal
        if number and not one_of and not self.low <= value <= self.high:
            end = "1)" if self.high == BELOW_ONE else f"{self.high:.10g}]"
            raise ValueError(f"{name}={value!r} is outside [{self.low:.10g}, {end}")


@dataclass(frozen=True)
class Entry:
    """One optimizer in the catalogue.

    alias     the full optimizer, `alias(learning_rate, ..., *, roles=None, ...)`, all annotated.
    study     values of the `study` preset where they differ from `surroundings` and, for the rest,
              from the alias's defaults.
    schedule  the default learning-rate schedule of both presets.
    flops     (role, leaf, values) -> FLOPs of the leaf's matrix work per step, if there is any.
    surroundings  what the study puts around every rule.
    place     (path, array, mesh) -> PartitionSpec of a state array that belongs to no parameter;
              see `optim.state_shardings`.
    version   raised when the rule comes to make other numbers: from 2 on it is a static option of
              every specification, so that a run of the new rule is not taken for one of the old.
    """

    alias: Callable
    study: Mapping[str, Any]
    schedule: Shape = "cosine"
    flops: Callable[[Role, Any, Mapping[str, Any]], float] | None = None
    place: Callable | None = None
    version: int = 1
    surroundings: Mapping[str, Any] = field(default_factory=lambda: SURROUNDINGS)

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Every number and option by name, the schedule's among them: numbers come first."""
        rows = {}
        for p in inspect.signature(self.alias, eval_str=True).parameters.values():
            if p.annotation is p.empty:
                raise ValueError(f"{self.alias.__name__}: argument {p.name!r} has no annotation")
            if p.name not in APART:
                rows[p.name] = (p.default, p.annotation)
        rows |= {name: (default, Number) for name, default in NUMBERS.items()}
        rows |= {"schedule": (self.schedule, Shape)}
        if self.version > 1:
            rows["version"] = self.version, Literal[self.version]
        found = {name: Field.of(name, *row) for name, row in rows.items()}
        return dict(sorted(found.items(), key=lambda item: not item[1].traced))

    def defaults(self, preset: str) -> dict[str, Any]:
        """Every number and option of a preset (of `PRESETS`)."""
        authors = {name: field.default for name, field in self.fields.items()}
        return authors | ({**self.surroundings, **self.study} if preset == "study" else {})

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError, one line, unless `value` is allowed for the argument `name`."""
        if name not in self.fields:
            raise ValueError(
                f"{name!r} is not a hyper-parameter or option{nearest(name, self.fields)}"
            )
        self.fields[name].check(name, value)


def may_be_traced(hint: Any) -> bool:
    """May an argument of this annotation (`Number`, or `ArrayLike` of a bare rule) be an array?"""
    return jax.Array in typing.get_args(hint)


def may_be_scheduled(hint: Any) -> bool:
    """May it be a function of the step too?"""
    return set(typing.get_args(Number)) <= set(typing.get_args(hint))


def fits(value: Any, hint: Any) -> bool:
    """Is the value of the annotated type? Sequences and mappings are looked through."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if may_be_traced(hint):
        if value is None or callable(value):
            return type(None) in args if value is None else may_be_scheduled(hint)
        return fits(value, float) or getattr(value, "shape", None) == ()
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
    kind = {float: numbers.Real, int: numbers.Integral}.get(hint, hint)
    return isinstance(value, kind) and (hint is bool or not isinstance(value, bool))


def words(hint: Any) -> str:
    """What an annotation allows, for error messages."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if may_be_traced(hint):
        scheduled = may_be_scheduled(hint)
        return "a number, a scalar array or a schedule" if scheduled else "a number or scalar array"
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
