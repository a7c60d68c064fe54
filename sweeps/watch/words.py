"""A look at a study in words: one line, a leaderboard, what runs, what failed, all cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lm.run.progress import duration
from sweeps.plan.trial import Cell
from sweeps.watch.look import COUNTS, Look


def total(look: Look) -> str:
    """The whole study in a line."""
    done, left = len(look.outcomes), len(look.coming)
    certified = sum(row.certified for row in look.cells.values())
    parts = [f"{done} of about {done + left} trials" if left else f"{done} trials"]
    if left:
        parts.append(f"{look.share:.0%}")
    if look.seconds is not None:
        parts.append(f"about {duration(look.seconds)} to go")
    elif left and look.device_seconds is not None:
        parts.append(f"nothing runs; about {duration(look.device_seconds)} of device time to go")
    elif left and not look.working:
        parts.append("nothing runs")
    parts.append(f"{certified} of {len(look.cells)} cells certified")
    if look.failures:
        parts.append(f"{len(look.failures)} failed")
    return ", ".join(parts)


def leaderboard(look: Look, width: int = 100) -> list[str]:
    """Best losses by optimizer and setting: the baseline's own, the others' distance from it.

    In brackets where the search is not over. The best of each setting is marked. Where not all
    settings fit, the last are shown.
    """
    settings = list(dict.fromkeys(cell[1:] for cell in look.cells))
    best = {cell: row.best for cell, row in look.cells.items() if math.isfinite(row.best)}
    settings = [s for s in settings if any(cell[1:] == s for cell in best)]
    if not settings:
        return []
    titles = {(size, ratio): f"{size} {ratio:g}x" for size, ratio in settings}
    column = 2 + max(9, *map(len, titles.values()))
    shown = settings[-max(1, (width - 12) // column) :]
    baseline = look.study.config["baseline"]
    names = [baseline, *(n for n in look.study.config["optimizers"] if n != baseline)]
    rows = [["best loss", *map(titles.get, shown)]]
    for name in names:
        row = [name]
        for setting in shown:
            cell, base = Cell(name, *setting), best.get(Cell(baseline, *setting))
            loss = best.get(cell)
            if loss is None:
                row.append("")
                continue
            text = f"{loss:.4f}" if name == baseline or base is None else f"{loss - base:+.4f}"
            first = loss == min(x for c, x in best.items() if c[1:] == setting)
            mark = "*" if first else ""
            row.append(f"{mark}{text}" if look.cells[cell].certified else f"{mark}({text})")
        if any(row[1:]):
            rows.append(row)
    more = len(settings) - len(shown)
    tail = f"; {more} more settings: python -m sweeps.status {look.address}" if more else ""
    return [*table(rows), f"nats against {baseline}; * best, () search not over{tail}"]


def working(look: Look, most: int = 1000) -> list[str]:
    """A line for each worker that trains."""
    lines = []
    for worker in look.working[:most]:
        parts = [f"{worker.where}: " + ", ".join(f"{c} x{n}" for c, n in worker.cells.items())]
        if worker.step:
            parts.append(f"step {worker.step}/{worker.steps}")
        if worker.tokens_per_second:
            parts.append(f"{worker.tokens_per_second:,.0f} tokens/s")
            parts.append(f"{duration(worker.seconds_left)} to go")
        if worker.silent is not None:
            parts.append(f"last sign of life {duration(worker.silent)} ago")
        lines.append(", ".join(parts))
    if look.idle:
        lines.append(f"{look.idle} workers wait" if look.idle > 1 else "a worker waits")
    return lines + _rest(look.working, most, "working")


def failed(look: Look, most: int = 1000) -> list[str]:
    """A line for each trial that has failed attempts."""
    lines = [
        f"{'failed' if f.given_up else 'to be tried again'} {f.cell} {f.hash}: {f.reason} "
        f"({f.attempts} attempt{'s' * (f.attempts > 1)})"
        for f in look.failures[:most]
    ]
    return lines + _rest(look.failures, most, "failed")


def cells(look: Look) -> list[str]:
    """The table of all cells."""
    heads = ["cell", "phase", *COUNTS, "best", "device-s", "FLOPs", "state"]
    rows = [heads]
    for cell, row in look.cells.items():
        best = f"{row.best:.4f}" if math.isfinite(row.best) else ""
        counts = [str(row.counts[name] or "") for name in COUNTS]
        effort = [best, f"{row.seconds:.0f}", f"{row.flops:.2g}"]
        rows.append([str(cell), row.phase, *counts, *effort, row.state])
    return table(rows, left=(0, 1, len(heads) - 1))


def table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Lines with columns aligned to the right, but for those named."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _rest(items: Sequence, most: int, what: str) -> list[str]:
    return [f"... and {len(items) - most} more {what}"] if len(items) > most else []
