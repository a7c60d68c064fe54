"""Plan and dispatch many runs."""
