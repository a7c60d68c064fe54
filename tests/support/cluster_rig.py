"""A simulated Ray cluster on loopback, and studies driven on it as processes that may be killed."""

import contextlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
STUDY = str(ROOT / "tests/support/tiny_race.py")
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
FAST = {"BESTIARY_HEARTBEAT": "1", "PYTHONPATH": PATHS}


@contextlib.contextmanager
def forking():
    """JAX, where a test before has used it, warns of forks; Ray's children never touch it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        yield


class Rig:
    """A head and nodes; what they start inherits the environment that `FAST` describes."""

    def __init__(self, nodes, **each):
        os.environ.update(FAST, RAY_USAGE_STATS_ENABLED="0")
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        # A killed node refuses checks, which shows after three of them; one that is slow to answer
        # on a busy machine must not be lost, and has three times 30 s.
        health = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
        health["health_check_timeout_ms"] = 30_000
        head = {**small, "num_cpus": 0, "_system_config": health}
        with forking():
            self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.each = {"object_store_memory": small["object_store_memory"], **each}
        self.nodes = [self.add() for _ in range(nodes)]
        self.address = self.cluster.address

    def add(self, **others):
        with forking():
            return self.cluster.add_node(wait=True, **{**self.each, **others})

    def kill(self, node):
        """As when the machine loses power."""
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)

    def close(self):
        import ray

        ray.shutdown()
        self.cluster.shutdown()

    def drive(self, workdir, *extra, study=STUDY, trainer="fake_trainer:train_pack", **fake):
        """Starts `python -m sweeps.run` on the cluster."""
        environment = {**os.environ, **FAST, "BESTIARY_FAKE": json.dumps(fake)}
        words = [sys.executable, "-m", "sweeps.run"]
        words += ["--executor=ray", f"--address={self.address}"]
        words += [f"--config={study}", f"--workdir={workdir}", f"--trainer={trainer}"]
        return subprocess.Popen(
            [*words, *extra],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def workers(workdir):
    """Process ids of the worker processes that train for a workdir."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            log = os.readlink(entry / "fd/2")
        except (OSError, ValueError):
            continue
        if b"sweeps.dispatch.child" in words and log.startswith(str(workdir)):
            found.append(int(entry.name))
    return found
