"""Array jobs of workers: their scripts, run here by bash, end in the table of `sweeps.run`."""

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import tiny_race
from study_rig import table, trained, until

from sweeps import run as run_lib
from sweeps import slurm, status, work
from sweeps.plan.config import complete

ROOT = Path(__file__).parents[2]
STUDY = str(ROOT / "tests/support/tiny_race.py")
TRAINER = "--trainer=fake_trainer:train_pack"


def submit(workdir, capsys, *extra):
    """(exit code, script, what it said) of making the job."""
    code = slurm.main([f"--config={STUDY}", f"--workdir={workdir}", TRAINER, *extra])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def start(script, task, **variables):
    """Starts a task as SLURM does: the script by bash, the task's number in the environment."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
    environment = {**os.environ, "PYTHONPATH": paths, "SLURM_ARRAY_TASK_ID": str(task), **variables}
    environment["BESTIARY_HEARTBEAT"] = "1"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["bash", "-c", script], env=environment, **pipes)


def test_the_script_says_what_slurm_must_know(tmp_path, capsys, monkeypatch):
    options = ["--sbatch=--gpus=1 --time=04:00:00", "--at_once=20", "--setup=module load cuda"]
    code, script, said = submit(tmp_path, capsys, *options, "--workers=2500")
    assert code == 0 and "trials to go" in said
    arrays = [line.strip() for line in said.splitlines() if "sbatch" in line]
    assert [line.split()[1] for line in arrays] == [
        "--array=0-1000%20",
        "--array=0-1000%20",
        "--array=0-497%20",
    ]
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --signal=B:TERM@90" in lines
    assert "#SBATCH --gpus=1 --time=04:00:00" in lines and "module load cuda" in lines
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert last < lines.index("set -e")
    assert shlex.split(lines[-1])[2:4] == ["-m", "sweeps.work"]
    assert submit(tmp_path, capsys, *options)[1] == script  # the same study, the same script
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho MaxArraySize            = 4\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert list(slurm.arrays(6, slurm.max_array_size())) == ["0-3", "0-1"]


@pytest.mark.slow
def test_tasks_end_in_the_same_certificates_though_one_is_preempted(tmp_path, capsys):
    workdir, here = tmp_path / "slurm", tmp_path / "here"
    assert run_lib.main([f"--config={STUDY}", f"--workdir={here}", TRAINER]) == 0
    capsys.readouterr()
    _, script, _ = submit(workdir, capsys)
    slow = {"BESTIARY_FAKE": json.dumps({"sleep": 0.2})}
    tasks = [start(script, number, **slow) for number in range(2)]
    until(lambda: len(trained(workdir)) >= 2)
    tasks[0].send_signal(signal.SIGTERM)
    said = [task.communicate(timeout=200)[0] for task in tasks]
    assert tasks[0].returncode == 143 and "running packs save and stop" in said[0], said[0]
    assert tasks[1].returncode == 0, said[1]
    assert table(workdir) == table(here)
    code, _, said = submit(workdir, capsys)
    assert code == slurm.OVER and "4 of 4 cells are certified" in said


def test_nodes_that_workers_have_left_are_excluded(tmp_path, capsys):
    (tmp_path / "nodes").mkdir()
    for name, strikes, worked in (("bad", 2, False), ("good", 0, True)):
        record = {"strikes": strikes, "worked": worked}
        (tmp_path / "nodes" / f"{name}.json").write_text(json.dumps(record))
    run = lambda: submit(tmp_path, capsys)  # noqa: E731
    _, script, said = run()
    assert "#SBATCH --exclude=bad" in script.splitlines() and "set aside: bad" in said


@pytest.mark.parametrize(
    "command, words, expected",
    [
        (work, [], "holds no study; python -m sweeps.run begins one"),
        (slurm, [f"--config={STUDY}", "--device=abacus"], "abacus"),
        (
            slurm,
            [f"--config={STUDY}", "--config.data.fingerprint=", "--config.data.corpus=no"],
            "'no'",
        ),
        (slurm, [f"--config={STUDY}", "--workdir={}/file"], "file"),
        (slurm, [f"--config={STUDY}", "--workdir={}/file/below"], "file/below"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, command, words, expected):
    (tmp_path / "file").touch()
    words = [word.format(tmp_path) for word in words]
    assert command.main([f"--workdir={tmp_path}", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{", "cannot be read"),
        ("[5]", "cannot be read: it is no object"),
        (json.dumps(complete({**tiny_race.get_config(), "told": True})), "is told its results"),
        ('{"name": "of the future"}', "is of another version"),
    ],
)
def test_a_workdir_that_nobody_can_work_on_is_one_line(tmp_path, capsys, text, expected):
    (tmp_path / "study.json").write_text(text)
    assert work.main([f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    if "told" not in expected:  # which may be looked at all the same
        assert status.main([str(tmp_path)]) == 2
        assert capsys.readouterr().err == error


@pytest.mark.parametrize("word", ['--sbatch=--comment="open', "--workers=0", "--workers=-1"])
def test_flags_that_cannot_be_are_refused(tmp_path, capsys, word):
    with pytest.raises(SystemExit) as end:
        submit(tmp_path, capsys, word)
    assert end.value.code == 2 and f"argument {word.partition('=')[0]}" in capsys.readouterr().err
