"""The update rules: one algorithm a file, readable from top to bottom with its paper beside it."""
