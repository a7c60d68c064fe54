"""Runs kept in a bucket: `lm.train --workdir=gs://...` against an imitation of Google's."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import fake_bucket
import jax.numpy as jnp
import pytest
import tiny

from lm import storage, train
from lm.run.checkpoints import Checkpoints
from lm.storage import files
from sweeps import run as sweeps_run

CONFIG = "--config=configs/run.py:nano-xs,1x,muon"
COMMAND = [CONFIG, "--config.train.steps=80", "--config.checkpoint.every_steps=16"]


@pytest.fixture(scope="module")
def bucket():
    with fake_bucket.Bucket() as found:
        yield found


def start(bucket, *arguments):
    command = [sys.executable, "-m", "lm.train", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=os.environ | bucket.environment, **streams)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_the_bucket(bucket, tmp_path, monkeypatch, capsys):
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    storage.files.open_store.cache_clear()
    with start(bucket, *COMMAND, f"--workdir={tmp_path}") as process:
        assert process.wait(200) == 0, process.stdout.read()
    (folder,) = tmp_path.glob("trials/*")

    with start(bucket, *COMMAND, "--workdir=gs://race/runs") as process:
        while process.poll() is None:
            if any("/checkpoint/32/_CHECKPOINT_METADATA" in name for name in list(bucket.objects)):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        said = process.communicate(timeout=200)[0]
    assert process.returncode == -signal.SIGKILL, said
    assert not any(name.endswith("result.json") for name in list(bucket.objects))
    assert bucket.one("curve.jsonl")

    with start(bucket, *COMMAND, "--workdir=gs://race/runs") as process:
        said = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and "going on from the checkpoint at step" in said, said
    assert f"gs://race/runs/trials/{folder.name}\n" in said

    # The same files with the same numbers as on a disk, and no checkpoint left over.
    (tmp_path / "curve.jsonl").write_text(bucket.one("curve.jsonl"))
    assert tiny.curve(tmp_path) == tiny.curve(folder) != []
    result = json.loads(bucket.one("result.json"))
    assert result["loss"] == json.loads((folder / "result.json").read_text())["loss"]
    assert bucket.one("config.json") == (folder / "config.json").read_text()
    assert not [name for name in list(bucket.objects) if "/checkpoint/" in name]

    monkeypatch.setattr(train, "Termination", lambda log: types.SimpleNamespace())
    assert train.main([*COMMAND, "--workdir=gs://race/runs"]) == 0
    assert "has its result already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_one_line_before_anything_compiles(bucket):
    with start(bucket, *COMMAND, "--workdir=gs://nowhere/runs") as process:
        *_, last = process.communicate(timeout=200)[0].splitlines()
    assert process.returncode == 2
    assert last.startswith("error: gs://nowhere/runs/trials/") and "cannot be written" in last


@pytest.mark.slow
def test_a_bucket_out_of_reach_is_one_line(bucket):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        found = copy.copy(bucket)
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        found.environment = fake_bucket.environment(url)
        with start(found, *COMMAND, "--workdir=gs://race/elsewhere") as process:
            said = process.communicate(timeout=200)[0]
    assert process.returncode == 2 and "Traceback" not in said, said
    assert "cannot be read: Generic GCS error: Error performing GET" in said.splitlines()[-1]


def test_checkpoints_in_s3_are_copied_whole_and_restored_elsewhere(bucket, monkeypatch):
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    storage.files.open_store.cache_clear()
    folders = [storage.at(f"s3://race/trials/{name}") for name in "ab"]
    settings = {"every_steps": 2, "every_minutes": 0, "keep": 2}
    first = Checkpoints(folders, settings, print)
    for step in (2, 4, 6):
        states = [{"x": jnp.full(3, step + i)} for i in range(2)]
        first.save(step, states, [True, True])
    kept = [name for name in bucket.objects if "/checkpoint/" in name]
    assert sorted(kept) == [f"trials/{n}/checkpoint/{s}.tar" for n in "ab" for s in (4, 6)]
    first.close(delete=False)
    second = Checkpoints(folders, settings, print)
    step, members = second.restore(lambda: [{"x": jnp.zeros(3, int)}] * 2)
    assert step == 6 and [member["x"].tolist() for member in members] == [[6] * 3, [7] * 3]
    second.close(delete=True)
    assert not [name for name in bucket.objects if "/checkpoint/" in name]


@pytest.mark.parametrize("command", [train.main, sweeps_run.main])
def test_other_addresses_are_refused(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        command([CONFIG, "--workdir=ftp://race/runs"])
    assert "ftp://race/runs is neither a folder nor an address of s3" in capsys.readouterr().err


def test_lines_of_a_bucket_are_uploaded_now_and_then(monkeypatch):
    clock, uploads, error = [0.0], [], []

    def write(path, content):
        if error:
            raise error[0]
        uploads.append(content)

    monkeypatch.setattr(files.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(files, "write", write)
    lines = storage.Lines(storage.at("gs://race/curve.jsonl"))
    for now, line in ((1, "a"), (29, "b"), (31, "c"), (32, "d")):
        clock[0] = now
        lines.write(line)
    assert uploads == ["a\nb\nc\n"]
    lines.flush()
    assert uploads[-1] == "a\nb\nc\nd\n"

    error.append(OSError("503"))
    clock[0] = 70
    lines.write("e")  # training goes on
    with pytest.raises(OSError, match="503"):
        lines.flush()
    error.clear()
    lines.close()
    assert uploads[-1] == "a\nb\nc\nd\ne\n"
