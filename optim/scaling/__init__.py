"""Scaling rules as data: what learning rate, epsilon, decay and initialisation become when a model
grows in width and depth, or a run in batch and tokens.

Every rule is a small function of `optim.scaling.rules` with its formula, source and validity. Where
sources contradict each other the contradiction is named there, and each rule keeps to its own
source. What a rule does not say of an optimizer is a ValueError with the reason, never a guess.
"""

from optim.scaling.budgets import BUDGETS as BUDGETS
from optim.scaling.budgets import budget as budget
from optim.scaling.leafwise import leafwise as leafwise
from optim.scaling.rules import RULES as RULES
from optim.scaling.rules import model as model
from optim.scaling.rules import multipliers as multipliers
from optim.scaling.sizes import FAMILIES as FAMILIES
