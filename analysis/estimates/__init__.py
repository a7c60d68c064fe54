"""Laws, speed-ups, the joint model, optima, cards, advice."""
