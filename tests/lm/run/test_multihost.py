"""Two real processes over loopback: they train one run, one is killed, both come back."""

import os
import signal
import socket
import subprocess
import sys
import time

import fake_bucket
import pytest
import tiny

pytestmark = pytest.mark.slow

COMMAND = [
    *("--config=configs/run.py:nano-xs,1x,muon", "--config.train.steps=80"),
    *("--config.checkpoint.every_steps=16", "--config.log.every_steps=8"),
]


class Job:
    """The same command in two processes that find each other by the environment."""

    def __init__(self, folder, log, **elsewhere):
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
            command = [sys.executable, "-m", "lm.train", *COMMAND, f"--workdir={folder}"]
            with open(path, "w") as out:
                self.processes.append(
                    subprocess.Popen(command, stdout=out, stderr=out, env=environment)
                )

    def wait(self, timeout=300):
        return [process.wait(timeout) for process in self.processes]

    def said(self, rank):
        return self.logs[rank].read_text()


def trial(folder):
    return next(folder.glob("trials/*"))


def saved(folder):
    """Steps of the whole checkpoints so far."""
    return [int(p.name) for p in folder.glob("trials/*/checkpoint/*") if p.name.isdigit()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    job = Job(folder / "runs", folder / "log")
    assert job.wait() == [0, 0], job.said(0) + job.said(1)
    return folder / "runs", job


def test_both_say_who_they_are_and_one_writes(whole):
    folder, job = whole
    for rank in range(2):
        assert f"process {rank} of 2: " in job.said(rank)
    assert "ETA" in job.said(0) and "ETA" not in job.said(1)
    assert len(list(folder.glob("trials/*"))) == 1
    assert tiny.curve(trial(folder))[-1]["validation_loss"] < 4.0


def test_a_job_that_lost_a_host_waits_and_its_next_start_finishes_it(whole, tmp_path):
    job = Job(tmp_path / "runs", tmp_path / "log")
    while not saved(tmp_path / "runs"):
        assert job.processes[0].poll() is None, job.said(0)
        time.sleep(0.05)
    job.processes[1].send_signal(signal.SIGKILL)
    time.sleep(2.0)
    # The other cannot go on alone. JAX ends it after 100 s of silence; a scheduler does at once.
    assert not (trial(tmp_path / "runs") / "result.json").exists()
    job.processes[0].send_signal(signal.SIGKILL)
    job.wait()
    again = Job(tmp_path / "runs", tmp_path / "again")
    assert again.wait() == [0, 0], again.said(0) + again.said(1)
    assert "going on from the checkpoint at step" in again.said(0)
    assert tiny.curve(trial(tmp_path / "runs")) == tiny.curve(trial(whole[0]))


def test_a_job_in_a_bucket_is_killed_while_it_saves_and_goes_on(whole, tmp_path):
    with fake_bucket.Bucket() as bucket:
        job = Job("gs://race/runs", tmp_path / "log", **bucket.environment)
        while not any("/checkpoint/32/" in name for name in list(bucket.objects)):
            assert job.processes[0].poll() is None, job.said(0)
            time.sleep(0.02)
        for process in job.processes:
            process.send_signal(signal.SIGKILL)
        job.wait()
        again = Job("gs://race/runs", tmp_path / "again", **bucket.environment)
        assert again.wait() == [0, 0], again.said(0) + again.said(1)
        assert "going on from the checkpoint at step" in again.said(0)
        (tmp_path / "curve.jsonl").write_text(bucket.one("curve.jsonl"))
    assert tiny.curve(tmp_path) == tiny.curve(trial(whole[0]))


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
