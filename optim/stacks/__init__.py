"""Leaves as stacks of matrices: how they are cut, batched, stored, and where they lie on a mesh."""
