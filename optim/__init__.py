"""Pretraining optimizers for optax, faithful to their authors, for stacked and sharded parameters.

`build(name, learning_rate=..., ...)` is the whole optimizer by name, `spec` its specification,
`describe` what it will do to a parameter tree, `Role` what a parameter is. Every optimizer is also
a function of its own: `optim.rules.muons.muon.muon(...)`.
"""

from optim import catalogue as catalogue
from optim import diagnostics as diagnostics
from optim import scaling as scaling
from optim import schedules as schedules
from optim.averaging import evaluation_params as evaluation_params
from optim.averaging import schedule_free as schedule_free
from optim.catalogue import OptimizerSpec as OptimizerSpec
from optim.catalogue import build as build
from optim.catalogue import spec as spec
from optim.description import describe as describe
from optim.entry import OFF as OFF
from optim.roles import Role as Role
from optim.sphere import hyperball as hyperball
from optim.stacks.placement import state_shardings as state_shardings
