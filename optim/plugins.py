"""Optimizers from elsewhere by import path, `package.module:function`; nothing of ours in them.

    # my_opt.py, in the current folder or installed
    def my_sgd(learning_rate, momentum=0.9):
        return optax.sgd(learning_rate, momentum)

Arguments that are floats by annotation or default may be traced, all others are static. A function
that takes `roles` gets them; around any other go clipping, masked decay and schedule, unless its
module says `wrap = False`. The module may state a `search_space`, and say with `state_sharding`
where arrays of its state lie (docs/your-optimizer.md). Installed packages name theirs by entry
points, `[project.entry-points."bestiary.optimizers"]`.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import shutil
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal

import jax
import optax

from optim.assemble import Dtype, Mask, StateKind, clip_by_norm, of_kinds
from optim.entry import BELOW_ONE, FLOAT32_MAX, RANGES, SURROUNDINGS, Entry, Field, Number, nearest
from optim.roles import KINDS, Kind, Roles
from optim.schedules import NUMBERS, scheduled
from optim.stacks.dtypes import in_float32

SPACE = ("start", "grids", "ranges", "of_steps", "static", "wrap")  # keys of `search_space`
MASKS = ("mask", "weight_decay_mask")  # arguments that get the mask of the decayed leaves
OURS = (
    "name",
    "preset",
    "source",
    "around",
    "batch_size",
    "schedule",
    "clipped",
    "decayed",
    "state_dtypes",
)
GROUP = "bestiary.optimizers"
FOLDERS: list[Path] = []  # of kept sources, the latest first


@functools.cache
def registered() -> dict[str, str]:
    """Import paths by name: what installed packages offer under the entry points GROUP."""
    found = importlib.metadata.entry_points(group=GROUP)
    return {point.name: f"{point.module}:{point.attr}" for point in found}


def path_of(name: str) -> str | None:
    """The import path that a name is, or stands for; None if it is neither."""
    return name if ":" in name else registered().get(name)


def look_in(folder: str | Path) -> None:
    """Modules whose source `keep` left in this folder are taken from there, before any other."""
    folder = Path(folder)
    if folder.is_dir() and folder not in FOLDERS:
        FOLDERS.insert(0, folder)
        load.cache_clear()


def keep(names: Iterable[str], folder: str | Path) -> None:
    """Copies the module of each optimizer by path to a folder; installed packages stay where they
    are.
    """
    for path in filter(None, map(path_of, names)):
        file, copy = load(path).file, Path(folder) / f"{path.partition(':')[0]}.py"
        if "site-packages" not in file.parts and file.resolve() != copy.resolve():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


@dataclass(frozen=True)
class Plugin(Entry):
    """The entry of an optimizer by path.

    file    its module.
    digest  of its source, 16 hex digits; the static option `source` of every specification, beside
            `around`, which says what goes around it.
    bounds  {name: (low, high)} of its own numbers.
    space   the module's `search_space`.
    wrap    whether a schedule goes around, and clipping and decay unless it takes roles.
    """

    file: Path = Path()
    digest: str = ""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)
    wrap: bool = True

    @cached_property
    def fields(self) -> dict[str, Field]:
        found = dict(super().fields)
        for name, (low, high) in self.bounds.items():
            if name in found:
                found[name] = found[name]._replace(low=low, high=high)
        if not self.wrap:
            found["schedule"] = found["schedule"]._replace(type=Literal["constant"])
        return found

    def check(self, name: str, value: Any) -> None:
        if name == "source" and value != self.digest:
            raise ValueError(
                f"{self.file} has changed: its digest is {self.digest}, and was {value}"
            )
        super().check(name, value)


@functools.cache
def load(name: str) -> Plugin:
    """The entry of `package.module:function`.

    Raises:
      ValueError: one line, naming the module or function that is missing, what importing it raised,
        or the argument that cannot be used.
    """
    path, _, function_name = name.partition(":")
    try:
        module = _module(path)
        function = getattr(module, function_name, None)
        if not callable(function):
            known = [n for n, v in vars(module).items() if callable(v) and n[0] != "_"]
            raise ValueError(f"{path} has no such function{nearest(function_name, known)}")
        return _entry(module, function)
    except ValueError as error:
        raise ValueError(f"optimizer {name}: {error}") from None


def _module(path: str) -> types.ModuleType:
    kept = next((f for folder in FOLDERS if (f := folder / f"{path}.py").is_file()), None)
    try:
        if kept is None:
            return importlib.import_module(path)
        spec = importlib.util.spec_from_file_location(path, kept)
        module = sys.modules[path] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}."):
            where = "in the current folder or installed"
            raise ValueError(f"there is no module {error.name!r} {where}") from None
        raise ValueError(f"importing {path} raised {first_line(error)}") from None


def first_line(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0].rstrip(":")
    return f"{type(error).__name__}: {first}"


def told(error: Exception) -> str:
    """What an optimizer raised, and where, in one line."""
    return first_line(error) + where(error)


def where(error: Exception) -> str:
    """' (my_opt.py:12)' of the last line outside this repository and JAX, if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    here = str(Path(__file__).parents[1])
    own = [f for f in frames if "site-packages" not in f.filename and here not in f.filename]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def _entry(module: types.ModuleType, function: Callable) -> Plugin:
    space = _space(module)
    wrap = space.get("wrap", getattr(module, "wrap", True))
    own = _arguments(function, wrap)
    for part in ("start", "grids", "ranges"):
        for name in space.get(part, {}):
            if name not in (*own, *NUMBERS, "batch_size", "weight_decay", "max_grad_norm"):
                raise ValueError(f"search_space: no argument {name!r}{nearest(name, own)}")
    file, digest = _source(module, function)
    surrounded = wrap and "roles" not in own
    clips = surrounded and "max_grad_norm" not in own
    decays = surrounded and not any(n.startswith("weight_decay") for n in own if n not in MASKS)
    masks = [name for name in MASKS if name in own] if surrounded else []
    parts = {"clip": clips, "decay": decays, "decay-mask": masks, "schedule": wrap}
    around = "+".join(name for name, given in parts.items() if given) or "nothing"

    def extra(name, default, hint):
        return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)

    static = space.get("static", ())
    hints = {n: _hint(p, n in static) for n, p in own.items() if n not in ("roles", *masks)}
    listed = {n: extra(n, own[n].default, hint) for n, hint in hints.items() if hint is not None}
    listed["learning_rate"] = extra("learning_rate", Parameter.empty, Number)
    bounds = {n: _range(n) for n in listed if n not in (*RANGES, "learning_rate")}
    options = {
        "max_grad_norm": (clips, 0.0, Number),
        "weight_decay": (decays, 0.0, Number),
        "clipped": (clips, KINDS, tuple[Kind, ...]),
        "decayed": (decays or masks, KINDS, tuple[Kind, ...]),
        "state_dtypes": (wrap, None, Mapping[StateKind, Dtype] | None),
        "roles": (True, None, Roles),
        "weight_decay_mask": (decays or masks, None, Mask),
        "source": (True, digest, Literal[digest]),
        "around": (True, around, Literal[around]),
    }
    listed |= {n: extra(n, default, hint) for n, (given, default, hint) in options.items() if given}

    def alias(learning_rate, *, roles=None, weight_decay_mask=None, **values):
        values = {n: v for n, v in values.items() if n not in ("source", "around")}
        if weight_decay_mask is not None and not (decays or masks):
            raise ValueError(f"{function.__name__} itself says what decays: no weight_decay_mask")
        clipped, decayed = values.pop("clipped", KINDS), values.pop("decayed", KINDS)
        max_grad_norm = values.pop("max_grad_norm") if clips else 0.0
        weight_decay = values.pop("weight_decay") if decays else 0.0
        state_dtypes = values.pop("state_dtypes", None)
        theirs = {name: _tuples(value) for name, value in values.items()}
        mask = lambda tree: of_kinds(tree, decayed, roles, weight_decay_mask)  # noqa: E731
        theirs |= dict.fromkeys(masks, mask)
        theirs |= {"roles": roles} if "roles" in own else {}
        for name, value in theirs.items():
            if value is None and name != "roles" and own[name].default is Parameter.empty:
                raise ValueError(f"{function.__name__}: {name} has no default; give it a value")
        if not wrap:
            numbers = getattr(learning_rate, "hparams", {})
            theirs |= {n: numbers[n] for n in NUMBERS if n in own and numbers.get(n) is not None}
            return call(function, getattr(learning_rate, "peak", learning_rate), theirs)

        def make(at):
            rate = at["learning_rate"]

            def decay(updates, params):
                step = lambda u, w, c: u - rate * weight_decay * w if c else u  # noqa: E731
                return jax.tree.map(step, updates, params, mask(updates))

            return optax.chain(
                *[clip_by_norm(max_grad_norm, clipped, roles=roles)] * clips,
                call(function, rate, theirs),
                *[optax.stateless(decay)] * decays,
            )

        at_step = callable(learning_rate)
        numbers = {"learning_rate": learning_rate}
        return in_float32(scheduled(make, numbers) if at_step else make(numbers), state_dtypes)

    # Parameters without a default first, as a signature must be; all are given by keyword.
    alias.__signature__ = inspect.Signature(list(listed.values()))
    surroundings = {n: value for n, value in SURROUNDINGS.items() if options[n][0]}
    study = {}
    if isinstance(rate := own["learning_rate"].default, float):
        study["learning_rate"] = rate
    if not wrap:
        shape = {n: value for n, value in NUMBERS.items() if n != "steps"}
        study |= {n: own[n].default for n in shape if n in own and _plain(own[n].default)}
        bounds |= {n: (value, value) for n, value in shape.items() if n not in own}
    given = {n: v for n, v in space.get("start", {}).items() if n != "batch_size"}
    study |= {n: v for n, v in given.items() if n not in space.get("of_steps", ())}
    bounds |= {"auxiliary_decay": (0.0, 0.0)}  # it gets one learning rate for all
    schedule = "cosine" if wrap else "constant"
    place = getattr(module, "state_sharding", None)
    return Plugin(
        alias,
        study,
        schedule,
        place=place,
        bounds=bounds,
        surroundings=surroundings,
        file=file,
        digest=digest,
        space=space,
        wrap=wrap,
    )


def call(function: Callable, learning_rate: Any, values: Mapping) -> optax.GradientTransformation:
    """What the function returns. Raises ValueError, one line, for anything but a transformation."""
    made = function(learning_rate=learning_rate, **values)
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"{function.__name__} returned {type(made).__name__}, not a GradientTransformation"
        )
    return made


def _space(module: types.ModuleType) -> Mapping[str, Any]:
    space = getattr(module, "search_space", {})
    if not isinstance(space, Mapping):
        raise ValueError(f"search_space={space!r} is not a mapping")
    for key in space:
        if key not in SPACE:
            raise ValueError(f"search_space: unknown key {key!r}{nearest(key, SPACE)}")
    return space


def _arguments(function: Callable, wrap: bool) -> dict[str, Parameter]:
    """The function's own arguments by name. Raises ValueError for names that mean another thing."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # a type that is imported for type checkers only
        signature = inspect.signature(function)
    several = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    own = {n: p for n, p in signature.parameters.items() if p.kind not in several}
    if "learning_rate" not in own:
        raise ValueError(f"it takes no argument 'learning_rate', only {', '.join(own) or 'none'}")
    for name in own:
        if name in OURS or (wrap and name in NUMBERS):
            raise ValueError(
                f"its argument {name!r} means something else here: "
                "call it from a function of your own that names it otherwise"
            )
    return own


def _hint(p: Parameter, static: bool) -> Any:
    """`Number` for what may be traced, the type of a static option, None for what is no value of a
    config (a function, a dtype) and keeps its default.
    """
    required = p.default is Parameter.empty
    default = None if required else p.default
    bare = p.annotation is Parameter.empty or isinstance(p.annotation, str)
    parts = () if bare else _parts(p.annotation)
    if not _plain(default):
        return None
    floats = type(default) is float or (required if bare else float in parts or jax.Array in parts)
    whole = isinstance(default, bool | str | tuple | list) or (
        isinstance(default, int) and (bare or int in parts)
    )
    if floats and not whole and not static:
        return Number if default is not None or required else Number | None
    if typing.get_origin(p.annotation) is Literal:
        return p.annotation
    if parts and set(parts) <= {int, bool, str, type(None)}:
        return p.annotation
    return type(default) if isinstance(default, bool | int | str) else Any


def _parts(hint: Any) -> tuple:
    """The members of a union, of unions within it too."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return sum((_parts(part) for part in typing.get_args(hint)), ())
    return (hint,)


def _range(name: str) -> tuple[float, float]:
    decays = re.fullmatch(r"b(eta)?\d?|momentum", name)
    return (0.0, BELOW_ONE) if decays else (-FLOAT32_MAX, FLOAT32_MAX)


def _plain(value: Any) -> bool:
    """Can a config hold the value?"""
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _source(module: types.ModuleType, function: Callable) -> tuple[Path, str]:
    """The module's file, and the digest of it and of the file that defines the function."""
    places = [module, inspect.unwrap(function)]
    try:
        file, *others = [Path(inspect.getsourcefile(place)) for place in places]
    except (TypeError, OSError):
        raise ValueError("its source cannot be read, which names its runs") from None
    text = b"".join(path.read_bytes() for path in dict.fromkeys([file, *others]))
    return file, hashlib.sha256(text).hexdigest()[:16]
