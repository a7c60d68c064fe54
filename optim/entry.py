"""What the catalogue knows about an optimizer: its numbers, its static options, and its two
presets.

All of it is read off the signature of the full alias: positional parameters are hyper-parameters
(traced numbers), keyword-only parameters are options (static), and the signature's defaults are the
`authors` preset. An optimizer file states only what the study does differently.
"""

import difflib
import inspect
import math
import numbers
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optim.assemble import finish
from optim.roles import Role

PRESETS = ("study", "authors")

# Hyper-parameters of the schedule; `steps` None means no decay. See optim/schedules.py.
SCHEDULE = {"warmup": 0, "steps": None, "decay": 1.0, "min_lr_ratio": 0.0}

# Allowed ranges, low <= value <= high, of names that mean the same everywhere.
# "<1" is the half-open interval: a decay rate of exactly 1 never forgets its zero start.
BELOW_ONE = math.nextafter(1.0, 0.0)
BOUNDS = {
    "learning_rate": (0.0, math.inf),
    "beta1": (0.0, BELOW_ONE),
    "beta2": (0.0, BELOW_ONE),
    "momentum": (0.0, BELOW_ONE),
    "warmup": (0, math.inf),
    "steps": (1, math.inf),
    "decay": (0.0, 1.0),
    "min_lr_ratio": (0.0, 1.0),
}


@dataclass(frozen=True)
class Entry:
    """One optimizer in the catalogue.

    alias    the full optimizer, `alias(learning_rate, <numbers>, *, roles=None, <static options>)`.
    study    values of the `study` preset, for numbers and options, where they differ from the
    defaults. schedule the default learning-rate schedule of both presets: "cosine", "linear", "wsd"
    or "constant".
    bounds   {name: (low, high)} for numbers whose range is not the one of BOUNDS or [0, inf).
    flops    (role, leaf, values) -> FLOPs of the leaf's matrix work per step, if there is any.
    """

    alias: Callable
    study: Mapping[str, Any]
    schedule: str = "cosine"
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    flops: Callable[[Role, Any, Mapping[str, Any]], float] | None = None

    def __post_init__(self):
        self.alias.__signature__ = _spelled_out(self.alias)

    @cached_property
    def hyperparameters(self) -> dict[str, float]:
        """Names and defaults (authors) of the numbers, the schedule's too; None is not set."""
        rows = _parameters(self.alias, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        given = {p.name: None if p.default is p.empty else p.default for p in rows}
        return given | SCHEDULE

    @cached_property
    def options(self) -> dict[str, Any]:
        """Names and defaults (authors) of the static options."""
        rows = _parameters(self.alias, inspect.Parameter.KEYWORD_ONLY)
        given = {p.name: p.default for p in rows if p.name != "roles"}
        return given | {"schedule": self.schedule}

    @cached_property
    def types(self) -> dict[str, Any]:
        """Annotated types of the static options."""
        hints = typing.get_type_hints(finish) | typing.get_type_hints(self.alias)
        return hints | {"schedule": typing.Literal["cosine", "linear", "wsd", "constant"]}

    def defaults(self, preset: str) -> dict[str, Any]:
        """Every number and option of a preset."""
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is not one of {', '.join(PRESETS)}")
        both = self.hyperparameters | self.options
        return both | (self.study if preset == "study" else {})

    def range(self, name: str) -> tuple[float, float]:
        """Allowed (low, high) of a number, ends included."""
        return self.bounds.get(name, BOUNDS.get(name, (0.0, math.inf)))

    def check(self, name: str, value: Any):
        """Raise ValueError unless `value` is allowed for the number or option `name`.

        Arrays, tracers and schedules pass: their values are not known here.
        """
        if name in self.hyperparameters:
            if not isinstance(value, numbers.Real) or isinstance(value, bool):
                return _check_array(name, value, none=self.hyperparameters[name] is None)
            low, high = self.range(name)
            if not low <= value <= high or math.isinf(value):
                raise ValueError(f"{name}={value!r} is outside {interval(low, high)}")
        elif name in self.options:
            _check_type(name, value, self.types.get(name, Any))
        else:
            known = [*self.hyperparameters, *self.options]
            raise ValueError(f"{name!r} is not a hyper-parameter or option{nearest(name, known)}")


def nearest(name: str, known) -> str:
    """'; did you mean ...?' or, without a near name, the list of the known ones."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def interval(low: float, high: float) -> str:
    if high == BELOW_ONE:
        return f"[{low:g}, 1)"
    return f"[{low:g}, inf)" if high == math.inf else f"[{low:g}, {high:g}]"


def _parameters(function, kind) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.kind == kind]


def _spelled_out(alias: Callable) -> inspect.Signature:
    """The signature of `alias` with the options of `finish` in place of its `**common`.

    For `help`, for the catalogue, and for `optax.inject_hyperparams`, which cannot pass `**common`.
    """
    signature = inspect.signature(alias)
    own = [p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
    shared = _parameters(finish, inspect.Parameter.KEYWORD_ONLY)
    missing = [p for p in shared if p.name not in signature.parameters]
    return signature.replace(parameters=[*own, *missing])


def _check_array(name, value, none):
    if (value is None and none) or callable(value) or getattr(value, "shape", None) == ():
        return
    raise ValueError(f"{name}={value!r} is not a number, a scalar array or a schedule")


def _check_type(name, value, hint):
    if typing.get_origin(hint) is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")
    elif typing.get_origin(hint) is tuple:
        allowed = typing.get_args(typing.get_args(hint)[0])
        if not isinstance(value, tuple | list) or not set(value) <= set(allowed):
            raise ValueError(f"{name}={value!r} is not a list of {', '.join(allowed)}")
    elif hint is int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} is not a whole number of at least 1")
    elif hint is bool and not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not True or False")
