"""Pretraining optimizers for optax: faithful to their authors, made for stacked and sharded
parameters."""

from optim import catalogue as catalogue
from optim.build import build as build
from optim.matrices import Role as Role
