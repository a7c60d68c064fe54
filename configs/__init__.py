"""Names and numbers: model ladder, grids, runs and studies (ml_collections configs)."""
