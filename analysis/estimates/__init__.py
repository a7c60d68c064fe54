"""Estimates from runs: laws, speed-ups, optima, cards, advice, in one long table."""
