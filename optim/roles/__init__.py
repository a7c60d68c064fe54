"""What a parameter is (its role), found by name or declared, and how a leaf becomes matrices.

A matrix optimizer sees every leaf as an array of shape (stack, in, out): leading layers and experts
are batch, a product of axes is the input side, another the output side. Which axes are which is
declared by a `Role` per leaf, never guessed from the number of axes alone.
"""

from optim.roles.find import coverage as coverage
from optim.roles.find import declare as declare
from optim.roles.find import find_roles as find_roles
from optim.roles.fused import in_parts as in_parts
from optim.roles.fused import split_fused as split_fused
from optim.roles.role import KINDS as KINDS
from optim.roles.role import Kind as Kind
from optim.roles.role import Part as Part
from optim.roles.role import Role as Role
from optim.roles.role import Roles as Roles
from optim.roles.role import from_stack as from_stack
from optim.roles.role import path_name as path_name
from optim.roles.role import stack_shape as stack_shape
from optim.roles.role import to_stack as to_stack
from optim.roles.trees import TREES as TREES
from optim.roles.trees import default_role as default_role
