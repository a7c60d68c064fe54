"""The study on one page of the terminal, kept up to date in place; plain lines elsewhere."""

from __future__ import annotations

import contextlib
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lm.storage import in_bucket
from sweeps.dispatch.begun import Refused
from sweeps.watch import words
from sweeps.watch.look import Look, Watcher

EVERY = 2.0  # seconds between looks
FAR = 10.0  # where the store is a bucket
NOTES = 4  # last lines of the log that stay in sight


@contextlib.contextmanager
def shown(
    address: str, log: Callable[[str], Any] = print, every: float | None = None
) -> Iterator[Callable[[str], Any]]:
    """Shows the study at an address while the block runs, in a thread; gives a `log` for its lines.

    In a terminal the page shows the last of those lines; elsewhere they are printed, and a line
    about the whole study as results come in.
    """
    console = Console()
    if log is print and console.is_terminal:
        notes: deque[str] = deque(maxlen=NOTES)
        live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        with live, _looking(address, every, lambda look: show(live, look, notes)):
            yield notes.append
        return
    last = 0

    def line(look: Look) -> None:
        nonlocal last
        if len(look.outcomes) != last:
            last = len(look.outcomes)
            log(words.total(look))

    with _looking(address, every, line):
        yield log


@contextlib.contextmanager
def _looking(address: str, every: float | None, show: Callable[[Look], Any]) -> Iterator[None]:
    over, every = threading.Event(), every or _every(address)

    def watch() -> None:
        watcher = None
        while True:
            ended = over.wait(0 if watcher is None else every)
            with contextlib.suppress(OSError, ValueError, Refused):  # half-written: the next look
                watcher = watcher or Watcher(address)
                show(watcher.look())
            if ended or (watcher is None and over.wait(every)):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def watch(address: str, every: float | None = None) -> None:
    """Looks until interrupted, every so many seconds.

    Raises:
      Refused: there is no study; OSError: the store does not answer at first.
    """
    looks, console = _looks(address, every or _every(address)), Console()
    if not console.is_terminal:
        for look in looks:
            print(words.total(look), flush=True)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for look in looks:
            show(live, look)


def _looks(address: str, every: float) -> Iterator[Look]:
    watcher = Watcher(address)
    yield watcher.look()
    while True:
        time.sleep(every)
        with contextlib.suppress(OSError):  # the store may not answer for a while
            yield watcher.look()


def _every(address: str) -> float:
    return FAR if in_bucket(address) else EVERY


def show(live: Live, look: Look, notes: Iterable[str] = ()) -> None:
    """Puts a look on the page."""
    size = live.console.size
    text = "\n".join(lines(look, size.width, size.height, list(notes)))
    live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)


def lines(look: Look, width: int, height: int, notes: Sequence[str] = ()) -> list[str]:
    """The page, cut to the terminal."""
    bar = min(60, width - 1)
    full = round(bar * look.share)
    total = textwrap.wrap(f"{look.study.config['name']}: {words.total(look)}", width - 1)
    head = [*total, "━" * full + "─" * (bar - full)]
    board = words.leaderboard(look, width)
    room = max(2, height - len(head) - len(board) - len(notes) - 6)
    working, failed = words.working(look, most=room), words.failed(look, most=3)
    return [line[:width] for line in [*head, *board, *working, *failed, *notes][: height - 1]]
