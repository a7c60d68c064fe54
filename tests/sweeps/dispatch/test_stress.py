"""Real trials whose processes are killed or asked to stop go on from their checkpoints."""

import json
import signal

import pytest
from study_rig import STUDY, process, until

pytestmark = pytest.mark.slow


def losses(workdir):
    paths = (workdir / "trials").glob("*/result.json")
    return {path.parent.name: json.loads(path.read_text())["loss"] for path in paths}


def saved(workdir):
    return any(path.name.isdigit() for path in workdir.glob("trials/*/checkpoint/*"))


def test_packs_go_on_from_their_checkpoints(tmp_path):
    """A trainer is killed once, and a worker is stopped once while its pack trains; where they
    happened to be makes no difference."""
    for name in ("killed", "stopped"):
        trainer = "cluster_trainers:mortal" if name == "killed" else "lm.train:train_pack"
        words = ("--workers=1", f"--trainer={trainer}")
        child = process(tmp_path / name, *words, study=f"{STUDY}:real")
        if name == "stopped":
            until(lambda: saved(tmp_path / "stopped"))
            child.send_signal(signal.SIGINT)
            output, _ = child.communicate()
            assert child.returncode == 130 and "go on from what was saved" in output, output
            assert not list(tmp_path.glob("stopped/attempts/*"))  # no failed attempt
            child = process(tmp_path / name, *words, study=f"{STUDY}:real")
        output, _ = child.communicate()
        assert child.returncode == 0, output
        logs = "".join(path.read_text() for path in (tmp_path / name).glob("logs/*"))
        assert "going on from the checkpoint at step" in logs + output
    assert losses(tmp_path / "killed") == losses(tmp_path / "stopped") != {}
