"""Is A better than B? The working parts of `python -m analysis.claims`."""
