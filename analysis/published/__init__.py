"""The recorded results of arXiv 2509.02046, as tidy tables."""
