"""Which trials share a program: a pack is one compiled program over many trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from sweeps.plan.trial import Outcome, Trial

CLEARLY = 1.1  # times faster, so that noise does not narrow packs


class Pack(NamedTuple):
    """Trials of one program, trained together."""

    key: str
    trials: tuple[Trial, ...]


class Widths:
    """How many runs of a program to train together, from what its packs have shown so far.

    As many as `most`, or as memory was found to hold; fewer only where a narrower pack was measured
    and was clearly faster than the widest one, over all its runs.
    """

    def __init__(self, most: int):
        self.most = most
        self.fits: dict[str, int] = {}
        self.paces: dict[str, dict[int, float]] = {}  # tokens/s of whole packs, by their width

    def __call__(self, key: str) -> int:
        fits = self.fits.get(key, self.most)
        paces = {w: pace for w, pace in self.paces.get(key, {}).items() if w <= fits}
        best = max(paces, key=paces.__getitem__, default=fits)
        return best if paces and paces[best] > CLEARLY * paces[max(paces)] else fits

    def too_wide(self, key: str, width: int) -> None:
        self.fits[key] = max(1, width // 2)

    def ran(self, key: str, outcomes: Sequence[Outcome]) -> None:
        seconds = sum(run.seconds for run in outcomes)  # each has its share of the pack's time
        if seconds > 0:
            pace = sum(run.tokens for run in outcomes) / seconds
            self.paces.setdefault(key, {})[len(outcomes)] = pace


def packs(
    trials: Iterable[Trial],
    key: Callable[[Trial], str],
    cost: Callable[[Trial], float],
    *,
    width: Callable[[str], int],
    workers: int = 1,
    alone: Callable[[Trial], bool] = lambda trial: False,
) -> list[Pack]:
    """Groups trials by program and cuts the groups into packs, most expensive first; last, each by
    itself, those that must not share a pack.

    Args:
      key: the program of a trial.
      cost: FLOPs of a trial; the longest packs go first so that no worker is left with one at the
        end.
      width: most members of a pack of a program, for example a `Widths`.
      workers: packs that run at the same time; with fewer groups than workers a group is shared
        out.
      alone: whether a trial must not share a pack.
    """
    groups: dict[str, list[Trial]] = {}
    last = []
    for trial in trials:
        if alone(trial):
            last.append(Pack(key(trial), (trial,)))
        else:
            groups.setdefault(key(trial), []).append(trial)
    found = []
    for name, members in groups.items():
        count = max(-(-len(members) // width(name)), min(len(members), workers // len(groups)))
        found += [Pack(name, tuple(part)) for part in _shares(members, count)]
    return sorted(found, key=lambda pack: -sum(map(cost, pack.trials))) + last


def _shares(members: list[Trial], count: int) -> list[list[Trial]]:
    """`count` parts whose sizes differ by at most one."""
    size, rest = divmod(len(members), count)
    starts = [i * size + min(i, rest) for i in range(count + 1)]
    return [members[a:b] for a, b in pairwise(starts)]
