"""Planning and running races: `python -m sweeps.run`, or `Race` for one's own trainer."""

from sweeps.race import Race

__all__ = ["Race"]
