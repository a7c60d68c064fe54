"""Fits: loss laws, the joint curve, speed-ups, optima, what is wrong with them, what to run."""
