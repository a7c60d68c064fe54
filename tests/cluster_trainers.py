"""Fake trainers that look at where they run."""

import json
import os
import time
from pathlib import Path

import fake_trainer

NAMES = ("PROCESS_ID", "NUM_PROCESSES", "COORDINATOR_ADDRESS")


def picky(configs, folders, *, log=print):
    """Fails on nodes whose environment says so, and tells of every attempt."""
    bad = os.environ.get("TEST_BAD_NODE")
    with open(Path(folders[0]).parents[1] / "attempts", "a") as journal:
        journal.write("bad\n" if bad else "good\n")
    if bad:
        raise RuntimeError("the device is gone")
    fake_trainer.train_pack(configs, folders, log=log)


def gang(configs, folders, *, log=print):
    """Notes what a gang's processes were told. The first needs the others' part, then writes."""
    rank, count, address = (os.environ[f"JAX_{name}"] for name in NAMES)
    root = Path(folders[0]).parents[1]
    with open(root / "gang", "a") as journal:
        journal.write(f"{Path(folders[0]).name} {rank} {count} {address}\n")
    part = root / f"part-{Path(folders[0]).name}-{address}"
    if rank == "0":
        while not part.exists():  # for ever, as a collective without its peer
            time.sleep(0.02)
        fake_trainer.train_pack(configs, folders, log=log)
    else:
        time.sleep(json.loads(os.environ["BESTIARY_FAKE"]).get("sleep", 0))
        part.touch()
