"""Fake trainers that look at where they run."""

import os
from pathlib import Path

import fake_trainer


def picky(configs, folders, *, log=print):
    """Fails on nodes whose environment says so, and tells of every attempt."""
    bad = os.environ.get("TEST_BAD_NODE")
    with open(Path(folders[0]).parents[1] / "attempts", "a") as journal:
        journal.write("bad\n" if bad else "good\n")
    if bad:
        raise RuntimeError("the device is gone")
    fake_trainer.train_pack(configs, folders, log=log)


def gang(configs, folders, *, log=print):
    """What a gang's processes were told; only the first writes results."""
    names = ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS")
    words = [os.environ[name] for name in names] + [os.environ.get("TEST_NODE", "")]
    with open(Path(folders[0]).parents[1] / "gang", "a") as journal:
        journal.write(" ".join([Path(folders[0]).name, *words]) + "\n")
    if os.environ["JAX_PROCESS_ID"] == "0":
        fake_trainer.train_pack(configs, folders, log=log)
