"""The next round of a study as a SLURM array job: one task a pack, finished trials skipped.

    python -m sweeps.slurm --config=configs/study.py:nano --workdir=runs/nano \\
        --sbatch="--gpus=1 --time=04:00:00" > job.sh
    sbatch --wait job.sh

Writes the round's packs to WORKDIR/rounds/ and the script to the standard output. Exit code 1 when
nothing is left to train: every certificate has been written.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lm import config as run_config
from lm import storage
from lm.command import guarded
from lm.storage import write_json
from sweeps import run as run_lib
from sweeps.dispatch import ledger
from sweeps.dispatch.driver import RETRIES, Driver, Refused, lock
from sweeps.dispatch.executor import Report
from sweeps.dispatch.local import TRAINER, Inline, Workers
from sweeps.dispatch.packs import Widths, packs
from sweeps.plan.phases import plan

OVER = 1


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(prog="python -m sweeps.slurm", allow_abbrev=False)
    out.add_argument("--config", help="configs/study.py:NAME; --config.a.b=value overrides")
    out.add_argument(
        "--workdir", required=True, type=storage.folder, help="on a file system all nodes see"
    )
    out.add_argument(
        "--sbatch", default=[], type=shlex.split, help="options of the job, as sbatch takes them"
    )
    out.add_argument("--at_once", type=int, default=0, help="most tasks at a time; 0: no limit")
    out.add_argument("--setup", default="", help="a line to run first, such as a module load")
    out.add_argument("--extend", action="store_true", help="as of sweeps.run")
    out.add_argument("--retry_failed", action="store_true", help="as of sweeps.run")
    out.add_argument("--device", default="cpu-core", help="as of sweeps.run")
    out.add_argument("--round", type=Path, help="a round's file: train one of its packs")
    out.add_argument("--task", type=int, help="which pack; default: SLURM_ARRAY_TASK_ID")
    out.add_argument("--trainer", default=TRAINER, help=argparse.SUPPRESS)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    arguments, overrides = parser().parse_known_args(argv)
    return guarded(
        lambda: (train if arguments.round else submit)(arguments, overrides),
        Refused,
        interrupted="run the same command again to go on",
    )


def submit(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Plans the next round and prints its job script; the lines about it go to stderr."""
    if not arguments.config:
        raise Refused("--config is missing")
    say: Callable = lambda line: print(line, file=sys.stderr)  # noqa: E731
    study, _ = run_lib.resolve(arguments, overrides, say)
    workdir, named = arguments.workdir.resolve(), study.config
    with lock(workdir):
        found = run_lib.load(workdir, study, arguments.retry_failed, say)
        if reason := run_lib.over_budget(study, found.outcomes, arguments.device):
            raise Refused(reason)
        write_json(workdir / "study.json", named)
        state = plan(study, found.outcomes)
        if not state.pending:
            driver = Driver(study, workdir, Inline(), found, log=say)  # trains nothing, certifies
            run_lib.report(study, driver.run(), driver, say)
            return OVER
        width = named["pack"]["width"]
        round_ = packs(state.pending, study.program, study.flops, width=Widths(width))
        value = [[study.run(trial) for trial in pack.trials] for pack in round_]
        name = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
        (workdir / "rounds").mkdir(exist_ok=True)
        write_json(workdir / "rounds" / f"{name}.json", value)
    say(f"{len(state.pending)} trials in {len(round_)} packs; submit with `sbatch --wait`")
    print(script(arguments, named["name"], workdir / "rounds" / f"{name}.json", len(round_)))
    return 0


def script(arguments: argparse.Namespace, name: str, path: Path, count: int) -> str:
    """The job script of a round of `count` packs."""
    workdir = arguments.workdir.resolve()
    at_once = f"%{arguments.at_once}" if arguments.at_once else ""
    command = [sys.executable, "-m", "sweeps.slurm", f"--workdir={workdir}", f"--round={path}"]
    if arguments.trainer != TRAINER:
        command.append(f"--trainer={arguments.trainer}")
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --array=0-{count - 1}{at_once}",
        f"#SBATCH --output={workdir}/logs/slurm-%A-%a.log",
        "#SBATCH --nodes=1 --ntasks=1 --requeue",
        *[f"#SBATCH {shlex.join(arguments.sbatch)}"] * bool(arguments.sbatch),
        "set -e",
        *[arguments.setup] * bool(arguments.setup),
        f"cd {shlex.quote(os.getcwd())}",
        f"exec {shlex.join(command)}",
    ]
    (workdir / "logs").mkdir(exist_ok=True)
    return "\n".join(lines)


def train(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """One task: trains a pack; when it dies, its halves, until the bad trial is alone."""
    if overrides:
        raise Refused(f"unknown flag {overrides[0]}")
    number = arguments.task
    if number is None:
        number = int(os.environ.get("SLURM_ARRAY_TASK_ID", "-1"))
    try:
        round_ = json.loads(arguments.round.read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"--round={arguments.round} cannot be read: {error}") from None
    if not 0 <= number < len(round_):
        raise Refused(f"--task={number} must be in [0, {len(round_) - 1}] for {arguments.round}")
    workdir = arguments.workdir.resolve()
    name = f"task-{os.environ.get('SLURM_ARRAY_JOB_ID', '0')}-{number}"
    workers = Workers(1, trainer=arguments.trainer, log_folder=workdir / "logs" / name)
    queue = [(round_[number], RETRIES["killed"])]
    try:
        while queue:
            configs, tries = queue.pop(0)
            paths = [ledger.folder(workdir, run_config.config_hash(c)) for c in configs]
            report = _run(workers, configs, paths)
            left = [c for c, p in zip(configs, paths, strict=True) if ledger.read(p) is None]
            print(f"{len(configs) - len(left)} of {len(configs)} trials have results", flush=True)
            if not left:
                continue
            cause, reason = report.cause or "failed", report.reason or "training wrote no result"
            print(f"{len(left)} trials lost ({cause}): {reason}", flush=True)
            if cause == "disk":
                raise OSError(errno.ENOSPC, reason)
            if cause == "preempted":
                return 3
            if len(left) > 1:
                middle = len(left) // 2
                queue += [(left[:middle], tries), (left[middle:], tries)]
            elif cause == "killed" and tries:
                queue.append((left, tries - 1))
            else:
                path = ledger.folder(workdir, run_config.config_hash(left[0]))
                ledger.record_failure(path, run_config.what(left[0]), f"{cause}: {reason}")
    finally:
        workers.close()
    return 0


def _run(workers: Workers, configs: list[dict], paths: list[Path]) -> Report:
    handle = workers.start(configs, paths, timeout=float("inf"))
    while (report := workers.poll(handle)) is None:
        time.sleep(0.05)
    return report


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see docs/design.md on LAPACK under XLA
    sys.exit(main())
