"""Planning and running races: `python -m sweeps.run`, or `Race` for one's own trainer."""

from typing import Any

__all__ = ["Race"]


def __getattr__(name: str) -> Any:
    if name != "Race":
        raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
    from sweeps.race import Race  # late: a process that only trains needs no planner

    return Race
