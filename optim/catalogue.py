"""Every optimizer by name, and its specification: checked once, then built.

Adding one: one file with an `ENTRY` in `optim/rules`, and one line here. (`optim.entry` is a file
of its own because every rule imports it, and this file imports every rule.) One that lives
elsewhere needs neither: its name is its import path (`optim.plugins`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import optax

from optim import plugins
from optim.assemble import Mask, Scaling
from optim.entry import PRESETS, Entry, nearest
from optim.roles import Roles
from optim.rules import (
    adam_mini,
    adamc,
    adamh,
    adamw,
    ademamix,
    cautious,
    lion,
    mars,
    nadamw,
    schedule_free,
    sophia,
)
from optim.rules.muons import adamuon, dion, muon, muonc, muonh, normuon, scion
from optim.rules.shampoos import kl, kron, shampoo, soap
from optim.schedules import NUMBERS, Schedule, scheduled

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
    "ademamix": ademamix.ENTRY,
    "schedule_free": schedule_free.ENTRY,
    "adamc": adamc.ENTRY,
    "adamh": adamh.ENTRY,
    "normuon": normuon.ENTRY,
    "adamuon": adamuon.ENTRY,
    "dion": dion.ENTRY,
    "muonc": muonc.ENTRY,
    "muonh": muonh.ENTRY,
    "shampoo": shampoo.ENTRY,
    "kl_shampoo": kl.KL_SHAMPOO,
    "kl_soap": kl.KL_SOAP,
}


def get(name: str) -> Entry:
    """The entry of an optimizer: by its name here or in a package that registers it, or by import
    path (`package.module:function`).

    Raises:
      ValueError: one line, with the nearest name; for a path as `optim.plugins.load`.
    """
    if is_plugin(name):
        return plugins.load(plugins.path_of(name))
    if name not in CATALOGUE:
        raise ValueError(f"optimizer {name!r} is unknown{nearest(name, names())}")
    return CATALOGUE[name]


def is_plugin(name: str) -> bool:
    """Does the optimizer lie elsewhere? A name of ours is never another's."""
    return name not in CATALOGUE and plugins.path_of(name) is not None


def names() -> list[str]:
    """Ours, then those of installed packages."""
    return list(dict.fromkeys([*CATALOGUE, *plugins.registered()]))


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer with every number and option; made, completed and checked by `spec`, where the
    Example is."""

    name: str
    preset: str
    values: Mapping[str, Any]

    def flat(self) -> dict[str, Any]:
        """One flat mapping, as a config stores it: `spec(**spec.flat())` is this spec again."""
        return {"name": self.name, "preset": self.preset, **self.values}

    @property
    def traced(self) -> dict[str, Any]:
        """The numbers that have a value: what `build` also takes as arrays or tracers."""
        fields = get(self.name).fields
        return {k: v for k, v in self.values.items() if fields[k].traced and v is not None}

    @property
    def static(self) -> dict[str, Any]:
        """All that the program itself depends on: the options, and the numbers without a value."""
        traced = self.traced
        return {k: v for k, v in self.values.items() if k not in traced}

    def build(
        self,
        *,
        roles: Roles = None,
        scaling: Scaling = None,
        weight_decay_mask: Mask = None,
        **traced,
    ) -> optax.GradientTransformationExtraArgs:
        """The whole optimizer: clip, rule, decay with its mask, schedule.

        Args:
          roles: what each leaf is, see `optim.roles.find_roles`; None finds Flax names.
          scaling: each leaf's multipliers by a scaling rule, see `optim.scaling.leafwise`.
          weight_decay_mask: of the leaves whose kind decays only those where it is true; a tree of
            bools or a function, see `optim.assemble.of_kinds`.
          **traced: numbers, scalar arrays, tracers or schedules in the place of the spec's own;
            `steps`, `warmup`, `decay`, `min_lr_ratio` shape the schedule. Without `steps` the
            learning rate is constant after warm-up.

        Raises:
          ValueError: in one line, with field, value and allowed range or nearest name.

        It may be built inside `jit` or `vmap`; `init` uses none of the numbers. The loop should
        pass `value=` and `grad_fn=` to `update`: rules that need more than gradients take them
        from there.
        """
        fields = get(self.name).fields
        for field in traced:
            if field in fields and not fields[field].traced:
                raise ValueError(f"optimizer {self.name}: {field} is static: give it to `spec`")
        check(self.name, traced)
        values = {**self.values, **traced}
        if values["learning_rate"] is None:
            raise ValueError(
                f"optimizer {self.name}: learning_rate has no default in preset {self.preset!r}"
            )
        shape = {name: values.pop(name) for name in ("learning_rate", *NUMBERS)}
        schedule = Schedule(shape, values.pop("schedule"))
        values.pop("version", None)
        moving = {k: v for k, v in values.items() if fields[k].traced and callable(v)}

        around = {"roles": roles} | ({"scaling": scaling} if scaling else {})
        around |= {} if weight_decay_mask is None else {"weight_decay_mask": weight_decay_mask}
        if scaling and is_plugin(self.name):
            raise ValueError(
                f"optimizer {self.name}: scaling rules know the catalogue's names only"
            )

        def make(moved):
            return get(self.name).alias(schedule, **around, **{**values, **moved})

        return scheduled(make, moving) if moving else make({})


def check(name: str, values: Mapping[str, Any]) -> None:
    """Raises ValueError, one line, for the first of `values` that the optimizer does not allow."""
    entry = get(name)
    try:
        for field, value in values.items():
            entry.check(field, value)
    except ValueError as error:
        raise ValueError(f"optimizer {name}: {error}") from None
    warmup, steps = values.get("warmup"), values.get("steps")
    if isinstance(warmup, int | float) and isinstance(steps, int | float) and warmup > steps:
        raise ValueError(f"optimizer {name}: warmup={warmup!r} is outside [0, steps={steps!r}]")


def spec(name: str, *, preset: str | None = None, **values: Any) -> OptimizerSpec:
    """The specification of the optimizer `name`: a preset with some values changed.

    Args:
      name: one of `names()`, or an import path.
      preset: "authors" (the reference code of each optimizer, without a learning rate) or "study"
        (arXiv 2509.02046 as it was run, from its starting point, a learning rate included). None is
        "authors"; for an optimizer from elsewhere "study", which its `search_space` may change.
      **values: numbers (scalar arrays, tracers and schedules too) and static options, flat.

    Returns:
      An `OptimizerSpec`: `.values` in full, `.traced` and `.static`, and `.build()`.

    Raises:
      ValueError: in one line, with field, value and allowed range or nearest name. Only what is
        not known yet passes unchecked: arrays, tracers and schedules.

    Example:
      >>> import optim
      >>> known = optim.spec("muon", learning_rate=0.02, ns_steps=7)
      >>> known.static["ns_steps"], known.traced["momentum"]
      (7, 0.95)
      >>> tx = known.build(learning_rate=0.01)
    """
    preset = preset or ("study" if is_plugin(name) else "authors")
    if preset not in PRESETS:
        raise ValueError(f"optimizer {name}: preset={preset!r} is not one of {', '.join(PRESETS)}")
    given = get(name).defaults(preset) | values
    check(name, given)
    return OptimizerSpec(name, preset, MappingProxyType(given))


def build(
    name: str,
    hparams: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    roles: Roles = None,
    weight_decay_mask: Mask = None,
    **values: Any,
) -> optax.GradientTransformationExtraArgs:
    """The whole optimizer by name: clip, rule, decay with its mask, schedule.

    Args:
      name, preset, **values: as for `spec`; `hparams` too is a mapping of such values.
      roles, weight_decay_mask: as for `OptimizerSpec.build`.

    Returns:
      An `optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: as `spec` and `OptimizerSpec.build`.

    Example:
      >>> import optim
      >>> import jax.numpy as jnp
      >>> tx = optim.build("muon", learning_rate=0.02, steps=1000, warmup=100)
      >>> state = tx.init({"up": {"kernel": jnp.eye(2, 3)}})
    """
    known = spec(name, preset=preset, **{**(hparams or {}), **values})
    return known.build(roles=roles, weight_decay_mask=weight_decay_mask)
