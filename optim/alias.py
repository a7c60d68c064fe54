"""An optimizer as a function: arguments that all share, options one by one, help that shows all."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from optim.assemble import Dtype, Scaling, StateKind, WeightDecay, finish
from optim.entry import Number, may_be_traced
from optim.roles import Kind, in_parts


class Common(TypedDict, total=False):
    """Keyword arguments of every optimizer that it hands on to `optim.assemble.finish`."""

    clipped: tuple[Kind, ...]
    decayed: tuple[Kind, ...]
    weight_decay_kind: WeightDecay
    state_dtypes: Mapping[StateKind, Dtype] | None
    matrix_lr: Number
    embedding_lr: Number
    head_lr: Number
    gain_lr: Number
    scaling: Scaling


NUMBER = "optax.ScalarOrSchedule"  # how help shows `Number`

SHARED = """\
learning_rate: number, array or schedule; a schedule sees 0 at the first update.
weight_decay: decoupled, times the learning rate of the leaf.
max_grad_norm: gradients of the kinds in `clipped` are scaled down to this joint norm; 0 is off.
roles: what each leaf is and what its axes mean, see `optim.roles.find_roles` (static).
clipped, decayed: kinds of leaves that are clipped and that decay (static).
weight_decay_kind: see `optim.assemble.descend` (static).
state_dtypes: storage dtype by kind of state, see `optim.stacks.dtypes` (static).
matrix_lr, embedding_lr, head_lr, gain_lr: further ratio of a kind's learning rate.
scaling: multipliers of each leaf by a scaling rule, see `optim.scaling.leafwise` (static)."""

RETURNS = """\
Returns:
  An `optax.GradientTransformationExtraArgs`, to be used with `optax.apply_updates`; its `update`
  needs `params`.

Raises:
  ValueError: naming a leaf whose role is not known, in `init`; `update` without `params`."""

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
    whole = _listing(rule, {})
    doc = inspect.cleandoc(rule.__doc__)
    whole.__doc__ = doc if "Returns:" in doc else f"{doc}\n\n{RULE.format(name=rule.__name__)}"
    return whole


def takes_common(alias: Callable | None = None, **defaults) -> Callable:
    """Decorates an optimizer that hands its `**common` to `optim.assemble.finish`.

    The signature lists these arguments, with the `defaults` of this optimizer, and the fields of
    its `options` as in `takes_options`; the docstring describes them all.
    """
    if alias is None:
        return functools.partial(takes_common, **defaults)
    own = inspect.signature(alias).parameters
    shared = inspect.signature(finish).parameters.values()
    common = {p.name: p for p in shared if p.kind == p.KEYWORD_ONLY and p.name not in own}
    common |= {name: common[name].replace(default=value) for name, value in defaults.items()}
    whole = _listing(alias, common)
    whole.__doc__ = described(alias, whole.__signature__)
    return whole


def with_defaults(alias: Callable, name: str, about: str, **defaults) -> Callable:
    """An optimizer under another name with other defaults; `about` is what its docstring says
    before its "Args:"."""

    @functools.wraps(alias)
    def other(*args, **kwargs):
        return alias(*args, **(defaults | plain(kwargs)))

    args = alias.__doc__.partition("Args:")[2].replace(f"optim.{alias.__name__}(", f"optim.{name}(")
    changed = [
        p.replace(default=defaults.get(p.name, p.default))
        for p in alias.__signature__.parameters.values()
    ]
    other.__name__ = other.__qualname__ = name
    other.__doc__ = f"{inspect.cleandoc(about)}\n\nArgs:{args}"
    other.__signature__ = Signature(changed)
    return other


def hyperball(alias: Callable, kinds: tuple[Kind, ...] = ("matrix",)) -> Callable:
    """An optimizer with the leaves of some kinds on the hyperball of `optim.sphere`, without decay
    there.

    Args:
      alias: an optimizer that hands its `**common` to `optim.assemble.finish`, as all of `optim`.
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


def _listing(function: Callable, common: Mapping[str, inspect.Parameter]) -> Callable:
    own = inspect.signature(function, eval_str=True).parameters
    start = own["options"].default if "options" in own else None
    fields = inspect.signature(type(start)).parameters.values() if start else ()
    listed = [p for p in own.values() if p.kind != p.VAR_KEYWORD and p.name != "options"]
    listed += [p.replace(kind=p.KEYWORD_ONLY, default=getattr(start, p.name)) for p in fields]
    given = {name: p.default for name, p in common.items()}

    @functools.wraps(function)
    def whole(*args, **kwargs):
        kwargs = given | plain(kwargs)
        changed = {p.name: kwargs.pop(p.name) for p in fields if p.name in kwargs}
        if changed:
            kwargs["options"] = dataclasses.replace(kwargs.get("options", start), **changed)
        tx = function(*args, **kwargs)
        roles = kwargs.get("roles") if common else None
        return tx if roles is None else in_parts(tx, roles)

    whole.__signature__ = Signature([*listed, *common.values()])
    return whole


def described(alias: Callable, signature: inspect.Signature) -> str:
    """The docstring of an optimizer with the arguments that all share, what it returns, and an
    example unless it has one."""
    doc = inspect.cleandoc(alias.__doc__)
    before, _, after = doc.partition("Args:\n")
    args, _, after = after.partition("\n\n")
    told = re.findall(r"\w+", " ".join(re.findall(r"^  (\w[\w,\s]*?):", args, re.M)))
    for line in SHARED.splitlines():
        names = [n for n in line.partition(":")[0].split(", ") if n in signature.parameters]
        if names and not set(names) <= set(told):
            args += f"\n  {line}"
    if "options" in inspect.signature(alias).parameters:
        options = inspect.signature(alias).parameters["options"].default
        args += "\n\n" + inspect.cleandoc(type(options).__doc__)
    parts = [before + "Args:\n" + args, RETURNS]
    if "Example:" not in doc:
        parts.append(EXAMPLE.format(name=alias.__name__))
    return "\n\n".join([*parts, after] if after else parts)
