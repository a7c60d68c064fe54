"""Muon and its kin: momentum, an orthogonal direction, a normalisation, a size."""
