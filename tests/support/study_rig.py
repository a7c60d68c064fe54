"""A study command with a fake trainer: run here, in another process, or killed; what it left."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from sweeps import run as run_lib

ROOT = Path(__file__).parents[2]
STUDY = str(ROOT / "tests/support/tiny_race.py")


def command(workdir, *extra, study=STUDY):
    return [
        f"--config={study}",
        f"--workdir={workdir}",
        "--trainer=fake_trainer:train_pack",
        *extra,
    ]


def run(workdir, *extra, study=STUDY):
    return run_lib.main(command(workdir, *extra, study=study))


def process(workdir, *extra, study=STUDY, **fake):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
    environment = {**os.environ, "PYTHONPATH": paths, "BESTIARY_FAKE": json.dumps(fake)}
    environment["BESTIARY_HEARTBEAT"] = "1"
    words = [sys.executable, "-m", "sweeps.run", *command(workdir, *extra, study=study)]
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def trained(workdir):
    path = workdir / "trained"
    return path.read_text().split() if path.exists() else []


def until(condition, seconds=120):
    """Waits for a condition; fails when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def table(workdir):
    """Everything a study leaves that may be compared byte for byte."""
    files = sorted((workdir / "certificates").iterdir())
    names = sorted(path.name for path in (workdir / "trials").iterdir())
    return {path.name: path.read_bytes() for path in files}, names


def certificate(workdir, cell):
    return json.loads((workdir / "certificates" / f"{cell}.json").read_text())
