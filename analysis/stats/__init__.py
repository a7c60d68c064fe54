"""Noise, selection, solver, intervals."""
