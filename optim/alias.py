"""An optimizer as a function: its rule's arguments and those that all share, in one signature."""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

import optax

from optim.assemble import finish
from optim.entry import Field, Number, may_be_traced, nearest
from optim.roles import Kind, in_parts

BEYOND = ("constrained", "last")  # what wrappers of an optimizer hand to `finish` beside these
NUMBER = "optax.ScalarOrSchedule"  # how help shows `Number`

SHARED = """\
learning_rate: number, array or schedule; a schedule sees 0 at the first update.
weight_decay: decoupled, times the learning rate of the leaf.
max_grad_norm: gradients of the kinds in `clipped` are scaled down to this joint norm; 0 is off.
roles: what each leaf is and what its axes mean, see `optim.roles.find_roles` (static).
clipped, decayed: kinds of leaves that are clipped and that decay (static).
weight_decay_mask: of these only leaves where it is true: see `optim.assemble.of_kinds` (static).
weight_decay_kind: see `optim.assemble.descend` (static).
state_dtypes: storage dtype by kind of state, see `optim.stacks.dtypes` (static).
matrix_lr, embedding_lr, head_lr, gain_lr: further ratio of a kind's learning rate.
scaling: multipliers of each leaf by a scaling rule, see `optim.scaling.leafwise` (static)."""

RETURNS = """\
Returns:
  An `optax.GradientTransformationExtraArgs`, to be used with `optax.apply_updates`; its `update`
  needs `params`.

Raises:
  ValueError: one line, for a value that is not allowed; naming a leaf whose role is not known, in
    `init`; `update` without `params`."""

EXAMPLE = """\
Example:
  >>> import jax, optax, optim
  >>> import jax.numpy as jnp
  >>> params = {{"up": {{"kernel": jnp.eye(2, 3)}}}}
  >>> tx = optim.{name}(learning_rate=0.1)
  >>> updates, state = jax.jit(tx.update)(params, tx.init(params), params)
  >>> jax.tree.map(jnp.shape, optax.apply_updates(params, updates))
  {{'up': {{'kernel': (2, 3)}}}}"""


RULE = """\
Returns:
  An `optax.GradientTransformation` from gradients to the direction of descent, for `optax.chain`.

Example:
  >>> import optax, optim
  >>> import jax.numpy as jnp
  >>> tx = optax.chain(optim.{name}(), optax.scale_by_learning_rate(0.1))
  >>> state = tx.init({{"up": {{"kernel": jnp.eye(2, 3)}}}})"""


@dataclass(frozen=True)
class Static:
    """A static value on its way through `optax.inject_hyperparams`, which would trace an int and
    call a function."""

    value: Any


class Signature(inspect.Signature):
    """The signature of a function with static arguments, which `bind` hides in `Static`.

    So `optax.inject_hyperparams(optim.muon)(learning_rate=...)` needs no `static_args`.
    """

    def bind(self, *args, **kwargs):
        bound = super().bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if not may_be_traced(self.parameters[name].annotation):
                bound.arguments[name] = Static(value)
        return bound

    def given(self, function: str, args, kwargs) -> dict[str, Any]:
        """What a call gives, by name; options may also come together, as `options=`.

        Raises:
          TypeError: an argument that is missing or unknown.
          ValueError: one line, for a value of a wrong type or out of its range.
        """
        kwargs = plain(kwargs)
        options = kwargs.pop("options", None)
        kwargs = (vars(options) if options else {}) | kwargs
        beyond = {name: kwargs.pop(name) for name in BEYOND if name in kwargs}
        for name in kwargs:
            if name not in self.parameters:
                known = nearest(name, self.parameters)
                raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{known}")
        try:
            values = super().bind(*args, **kwargs).arguments
            for name, value in values.items():
                p = self.parameters[name]
                Field.of(name, p.default, p.annotation).check(name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{function}: {error}") from None
        return values | beyond

    def __str__(self):
        text = super().__str__()
        for hint, name in ((Number | None, f"{NUMBER} | None"), (Number, NUMBER)):
            text = text.replace(inspect.formatannotation(hint), name)
        return text


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `Signature.bind` has hidden."""
    return {k: v.value if isinstance(v, Static) else v for k, v in options.items()}


def takes_options(rule: Callable) -> Callable:
    """Decorates a bare rule, `scale_by_NAME`: the fields of its `options`, a dataclass, may be
    given one by one, `scale_by_muon(ns_steps=10)` or `scale_by_muon(options=MINE)`; its docstring
    says what it returns."""
    own = inspect.signature(rule, eval_str=True).parameters
    start = own["options"].default if "options" in own else None
    fields = inspect.signature(type(start)).parameters.values() if start else ()
    listed = [p for p in own.values() if p.name != "options"]
    listed += [p.replace(kind=p.KEYWORD_ONLY, default=getattr(start, p.name)) for p in fields]
    signature = Signature(listed, return_annotation=inspect.signature(rule).return_annotation)

    @functools.wraps(rule)
    def whole(*args, **kwargs):
        values = signature.given(rule.__name__, args, kwargs)
        changed = {p.name: values.pop(p.name) for p in fields if p.name in values}
        options = {"options": dataclasses.replace(start, **changed)} if start else {}
        return rule(**values, **options)

    doc = inspect.cleandoc(rule.__doc__)
    whole.__doc__ = doc if "Returns:" in doc else f"{doc}\n\n{RULE.format(name=rule.__name__)}"
    whole.__signature__ = signature
    whole.options = inspect.cleandoc(type(start).__doc__) if start else None
    return whole


def optimizer(*rules: Callable, **defaults) -> Callable:
    """Decorates a function of (rules..., learning_rate, its own arguments, **common) that returns
    `optim.assemble.finish(...)`: the result is an optimizer.

    Its signature has the arguments of the bare `rules` too, whose numbers may be schedules here,
    and all that `finish` shares; its docstring describes them. The function gets the rules made of
    their arguments, its own arguments, and in `common` what is for `finish`. An argument that it
    names without a default is the rule's or `finish`'s, and in its own hands.

    Args:
      rules: bare rules, decorated by `takes_options`.
      **defaults: where they differ from the rules' and from `finish`'s.
    """

    def decorate(function: Callable) -> Callable:
        takes = [inspect.signature(rule).parameters for rule in rules]
        shared = list(inspect.signature(finish).parameters.values())[2:]  # without rule and rate
        shared = {p.name: p for p in shared if p.name not in ("ratios", *BEYOND)}
        known = shared | {name: _as_number(p) for rows in takes for name, p in rows.items()}
        own = list(inspect.signature(function, eval_str=True).parameters.values())[len(rules) :]
        own = {p.name: p for p in own if p.kind != p.VAR_KEYWORD}
        own = {n: known.get(n, p) if p.default is p.empty else p for n, p in own.items()}
        order = ["learning_rate", *(n for n in known if n not in shared), *own, *shared]
        listed = {n: own.get(n) or known[n] for n in order}
        listed |= {n: listed[n].replace(default=value) for n, value in defaults.items()}
        rows = sorted(listed.values(), key=lambda p: p.kind)
        signature = Signature(rows, return_annotation=optax.GradientTransformationExtraArgs)
        start = {p.name: p.default for p in rows if p.default is not p.empty}

        @functools.wraps(function)
        def whole(*args, **kwargs):
            values = start | signature.given(function.__name__, args, kwargs)
            made = [
                rule(**{n: values[n] for n in names})
                for rule, names in zip(rules, takes, strict=True)
            ]
            rest = {n: v for n, v in values.items() if n in own or n in shared or n in BEYOND}
            tx = function(*made, **rest)
            return tx if values["roles"] is None else in_parts(tx, values["roles"])

        whole.__signature__ = signature
        options = [rule.options for rule in rules if rule.options]
        whole.__doc__ = described(function, signature, options)
        return whole

    return decorate


def with_defaults(alias: Callable, name: str, about: str, **defaults) -> Callable:
    """An optimizer under another name with other defaults; `about` is what its docstring says
    before its "Args:"."""

    rows = alias.__signature__.parameters.values()
    signature = Signature([p.replace(default=defaults.get(p.name, p.default)) for p in rows])

    @functools.wraps(alias)
    def other(*args, **kwargs):
        return alias(**(defaults | signature.given(name, args, kwargs)))

    args = alias.__doc__.partition("Args:")[2].replace(f"optim.{alias.__name__}(", f"optim.{name}(")
    other.__name__ = other.__qualname__ = name
    other.__doc__ = f"{inspect.cleandoc(about)}\n\nArgs:{args}"
    other.__signature__ = signature
    return other


def hyperball(alias: Callable, kinds: tuple[Kind, ...] = ("matrix",)) -> Callable:
    """An optimizer with the leaves of some kinds on the hyperball of `optim.sphere`, without decay
    there.

    Args:
      alias: an optimizer made by `optimizer`, as all of `optim`.
      kinds: of leaves that keep their norm.

    Returns:
      An optimizer with the arguments of `alias`.

    Example:
      >>> import optim
      >>> tx = optim.hyperball(optim.soap)(learning_rate=0.01, block_size=256)

    References:
      Wen et al, `Fantastic Pretraining Optimizers and Where to Find Them II: Hyperball Optimization
      <https://arxiv.org/abs/2606.16899>`_, 2026; see `optim.sphere`.
    """
    decayed = inspect.signature(alias).parameters["decayed"].default

    @functools.wraps(alias)
    def constrained(*args, **kwargs):
        kwargs = plain(kwargs)
        still = tuple(k for k in kwargs.pop("decayed", decayed) if k not in kinds)
        return alias(*args, **kwargs, decayed=still, constrained=kinds)

    return constrained


def _as_number(p: Parameter) -> Parameter:
    """An argument of a bare rule as an optimizer has it: schedules too where it may be an array."""
    if not may_be_traced(p.annotation):
        return p
    optional = type(None) in typing.get_args(p.annotation)
    return p.replace(annotation=Number | None if optional else Number)


def described(function: Callable, signature: Signature, options: Iterable[str]) -> str:
    """The docstring of an optimizer with the arguments that all share, its rules' options, what it
    returns, and an example unless it has one."""
    doc = inspect.cleandoc(function.__doc__)
    before, found, after = doc.partition("\n\nArgs:\n")
    args, _, after = after.partition("\n\n")
    lines = [args] if found else []
    told = re.findall(r"\w+", " ".join(re.findall(r"^  (\w[\w,\s]*?):", args, re.M)))
    for line in SHARED.splitlines():
        names = [n for n in line.partition(":")[0].split(", ") if n in signature.parameters]
        if names and not set(names) <= set(told):
            lines.append(f"  {line}")
    parts = [before, "Args:\n" + "\n".join(lines), *options, RETURNS]
    if "Example:" not in doc:
        parts.append(EXAMPLE.format(name=function.__name__))
    return "\n\n".join([*parts, after] if after else parts)
