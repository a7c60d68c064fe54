"""A study at a glance, from its files alone: while it runs, after it died, from another machine.

    python -m sweeps.status runs/nano
    python -m sweeps.status gs://bucket/nano --watch

Done, running with speed and time to go, failed with reasons and attempts, best losses against the
baseline, every cell, and what the whole study is still expected to take.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from lm import command
from lm.storage import place
from sweeps.dispatch.begun import Refused
from sweeps.watch import page, words
from sweeps.watch.look import Watcher


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("sweeps.status", __doc__)
    parser.add_argument("workdir", type=place, help="a folder or s3://, gs://, az://")
    parser.add_argument("--watch", action="store_true", help="refresh until interrupted")
    seconds = f"{page.EVERY:g}, or {page.FAR:g} where it is a bucket"
    parser.add_argument("--every", type=float, help=f"seconds between looks (default: {seconds})")
    arguments = parser.parse_args(argv)
    return command.guarded(
        lambda: _show(str(arguments.workdir), arguments), Refused, interrupted="look again"
    )


def _show(address: str, arguments: argparse.Namespace) -> int:
    if arguments.watch:
        with contextlib.suppress(KeyboardInterrupt):
            page.watch(address, arguments.every)
        return 0
    look = Watcher(address).look()
    parts = words.cells(look), words.leaderboard(look), words.working(look), words.failed(look)
    print("\n".join(["\n".join(part) + "\n" for part in parts if part] + [words.total(look)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
