"""Pretraining optimizers for optax, faithful to their authors, for stacked and sharded parameters.

`build(name, hparams)` is the whole optimizer by name, `catalogue` lists names, hyper-parameters and
options, `Role` says what a parameter is. Every optimizer is also a function of its own:
`optim.rules.muon.muon(...)`.
"""

from optim import catalogue as catalogue
from optim import diagnostics as diagnostics
from optim import schedules as schedules
from optim.build import build as build
from optim.describe import describe as describe
from optim.linalg import lapack
from optim.roles import Role as Role

lapack.use_one_thread_per_call()
