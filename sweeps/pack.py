"""Which trials share a program: a pack is one compiled program over many trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from sweeps.trial import Trial


class Pack(NamedTuple):
    """Trials of one program, trained together."""

    key: str
    trials: tuple[Trial, ...]

    def halves(self) -> list[Pack]:
        """Two smaller packs, to find out which member brought the whole down."""
        middle = len(self.trials) // 2
        return [
            self._replace(trials=self.trials[:middle]),
            self._replace(trials=self.trials[middle:]),
        ]


def packs(
    trials: Iterable[Trial],
    key: Callable[[Trial], str],
    cost: Callable[[Trial], float],
    *,
    width: int,
    limits: Mapping[str, int] | None = None,
    workers: int = 1,
) -> list[Pack]:
    """Groups trials by program and cuts the groups into packs of at most `width`, most expensive
    first.

    Args:
      key: the program of a trial.
      cost: FLOPs of a trial; the longest packs go first so that no worker is left with one at the
        end.
      width: most members of a pack.
      limits: smaller widths, by program, that memory was found to allow.
      workers: packs that run at the same time; with fewer groups than workers a group is shared
        out.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(key(trial), []).append(trial)
    found = []
    for name, members in groups.items():
        most = min(width, (limits or {}).get(name, width))
        count = max(-(-len(members) // most), min(len(members), workers // len(groups)))
        found += [Pack(name, tuple(part)) for part in _shares(members, count)]
    return sorted(found, key=lambda pack: -sum(map(cost, pack.trials)))


def _shares(members: list[Trial], count: int) -> list[list[Trial]]:
    """`count` parts whose sizes differ by at most one."""
    size, rest = divmod(len(members), count)
    starts = [i * size + min(i, rest) for i in range(count + 1)]
    return [members[a:b] for a, b in pairwise(starts)]
