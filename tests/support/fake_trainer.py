"""A trainer that takes no time: losses from a formula, result files like the real ones.

BESTIARY_FAKE holds JSON: {"sleep": seconds per trial, "crash" | "hang" | "raise" | "disk": a
learning rate at which that happens instead ("raise" may be "any"), "kill_trainer" | "kill_parent":
so many results after which this process, or its parent, is killed}. Every result is also noted in
the workdir's `trained` file, so that tests can count trainings.
"""

import json
import math
import os
import signal
import time
from pathlib import Path

from lm import storage
from lm.config import canonical, config_hash, what


def loss_of(config):
    """Quadratic in log2 of the learning rate around 8e-3, worse with small beta2, lower with more
    tokens.
    """
    optimizer, train = config["optimizer"], config["train"]
    octaves = math.log2(optimizer["learning_rate"] / 8e-3)
    wiggle = int(config_hash(config), 16) % 1000 * 1e-6
    level = 3.0 - 0.1 * math.log(train["chinchilla_ratio"])
    return level + 0.02 * octaves**2 + 0.1 * (1 - optimizer["beta2"]) + wiggle


def result_of(config):
    diverged = config["optimizer"]["learning_rate"] > 0.2
    train, model = config["train"], config["model"]
    return {
        "hash": config_hash(config),
        "status": "diverged" if diverged else "finished",
        "reason": "loss is not finite" if diverged else None,
        "diverged_step": 3 if diverged else None,
        "loss": None if diverged else loss_of(config),
        "tokens": train["steps"] * train["batch_size"] * model["sequence_length"],
        "flops": 1e6 * train["steps"],
        "seconds": 0.01,
    }


def train_pack(configs, folders, *, log=print, right=None, termination=None):
    behaviour = json.loads(os.environ.get("BESTIARY_FAKE", "{}"))
    rates = [config["optimizer"]["learning_rate"] for config in configs]
    if behaviour.get("crash") in rates:
        os._exit(3)
    if behaviour.get("hang") in rates:
        time.sleep(600)
    if behaviour.get("raise") in ("any", *rates):
        raise ValueError("the program cannot be built")
    results = []
    for config, folder in zip(configs, map(storage.at, folders), strict=True):
        if behaviour.get("disk") == config["optimizer"]["learning_rate"]:
            raise OSError(28, "No space left on device", str(folder))
        time.sleep(behaviour.get("sleep", 0))
        write(folder, config, right)
        results.append(result_of(config))
        accident(journal_of(folder), behaviour)
    return results


def accident(root, behaviour):
    """Kills this process or its parent, each once for every so many results."""
    count = len((root / "trained").read_text().split())
    for victim, process in (("kill_trainer", os.getpid()), ("kill_parent", os.getppid())):
        turn = count // behaviour.get(victim, 10**9)
        try:
            if turn:
                os.close(os.open(root / f"{victim}-{turn}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        if turn:
            os.kill(process, signal.SIGKILL)


def journal_of(folder):
    """The folder of `trained`: the workdir, or BESTIARY_JOURNAL where that is a bucket."""
    return Path(os.environ.get("BESTIARY_JOURNAL") or folder.parent.parent)


def write(folder, config, right=None):
    if not storage.in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)
    storage.write(folder / "config.json", canonical(what(config)))
    if right is None:
        storage.write_json(folder / "result.json", result_of(config))
    else:
        right.finish(folder.name, result_of(config))
    with open(journal_of(folder) / "trained", "a") as journal:
        journal.write(folder.name + "\n")
