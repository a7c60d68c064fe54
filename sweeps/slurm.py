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
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lm import storage
from lm.command import guarded
from sweeps import run as run_lib
from sweeps.dispatch import ledger
from sweeps.dispatch.accidents import Accidents, Refused, begun, write_off
from sweeps.dispatch.driver import lock
from sweeps.dispatch.executor import Report
from sweeps.dispatch.local import TRAINER, Workers
from sweeps.dispatch.packs import Widths, packs
from sweeps.dispatch.quarantine import Quarantine
from sweeps.plan.phases import plan

OVER, PREEMPTED, AVOIDED = 1, 3, 4


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m sweeps.slurm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run_lib.add_study(out)
    add = out.add_argument
    add("--sbatch", default=[], type=shlex.split, help="options of the job, as sbatch takes them")
    add("--at_once", type=int, default=0, help="most tasks at a time; 0: no limit (default)")
    add("--setup", default="", help="a line to run first, such as a module load")
    return out


def task_parser() -> argparse.ArgumentParser:
    """What a job script calls: train one pack of a round."""
    out = argparse.ArgumentParser(prog="python -m sweeps.slurm", allow_abbrev=False)
    out.add_argument("--workdir", required=True, type=storage.folder)
    out.add_argument("--round", required=True, type=Path)
    out.add_argument("--task", type=int, help="which pack; default: SLURM_ARRAY_TASK_ID")
    out.add_argument("--trainer", default=TRAINER)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    task = any(word.partition("=")[0] == "--round" for word in argv)
    arguments, overrides = (task_parser() if task else parser()).parse_known_args(argv)
    return guarded(
        lambda: (train if task else submit)(arguments, overrides),
        Refused,
        interrupted="run the same command again to go on",
    )


def submit(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Plans the next round and prints its job script; the lines about it go to stderr."""
    say: Callable = lambda line: print(line, file=sys.stderr)  # noqa: E731
    study, _ = run_lib.resolve(arguments, overrides, say)
    workdir = arguments.workdir.resolve()
    with lock(workdir):
        outcomes = run_lib.begin(study, workdir, arguments, say)
        accidents, state = Accidents(workdir, study.hash), plan(study, outcomes)
        if not begun(outcomes):
            try:
                accidents.check_start(state.pending)
            except Refused:
                forget_nodes(workdir)
                raise
        if arguments.retry_failed:
            forget_nodes(workdir)
        while begun(outcomes) and (found := write_off(study, state.pending, accidents)):
            outcomes |= found
            state = plan(study, outcomes)
        failed = accidents.failed(state.pending)
        trials = [trial for trial in state.pending if trial not in failed]
        ledger.certify(study, state, workdir, {}, {} if trials else failed)
        if not trials:
            run_lib.report(study, state, outcomes, failed, say)
            return OVER
        width = Widths(study.config["pack"]["width"])
        round_ = packs(trials, study.program, study.flops, width=width, alone=accidents.alone)
        value = [{study.hash(t): study.run(t) for t in pack.trials} for pack in round_]
        name = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
        (workdir / "rounds").mkdir(exist_ok=True)
        storage.write_json(workdir / "rounds" / f"{name}.json", value)
    avoid = sorted(nodes_to_avoid(workdir))
    if avoid:
        say(f"set aside: {', '.join(avoid)}; packs died there and ended well elsewhere")
    say(f"{len(trials)} trials in {len(round_)} packs; submit with `sbatch --wait`")
    print(script(arguments, study.config["name"], name, len(round_), avoid))
    return 0


def script(
    arguments: argparse.Namespace, study: str, name: str, count: int, avoid: Sequence[str]
) -> str:
    """The job script of a round of `count` packs."""
    workdir = arguments.workdir.resolve()
    at_once = f"%{arguments.at_once}" if arguments.at_once else ""
    path = workdir / "rounds" / f"{name}.json"
    command = [sys.executable, "-m", "sweeps.slurm", f"--workdir={workdir}", f"--round={path}"]
    if arguments.trainer != TRAINER:
        command.append(f"--trainer={arguments.trainer}")
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={study}",
        f"#SBATCH --array=0-{count - 1}{at_once}",
        f"#SBATCH --output={workdir}/logs/slurm-%A-%a.log",
        "#SBATCH --nodes=1 --ntasks=1 --requeue",
        *[f"#SBATCH --exclude={','.join(avoid)}"] * bool(avoid),
        *[f"#SBATCH {shlex.join(arguments.sbatch)}"] * bool(arguments.sbatch),
        "set -e",
        *[arguments.setup] * bool(arguments.setup),
        f"cd {shlex.quote(os.getcwd())}",
        f"exec {shlex.join(command)}",
    ]
    (workdir / "logs").mkdir(exist_ok=True)
    return "\n".join(lines)


def train(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """One task: trains a pack; when it dies, its halves, until each trial has had its chance.

    What failed alone is left to the next round, and to another node if there is one.
    """
    if overrides:
        raise Refused(f"unknown flag {overrides[0]}")
    number = arguments.task
    if number is None:
        number = int(os.environ.get("SLURM_ARRAY_TASK_ID", "-1"))
    workdir = arguments.workdir.resolve()
    try:
        round_ = json.loads(arguments.round.read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"--round={arguments.round} cannot be read: {error}") from None
    if not 0 <= number < len(round_):
        raise Refused(f"--task={number} must be in [0, {len(round_) - 1}] for {arguments.round}")
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    if node in nodes_to_avoid(workdir):
        print(f"node {node} is set aside: the pack is left to the next round", flush=True)
        return AVOIDED
    task = Task(workdir, round_[number], node)
    path = arguments.round.with_name(f"{arguments.round.stem}-{number}.jsonl")
    name = f"task-{os.environ.get('SLURM_ARRAY_JOB_ID', '0')}-{number}"
    workers = Workers(1, trainer=arguments.trainer, log_folder=workdir / "logs" / name)
    before = {trial for trial in task.configs if task.ended(trial)}
    try:
        return task.train(workers)
    finally:
        workers.close()
        ended = {trial for trial in task.configs if task.ended(trial)}
        note = {"ended": sorted(ended - before), "lost": sorted(set(task.configs) - ended)}
        with open(path, "a") as file:
            file.write(json.dumps({"time": time.time(), "node": node, **note}) + "\n")


class Task:
    """One pack of a round, on one node; its trials are named by their hashes."""

    def __init__(self, workdir: Path, configs: dict[str, dict], node: str):
        self.workdir, self.configs, self.node = workdir, configs, node
        self.accidents = Accidents(workdir, str)

    def ended(self, trial: str) -> bool:
        return ledger.take(ledger.folder(self.workdir, trial)) is not None

    def train(self, workers: Workers) -> int:
        """Trains the pack, and what is left of it in halves; returns the exit code."""
        queue = [list(self.configs)]
        while queue:
            pack = queue.pop(0)
            report = self.run(workers, pack)
            left = [trial for trial in pack if not self.ended(trial)]
            print(f"{len(pack) - len(left)} of {len(pack)} trials have results", flush=True)
            if not left:
                continue
            cause, reason = report.cause or "failed", report.reason or "training wrote no result"
            print(f"{len(left)} trials lost ({cause}): {reason}", flush=True)
            if cause == "disk":
                raise OSError(errno.ENOSPC, reason)
            if cause == "preempted":
                return PREEMPTED
            queue += self.accidents.lost(left, report._replace(where=self.node))
        return 0

    def run(self, workers: Workers, pack: list[str]) -> Report:
        folders = [ledger.folder(self.workdir, trial) for trial in pack]
        configs = [self.configs[trial] for trial in pack]
        handle = workers.start(configs, folders, timeout=float("inf"))
        while (report := workers.poll(handle)) is None:
            time.sleep(0.05)
        return report


def nodes_to_avoid(workdir: Path) -> set[str]:
    """The nodes where all that tasks did was to die, while other nodes worked."""
    notes, quarantine = [], Quarantine()
    for path in (workdir / "rounds").glob("*.jsonl"):
        notes += [json.loads(line) for line in path.read_text().splitlines()]
    for note in sorted(notes, key=lambda note: note["time"]):
        if note["ended"]:
            quarantine.finished([note["node"]], note["ended"])
        elif note["lost"]:
            quarantine.failed([note["node"]], note["lost"])
    return quarantine.bad | quarantine.suspect


def forget_nodes(workdir: Path) -> None:
    for path in (workdir / "rounds").glob("*.jsonl"):
        path.unlink()


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see docs/design.md on LAPACK under XLA
    sys.exit(main())
