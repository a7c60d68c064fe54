"""Many workers and two drivers on one store, on a disk and in a bucket, while processes are killed
and stopped at random and the store fails: no result twice, none lost, the certificates of an
undisturbed run.

    make stress

runs it with 40 workers over 2,000 trials. BESTIARY_STRESS_SEED chooses another order of accidents.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from study_rig import ROOT, STUDY, command, run, until

from lm.storage import open_store
from sweeps import run as run_lib

PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])


class Storm:
    """Workers that are started again when they are gone, and what befalls them."""

    def __init__(self, address, study, environment, count, seed):
        work = ["sweeps.work", f"--workdir={address}", "--trainer=fake_trainer:train_pack"]
        drive = ["sweeps.run", *command(address, study=study), "--workers=1"]
        self.words = [drive, drive, *[work] * (count - 2)]
        self.environment = {
            **os.environ,
            **environment,
            "PYTHONPATH": PATHS,
            "BESTIARY_HEARTBEAT": "2",
            "BESTIARY_FAKE": json.dumps({"sleep": 0.2}),
        }
        self.rng, self.killed, self.stopped, self.codes = random.Random(seed), 0, {}, []
        self.workers = [self.start(i) for i in range(count)]

    def start(self, i):
        command = [sys.executable, "-m", *self.words[i]]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=self.environment, **quiet)

    def rage(self, accidents, every, limit):
        """Lets accidents happen, then the rest be done."""
        end, due = time.monotonic() + limit, time.monotonic() + every
        while any(worker.poll() is None for worker in self.workers):
            assert time.monotonic() < end, f"not over, after {self.codes}"
            for i, worker in enumerate(self.workers):
                if worker.poll() not in (None, 0):
                    self.codes.append((worker.returncode, worker.stderr.read()[-300:]))
                    worker.stderr.close()
                    self.workers[i] = self.start(i)
            for worker, end_of_stop in list(self.stopped.items()):
                if time.monotonic() > end_of_stop:
                    del self.stopped[worker]
                    with contextlib.suppress(ProcessLookupError):
                        worker.send_signal(signal.SIGCONT)
            if accidents and time.monotonic() > due:
                accidents, due = accidents - 1, time.monotonic() + every
                self.accident()
            time.sleep(0.05)

    def accident(self):
        worker = self.rng.choice(self.workers)
        if worker.poll() is not None or worker in self.stopped:
            return
        if self.rng.random() < 0.6 or not self.killed:
            worker.kill()
            self.killed += 1
        else:
            worker.send_signal(signal.SIGSTOP)
            self.stopped[worker] = time.monotonic() + 4 + 10 * self.rng.random()

    def close(self):
        for worker in self.workers:
            worker.kill()
            worker.wait()
            worker.stderr.close()


def weather(tmp_path, place, study, count, accidents, every, limit):
    seed = int(os.environ.get("BESTIARY_STRESS_SEED", "0"))
    assert run(tmp_path / "still", study=study) == 0
    address, environment, server = str(tmp_path / "storm"), {}, None
    if place == "s3":
        script = str(ROOT / "tests/support/fake_bucket.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        server = subprocess.Popen([sys.executable, script, "0.02"], **pipes)
        environment = json.loads(server.stdout.readline())
        address = "s3://race/storm"
    environment["BESTIARY_JOURNAL"] = str(tmp_path)
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        open_store.cache_clear()
        arguments, overrides = run_lib.parser().parse_known_args(command(address, study=study))
        raced, _ = run_lib.resolve(arguments, overrides, print)
        store = open_store(address)
        run_lib.begin(raced, store, arguments, print)
        storm = Storm(address, study, environment, count, seed)
        try:
            storm.rage(accidents, every, limit)
        finally:
            storm.close()
        until(lambda: not store.list("workers"))  # those whose drivers were killed too
        names = (tmp_path / "trained").read_text().split()
        print(
            f"{place}: {len(names)} trials, {count} workers, {storm.killed} killed, "
            f"{len(names) - len(set(names))} trained twice, {time.monotonic() - began:.0f} s"
        )
        still = {p.name: p.read_bytes() for p in (tmp_path / "still/certificates").iterdir()}
        there = {name: store.read(f"certificates/{name}") for name in store.list("certificates")}
        assert there == still
        results = store.find("trials", "result.json")
        assert set(results) == {path.name for path in (tmp_path / "still/trials").iterdir()}
        assert len(names) == len(set(names)) and set(names) <= set(results)
        assert not store.list("claims")
        assert not [path for path in tmp_path.glob("storm/**/.*")]  # no litter of killed writers
    if server:
        server.communicate()
    open_store.cache_clear()
    # What ended otherwise than by a kill said why: its right was taken, or the store failed it.
    assert all(code in (-9, 75, 2) for code, _ in storm.codes), storm.codes
    return storm


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_short_storm(tmp_path, place):
    weather(tmp_path, place, STUDY, count=4, accidents=8, every=1.5, limit=200)


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_long_storm(tmp_path, place):
    weather(tmp_path, place, f"{STUDY}:storm", count=40, accidents=150, every=1.0, limit=3000)
