"""A SLURM array job of workers for a study.

    python -m sweeps.slurm --config=configs/study.py:nano --workdir=/shared/nano \\
        --workers=64 --sbatch="--gpus=1 --time=04:00:00" > job.sh

Begins the study as `sweeps.run` does and prints the job's script; how to submit it is said on
stderr, in as many arrays as the cluster's limit asks for. Each task is a worker that plans, claims
and trains until nothing is left or its time is over, when it saves and gives its trials back.
Submit the same script again to go on. Exit code 1 when nothing is left to train.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lm import command
from lm.storage import in_bucket, open_store
from sweeps import run as run_lib
from sweeps import work
from sweeps.dispatch.accidents import set_aside, standing
from sweeps.dispatch.begun import Refused
from sweeps.dispatch.ledger import certify

OVER = 1  # exit code when every certificate has been written
LIMIT = 1001  # SLURM's own default of MaxArraySize
SECONDS = 90  # before a task's end, for its packs to be saved


def parser() -> argparse.ArgumentParser:
    out = command.parser("sweeps.slurm", __doc__)
    run_lib.add_study(out)
    add = out.add_argument
    add("--workers", type=_above_zero, default=1, help="tasks (default: 1)")
    add("--at_once", type=int, default=0, help="most tasks at a time; 0: no limit (default)")
    add("--sbatch", default=[], type=shlex.split, help="options of the job, as sbatch takes them")
    add("--setup", default="", help="a line to run first, such as a module load")
    add("--slots", type=work.count, default=1, help="packs at a time in a task (default: 1)")
    add("--sharded", action="store_true", help="each run over all tasks of a job (srun)")
    add("--timeout", type=float, default=0.0, help="seconds a pack may take; 0: no limit (default)")
    return out


def _above_zero(text: str) -> int:
    if work.count(text) == 0:
        raise argparse.ArgumentTypeError("0 tasks train nothing")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    arguments, overrides = parser().parse_known_args(argv)
    return command.guarded(
        lambda: submit(arguments, overrides),
        Refused,
        interrupted="run the same command again to go on",
    )


def submit(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Begins the study and prints its job script; the lines about it go to stderr."""
    say: Callable = lambda line: print(line, file=sys.stderr)  # noqa: E731
    study, _ = run_lib.resolve(arguments, overrides, say)
    store = open_store(str(arguments.workdir))
    run_lib.begin(study, store, arguments, say)
    state, failed, ledger = standing(store, study)
    if all(trial in failed for trial in state.pending):
        certify(study, state, store, {}, failed)
        run_lib.report(study, state, ledger.outcomes, failed, say)
        return OVER
    avoid = set_aside(store)
    if avoid:
        say(f"set aside: {', '.join(avoid)}; packs died there and other nodes work")
    say(f"{len(state.pending)} trials to go in this round; submit with")
    for tasks in arrays(arguments.workers, max_array_size()):
        at_once = f"%{arguments.at_once}" if arguments.at_once else ""
        say(f"    sbatch --array={tasks}{at_once} job.sh")
    print(script(arguments, study.config["name"], avoid))
    return 0


def arrays(count: int, limit: int) -> Iterator[str]:
    """Index ranges of at most `limit` tasks each."""
    for first in range(0, count, limit):
        yield f"0-{min(limit, count - first) - 1}"


def max_array_size() -> int:
    """How many tasks an array may have here."""
    if shutil.which("scontrol") is None:
        return LIMIT
    said = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", said)
    return max(1, int(found[1])) if found else LIMIT


def script(arguments: argparse.Namespace, study: str, avoid: Sequence[str]) -> str:
    """The job script of a worker."""
    workdir = str(arguments.workdir)
    output = []
    if not in_bucket(workdir):
        workdir = str(Path(workdir).resolve())
        output = [f"#SBATCH --output={workdir}/logs/slurm-%A-%a.log"]
        (Path(workdir) / "logs").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "sweeps.work", f"--workdir={workdir}", *work.flags(arguments)]
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={study}",
        *output,
        "#SBATCH --nodes=1 --ntasks=1 --requeue" if not arguments.sharded else "#SBATCH --requeue",
        f"#SBATCH --signal=B:TERM@{SECONDS}",
        *[f"#SBATCH --exclude={','.join(avoid)}"] * bool(avoid),
        *[f"#SBATCH {shlex.join(arguments.sbatch)}"] * bool(arguments.sbatch),
        "set -e",
        *[arguments.setup] * bool(arguments.setup),
        f"cd {shlex.quote(os.getcwd())}",
        f"exec {'srun --kill-on-bad-exit=1 ' * arguments.sharded}{shlex.join(command)}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see docs/design.md on LAPACK under XLA
    sys.exit(main())
