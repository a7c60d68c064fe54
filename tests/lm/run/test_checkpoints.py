"""lm/run/checkpoints.py, stopping.py: resuming is the uninterrupted run, bit for bit."""

import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from lm import train
from lm.config import config_hash
from lm.data import documents
from lm.data.cache import key_of
from lm.data.tokenizer import Bytes
from lm.run.checkpoints import Checkpoints
from lm.run.loop import Loop
from lm.run.packed import Packed
from lm.run.solo import Solo
from lm.run.step import judged, only_judged
from lm.run.stopping import LOST, Stopped

ROOT = Path(__file__).parents[3]
CHECKPOINT = {"delete_when_finished": False, "keep": 3}


class StopAfter:
    """A termination that is asked for at the n-th call of the loop."""

    def __init__(self, calls):
        self.calls, self.busy, self.requested = calls, False, self

    def is_set(self):
        self.calls -= 1
        return self.calls == 0


def config(optimizer="adamw", *, seed=0, mesh=1, **checkpoint):
    sections = {
        "checkpoint": {**CHECKPOINT, **checkpoint},
        "program": {"steps_per_call": 4},
        "mesh": {"data": mesh},
        "log": {"every_steps": 4},
    }
    return tiny.config(optimizer, steps=24, batch_size=8, seed=seed, sections=sections)


def loop(program, configs, folder, termination=None, log=lambda line: None):
    """(curves, last states) of the runs, or the words of a stop."""
    folders = [folder / config_hash(c) for c in configs]
    corpus = train.open_corpus(configs[0], log)
    made = Loop(program(configs), folders, corpus, log, termination)
    try:
        made.run()
    except Stopped as stopped:
        return str(stopped)
    return [tiny.curve(folder) for folder in folders], made.program.fetch(made.state)


def assert_the_same(found, whole):
    """Every number of the curves and every leaf of the states, bit for bit."""
    assert found[0] == whole[0] != [[]]
    jax.tree.map(np.testing.assert_array_equal, found[1], whole[1])


def solo(devices):
    return lambda configs: Solo(configs, jax.devices()[:devices])


def one_device(configs):
    return Packed(configs, jax.devices()[:1])


def slow_but(names):
    quick = ("adamw", "muon")
    return [pytest.param(n, marks=[] if n in quick else pytest.mark.slow) for n in names]


# Moments, stacks with a cadence, a probe, an average; the battery saves the state of every rule.
STATES = ["adamw", "soap", "sophia", "schedule_free"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An AdamW run that nothing interrupts."""
    return loop(solo(1), [config()], tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("optimizer", slow_but(STATES))
def test_solo_resumes_bitwise(whole, tmp_path, optimizer):
    if optimizer != "adamw":
        whole = loop(solo(1), [config(optimizer)], tmp_path / "whole")
    stopped = loop(solo(1), [config(optimizer)], tmp_path / "cut", StopAfter(3))
    assert "stopped at step 12/24" in stopped
    assert_the_same(loop(solo(1), [config(optimizer)], tmp_path / "cut"), whole)


@pytest.mark.slow
def test_pack_resumes_bitwise(tmp_path):
    configs = [config(), config(seed=1)]
    whole = loop(one_device, configs, tmp_path / "whole")
    loop(one_device, configs, tmp_path / "cut", StopAfter(3))
    assert_the_same(loop(one_device, configs, tmp_path / "cut"), whole)


@pytest.mark.slow
def test_other_meshes_continue_within_rounding(whole, tmp_path):
    for devices, calls in ((8, 2), (4, 2), (1, None)):
        stop = StopAfter(calls) if calls else None
        moved = loop(solo(devices), [config(mesh=-1)], tmp_path, stop)
    found, expected = (curves[0][-1]["validation_loss"] for curves, _ in (moved, whole))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_checkpoint_cut_short_is_skipped_for_the_one_before(whole, tmp_path):
    configs = [config(every_steps=4)]
    loop(solo(1), configs, tmp_path, StopAfter(3))
    folder = tmp_path / config_hash(configs[0]) / "checkpoint"
    assert sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) == [4, 8, 12]
    for path in (folder / "12").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    lines = []
    assert_the_same(loop(solo(1), configs, tmp_path, log=lines.append), whole)
    assert any("checkpoint 12 cannot be read, trying the one before" in line for line in lines)
    assert any("going on from the checkpoint at step 8/24" in line for line in lines)


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free"])
def test_a_model_is_judged_by_a_part_of_its_checkpoint(optimizer, tmp_path):
    program = Solo([config(optimizer)], jax.devices()[:1])
    state = program.init()
    saved = Checkpoints([tmp_path], config()["checkpoint"], print)
    saved.save(3, program.members(state), [True])
    saved.close(delete=False)
    saved = Checkpoints([tmp_path], config()["checkpoint"], print)  # as another process
    part = [only_judged(member) for member in program.abstract_members()]
    _, (found,) = saved.restore(lambda: part)
    jax.tree.map(np.testing.assert_array_equal, judged(found), judged(state))
    assert found.step is ... and ... in jax.tree.leaves(found.optimizer)


@pytest.mark.slow
def test_old_checkpoints_go_and_finished_runs_keep_none_by_default(tmp_path):
    kept = [config(every_steps=4, keep=2)]
    loop(solo(1), kept, tmp_path)
    folder = tmp_path / config_hash(kept[0]) / "checkpoint"
    assert sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) == [20, 24]
    saved = Checkpoints([folder.parent], kept[0]["checkpoint"], print)
    step, (final,) = saved.restore(Solo(kept, jax.devices()[:1]).abstract_members)
    saved.close(delete=False)
    assert step == final.step == 24
    gone = [config("lion", every_steps=4, delete_when_finished=True)]
    loop(solo(1), gone, tmp_path)
    assert not (tmp_path / config_hash(gone[0]) / "checkpoint").exists()


# Not over before something happens to it.
COMMAND = [
    *("--config=configs/run.py:nano-xs,1x,adamw", "--config.train.steps=1000000"),
    "--config.log.every_steps=16",
]


def start(folder, **environment):
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "lm.train", *COMMAND, f"--workdir={folder}"],
        **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
        env=os.environ | environment,
    )


def line_with(words, process):
    """Waits for the process to say something."""
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"ended without saying {words!r}")


@pytest.mark.slow
def test_sigterm_saves_and_a_fresh_process_goes_on(tmp_path):
    stops, said = [], ""
    for resumed in (False, True):
        process = start(tmp_path)
        if resumed:
            said = line_with("going on from the checkpoint at step", process)
        line_with("tokens/s", process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
        stops.append(int(re.search(r"stopped at step (\d+)/", out)[1]))
    assert f"step {stops[0]}/" in said and stops[0] < stops[1]
    (folder,) = tmp_path.glob("trials/*")
    steps = [line["step"] for line in tiny.curve(folder)]
    assert steps == sorted(set(steps)) and steps[-1] <= stops[1]


@pytest.mark.slow
def test_sigterm_before_there_is_anything_to_save_is_answered_at_once(tmp_path):
    """While the main thread is deep in a call: it waits for a lock that is never given."""
    cache, texts = tmp_path / "cache", documents.standard_library()
    cache.mkdir()
    with open(cache / f".stdlib-{key_of(texts, Bytes())[:12]}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start(tmp_path / "runs", BESTIARY_CACHE=str(cache))
        line_with("waiting for another process", process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and "nothing to save yet" in out


def test_time_asks_for_a_checkpoint_where_it_may_be_looked_at(tmp_path, monkeypatch):
    settings = config()["checkpoint"] | {"every_minutes": 1.0}
    saved = Checkpoints([tmp_path], settings, print)
    assert not saved.due(8, look=True)
    saved.saved_at -= 60
    assert saved.due(8, look=True) and not saved.due(8, look=False)


def test_a_watchdog_ends_a_process_that_hears_nothing():
    code = """
import time
from lm.run.stopping import Watchdog
dog = Watchdog(0.2, print)
dog.hear()
time.sleep(600)
"""
    out = subprocess.run([sys.executable, "-u", "-c", code], cwd=ROOT, capture_output=True)
    assert out.returncode == LOST
    (line,) = out.stdout.decode().splitlines()
    assert line.startswith("error: no progress for 0.2 s: another process of this job is gone")
