"""Pretraining optimizers for optax, faithful to their authors, for stacked and sharded parameters.

Every optimizer is a function, `optim.muon(learning_rate=0.02)`, and its bare rule another for your
own `optax.chain`, `optim.scale_by_muon()`. `build(name, learning_rate=...)` is the whole optimizer
by name with its schedule, `spec` its specification, `describe` what a transformation will do to a
parameter tree, `Role` what a parameter is. Importing has no effects.
"""

from optim import catalogue, scaling, schedules
from optim.alias import hyperball
from optim.assemble import finish
from optim.averaging import evaluation_params, schedule_free
from optim.catalogue import OptimizerSpec, build, spec
from optim.description import describe
from optim.entry import OFF
from optim.roles import Role, declare
from optim.rules.adam_mini import adam_mini, scale_by_adam_mini
from optim.rules.adamc import adamc
from optim.rules.adamh import adamh
from optim.rules.adamw import adamw, scale_by_adamw
from optim.rules.ademamix import ademamix, scale_by_ademamix
from optim.rules.cautious import cautious, scale_by_cautious
from optim.rules.lion import lion, scale_by_lion
from optim.rules.mars import mars, scale_by_mars
from optim.rules.muons.adamuon import adamuon, scale_by_adamuon
from optim.rules.muons.dion import dion, scale_by_dion
from optim.rules.muons.muon import muon, scale_by_muon
from optim.rules.muons.muonc import muonc
from optim.rules.muons.muonh import muonh
from optim.rules.muons.normuon import normuon, scale_by_normuon
from optim.rules.muons.scion import scale_by_scion, scale_by_signum, scion
from optim.rules.nadamw import nadamw, scale_by_nadamw
from optim.rules.schedule_free import schedule_free_adamw
from optim.rules.shampoos.kl import kl_shampoo, kl_soap, scale_by_kl
from optim.rules.shampoos.kron import kron, scale_by_kron
from optim.rules.shampoos.shampoo import scale_by_shampoo, shampoo
from optim.rules.shampoos.soap import scale_by_soap, soap
from optim.rules.sophia import scale_by_sophia, sophia
from optim.sphere import refuse_zeros
from optim.stacks.placement import state_shardings

__all__ = [
    "OFF",
    "OptimizerSpec",
    "Role",
    "adam_mini",
    "adamc",
    "adamh",
    "adamuon",
    "adamw",
    "ademamix",
    "build",
    "catalogue",
    "cautious",
    "declare",
    "describe",
    "dion",
    "evaluation_params",
    "finish",
    "hyperball",
    "kl_shampoo",
    "kl_soap",
    "kron",
    "lion",
    "mars",
    "muon",
    "muonc",
    "muonh",
    "nadamw",
    "normuon",
    "refuse_zeros",
    "scale_by_adam_mini",
    "scale_by_adamuon",
    "scale_by_adamw",
    "scale_by_ademamix",
    "scale_by_cautious",
    "scale_by_dion",
    "scale_by_kl",
    "scale_by_kron",
    "scale_by_lion",
    "scale_by_mars",
    "scale_by_muon",
    "scale_by_nadamw",
    "scale_by_normuon",
    "scale_by_scion",
    "scale_by_shampoo",
    "scale_by_signum",
    "scale_by_soap",
    "scale_by_sophia",
    "scaling",
    "schedule_free",
    "schedule_free_adamw",
    "schedules",
    "scion",
    "shampoo",
    "soap",
    "sophia",
    "spec",
    "state_shardings",
]
