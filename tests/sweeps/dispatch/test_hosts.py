"""A worker over two processes on loopback, joined by `jax.distributed`: the first plans and claims,
the second follows.
"""

import json
import os
import socket
import subprocess
import sys

import pytest
from study_rig import ROOT, STUDY

from lm.storage import open_store
from sweeps import run as run_lib

pytestmark = pytest.mark.stress  # a minute of CPU


def start(workdir):
    """`python -m sweeps.work --sharded` twice, as two hosts of a slice."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    core = str(min(os.sched_getaffinity(0)))  # one core each: one device
    words = ["taskset", "-c", core, sys.executable, "-m", "sweeps.work", f"--workdir={workdir}"]
    environment = {**os.environ, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    return [
        subprocess.Popen(
            [*words, "--sharded"], env={**environment, "JAX_PROCESS_ID": str(rank)}, **pipes
        )
        for rank in range(2)
    ]


def test_a_worker_of_two_processes_trains_a_study_and_both_leave(tmp_path):
    words = [f"--config={STUDY}:real", f"--workdir={tmp_path}", "--config.mesh.data=2"]
    arguments, overrides = run_lib.parser().parse_known_args(words)
    study, _ = run_lib.resolve(arguments, overrides, print)
    run_lib.begin(study, open_store(str(tmp_path)), arguments, print)
    hosts = start(tmp_path)
    said = [host.communicate(timeout=600)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    assert "nothing is left to train: 2 trials are over" in said[0] and said[1] != said[0]
    results = [json.loads(p.read_text()) for p in tmp_path.glob("trials/*/result.json")]
    assert [(run["status"], run["device_count"]) for run in results] == [("finished", 2)] * 2
    assert len(list(tmp_path.glob("certificates/*"))) == 1
    assert not list(tmp_path.glob("workers/*")) and not list(tmp_path.glob("claims/*"))
