"""Two real processes over loopback: one run, one end, whatever happens to either of them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import fake_bucket
import pytest
import tiny

from lm.run.stopping import LOST

pytestmark = pytest.mark.slow

# One program for all: what the first job compiles the others find in the cache.
COMMAND = [
    *("--config=configs/run.py:nano-xs,1x,adamw", "--config.train.steps=48"),
    "--config.optimizer.warmup=8",
    *("--config.checkpoint.every_steps=16", "--config.log.every_steps=8"),
    "--config.program.steps_per_call=1",
]
LONG = "--config.train.steps=100000"  # not over before something happens to it
# The second process's clock says that it is an hour since the last save.
SKEWED = """
import os, sys
from lm.run import checkpoints
init = checkpoints.Checkpoints.__init__
def ahead(self, *arguments):
    init(self, *arguments)
    self.saved_at -= 3600 * int(os.environ["JAX_PROCESS_ID"])
checkpoints.Checkpoints.__init__ = ahead
from lm.train import main
sys.exit(main(sys.argv[1:]))
"""


class Job:
    """The same command in two processes of a core each, that find each other by the environment."""

    def __init__(self, folder, log, *extra, program=("-m", "lm.train"), **elsewhere):
        cores = sorted(os.sched_getaffinity(0))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.logs = [log.with_suffix(f".{rank}") for rank in range(2)]
        self.processes = []
        for rank, path in enumerate(self.logs):
            environment = (
                os.environ
                | elsewhere
                | {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": "2",
                    "JAX_PROCESS_ID": str(rank),
                    "PYTHONUNBUFFERED": "1",
                }
            )
            core = str(cores[rank % len(cores)])
            command = ["taskset", "-c", core, sys.executable, *program, *COMMAND]
            command += [f"--workdir={folder}", *extra]
            with open(path, "w") as out:
                self.processes.append(
                    subprocess.Popen(command, stdout=out, stderr=out, env=environment)
                )

    def wait(self, timeout=900):
        return [process.wait(timeout) for process in self.processes]

    def said(self, rank):
        return self.logs[rank].read_text()

    def until(self, happened):
        """Waits for an event; both processes have to live to see it."""
        while not happened():
            assert all(process.poll() is None for process in self.processes), self.said(0)
            time.sleep(0.02)

    def until_it_trains(self):
        self.until(lambda: "ETA" in self.said(0))


@pytest.fixture
def start():
    """Starts jobs; what is left of them ends with the test."""
    jobs = []
    yield lambda *arguments, **options: jobs.append(Job(*arguments, **options)) or jobs[-1]
    for process in (process for job in jobs for process in job.processes):
        process.kill()
        process.wait()


def saved(folder):
    """Steps of the whole checkpoints so far."""
    return [int(p.name) for p in folder.glob("trials/*/checkpoint/*") if p.name.isdigit()]


def test_a_job_in_a_bucket_that_lost_a_host_says_so_and_its_next_start_finishes_it(start, tmp_path):
    """Its processes disagree about the time, too, with saves by time."""
    minutes = "--config.checkpoint.every_minutes=0.02"
    with fake_bucket.Bucket() as bucket:
        where, skewed = ("gs://race/runs", tmp_path / "log"), ("-c", SKEWED)
        job = start(*where, minutes, program=skewed, **bucket.environment)
        job.until(lambda: any("/checkpoint/32/" in name for name in list(bucket.objects)))
        job.processes[1].send_signal(signal.SIGKILL)
        assert job.wait() == [LOST, -signal.SIGKILL], job.said(0)
        (line,) = (line for line in job.said(0).splitlines() if line.startswith("error: "))
        assert "another process of this job is gone" in line
        assert not any(name.endswith("result.json") for name in bucket.objects)
        again = start("gs://race/runs", tmp_path / "again", **bucket.environment)
        assert again.wait() == [0, 0], again.said(0) + again.said(1)
        assert "going on from the checkpoint at step" in again.said(0)
        (tmp_path / "curve.jsonl").write_text(bucket.one("curve.jsonl"))
    for rank in range(2):
        assert f"process {rank} of 2: " in again.said(rank)
    assert "ETA" in again.said(0) and "ETA" not in again.said(1)  # one writes
    curve = tiny.curve(tmp_path)
    assert [line["step"] for line in curve if "train_loss" in line] == list(range(8, 49, 8))
    assert curve[-1]["validation_loss"] < 4.0


def test_a_signal_to_all_or_to_one_stops_all_after_the_same_step(start, tmp_path):
    for name, ranks in (("both", (0, 1)), ("one", (1,))):
        job = start(tmp_path / "runs", tmp_path / name, LONG)
        job.until_it_trains()
        for rank in ranks:
            job.processes[rank].send_signal(signal.SIGTERM)
        assert job.wait() == [0, 0], job.said(0) + job.said(1)
        lines = {job.said(rank).splitlines()[-1] for rank in range(2)}
        (step,) = (int(re.match(r"stopped at step (\d+)/", line)[1]) for line in lines)
        assert step in saved(tmp_path / "runs")
    assert "going on from the checkpoint at step" in job.said(1)


def test_who_waits_for_a_host_that_hangs_says_so_and_ends(start, tmp_path):
    patience = "--config.checkpoint.patience_seconds=10"
    job = start(tmp_path / "runs", tmp_path / "log", LONG, patience)
    job.until_it_trains()
    job.processes[1].send_signal(signal.SIGSTOP)
    assert job.processes[0].wait(900) == LOST
    assert job.said(0).splitlines()[-1].startswith("error: no progress for ")


def test_a_host_that_is_alone_gives_up_with_the_reason(tmp_path):
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
    }
    code = "from lm.run import mesh; mesh.start(print, timeout=2)"
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert out.returncode != 0
    assert "joining a job of 2 processes, at most 2 s" in out.stdout
