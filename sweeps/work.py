"""A worker of a study: plans, claims, trains, writes, until nothing is left. Start any number.

    python -m sweeps.work --workdir=gs://bucket/race               # a pack at a time
    python -m sweeps.work --workdir=gs://bucket/race --slots=8     # eight, as processes
    python -m sweeps.work --workdir=gs://bucket/race --sharded     # a run over all hosts

`python -m sweeps.run` begins the study, here or anywhere. Workers need no driver and do not know of
each other but through the workdir; one that is stopped saves what it can and gives its trials back.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lm import command, storage
from lm.storage import Store, open_store
from sweeps.dispatch.begun import Refused, begun
from sweeps.dispatch.driver import stopping
from sweeps.dispatch.local import TRAINER, Children, Inline, sources
from sweeps.dispatch.right import LOST
from sweeps.dispatch.worker import Avoided, Stopping, Worker
from sweeps.plan.study import Study

AVOIDED = 4  # exit code on a node that is set aside


def parser() -> argparse.ArgumentParser:
    out = command.parser("sweeps.work", __doc__)
    add = out.add_argument
    add("--workdir", required=True, type=storage.place, help="a folder, or s3://, gs://, az://")
    add_worker(out)
    return out


def add_worker(out: argparse.ArgumentParser) -> None:
    """The flags that say how a worker trains."""
    add = out.add_argument
    add("--slots", type=count, default=0, help="child processes; 0: this process (default)")
    add("--sharded", action="store_true", help="each run over all devices of all hosts of the job")
    add("--timeout", type=float, default=0.0, help="seconds a pack may take; 0: no limit (default)")
    add("--trainer", default=TRAINER, help=argparse.SUPPRESS)


def count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes")
    return int(text)


def flags(arguments: argparse.Namespace) -> list[str]:
    """The same flags again, for a worker that is started elsewhere."""
    out = [f"--slots={arguments.slots}"] if arguments.slots else []
    out += ["--sharded"] if arguments.sharded else []
    out += [f"--timeout={arguments.timeout:g}"] if arguments.timeout else []
    return out + ([f"--trainer={arguments.trainer}"] if arguments.trainer != TRAINER else [])


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if "BESTIARY_TIED" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # when whoever started it is gone
    return command.guarded(
        lambda: run(arguments), Refused, interrupted="the same command goes on with what is left"
    )


def run(arguments: argparse.Namespace) -> int:
    """The command with its arguments parsed; returns the exit code."""
    log: Callable = lambda line: print(line, flush=True)  # noqa: E731
    store = open_store(str(arguments.workdir))
    study = begun(store)
    if study.config["told"]:
        raise Refused(f"{store.address} is told its results (sweeps.Race): nothing trains it here")
    try:
        found = work(store, study, arguments, log)
    except Avoided as avoided:
        log(str(avoided))
        return AVOIDED
    except Stopping:
        log("stopped; its unfinished trials are given back")
        return 128 + signal.SIGTERM
    if found is None:  # the first process of this worker has said it
        return 0
    _, failed, ledger = found
    log(f"nothing is left to train: {len(ledger.outcomes)} trials are over")
    if failed:
        raise Refused(f"{len(failed)} trials failed for good; see python -m sweeps.status")
    return 0


def work(store: Store, study: Study, arguments: argparse.Namespace, log: Callable) -> Any:
    """Works on a study in this process, as `Worker.run` does; None in all processes of a worker
    but the first.
    """
    own = sources(store)
    if own.is_dir():
        from optim import plugins

        plugins.look_in(own)
    job = None
    if arguments.sharded:
        from sweeps.dispatch import hosts

        # Before the job is joined: from then on JAX hears SIGTERM and tells all processes.
        executor = Inline(trainer=hosts.TRAINER, log=log, widest=1)
        job = hosts.join(store, log)
        if not job.first:
            if not job.follow():
                raise Stopping
            return None
    elif arguments.slots:
        executor = Children(arguments.slots, trainer=arguments.trainer, sources=own)
    else:
        executor = Inline(trainer=arguments.trainer, log=log)

    def die(reason: str) -> None:
        print(f"error: this worker ends: {reason}", file=sys.stderr, flush=True)
        os._exit(LOST)

    limit = arguments.timeout or float("inf")
    worker = Worker(store, study, executor, log=log, timeout=limit, die=die)

    def stop(asked: Sequence[int]) -> None:
        if len(asked) == 1:
            return worker.stop()
        executor.close()
        worker.right.__exit__(None)
        os._exit(128 + asked[-1])

    # One that trains in this process hears signals while it does, in its own way.
    apart = isinstance(executor, Children)
    try:
        with stopping(stop, log) if apart else contextlib.nullcontext():
            return worker.run()
    finally:
        if job is not None:
            job.leave()


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see docs/design.md on LAPACK under XLA
    sys.exit(main())
