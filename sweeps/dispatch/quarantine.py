"""Which nodes are to be avoided: those where packs died that then finished elsewhere.

A pack that dies may be the fault of a trial or of the node. The trials tell: if all of them end
well on other nodes, it was the node. After two such packs in a row, with nothing that ended well
there, the node gets no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

STRIKES = 2


class Quarantine:
    """Pure bookkeeping over node names and trial names."""

    def __init__(self, strikes: int = STRIKES):
        self.strikes = strikes
        self.open: list[tuple[frozenset, set]] = []  # (nodes, trials not yet seen elsewhere)
        self.counts: Counter = Counter()
        self.worked: set[str] = set()  # nodes on which something ended well

    @property
    def bad(self) -> set[str]:
        return {node for node, count in self.counts.items() if count >= self.strikes}

    @property
    def suspect(self) -> set[str]:
        """Nodes where as many packs in a row died as make a node bad, while others worked: to be
        avoided until their trials have run elsewhere.
        """
        died = self.counts + Counter(node for nodes, _ in self.open for node in nodes)
        found = {node for node, count in died.items() if count >= self.strikes}
        return found if self.worked - found else set()

    def failed(self, nodes: Iterable[str], trials: Iterable[str]) -> None:
        """A pack died on these nodes. Trials that died elsewhere before are the cause."""
        nodes, trials = frozenset(nodes), set(trials)
        kept = [s for s in self.open if s[0] & nodes or not s[1] & trials]
        guilty = len(kept) < len(self.open)
        self.open = kept if guilty else [*kept, (nodes, trials)]

    def finished(self, nodes: Iterable[str], trials: Iterable[str]) -> set[str]:
        """Trials ended well on these nodes; returns nodes that are bad from now on."""
        nodes, trials, before, still = set(nodes), set(trials), self.bad, []
        self.worked |= nodes
        for node in nodes:
            del self.counts[node]  # it can run packs: what died there was an accident
        for blamed, left in self.open:
            if blamed & nodes:
                continue
            left -= trials
            if left:
                still.append((blamed, left))
            else:
                self.counts.update(blamed)
        self.open = still
        return self.bad - before
