"""Array jobs: rounds of scripts, run here by bash, end in the table of `sweeps.run`."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from sweeps import run as run_lib
from sweeps import slurm

ROOT = Path(__file__).parents[2]
STUDY = str(ROOT / "tests/support/tiny_race.py")
TRAINER = "--trainer=fake_trainer:train_pack"


def submit(workdir, capsys, *extra):
    """(exit code, script, what it said) of planning the next round."""
    code = slurm.main([f"--config={STUDY}", f"--workdir={workdir}", TRAINER, *extra])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def tasks(script):
    (line,) = [line for line in script.splitlines() if "--array" in line]
    return int(line.split("=0-")[1].split("%")[0]) + 1


def run(script, task, **variables):
    """Runs a task as SLURM does: the script by bash, the task's number in the environment."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
    environment = {**os.environ, "PYTHONPATH": paths, "SLURM_ARRAY_TASK_ID": str(task), **variables}
    return subprocess.run(
        ["bash"], input=script, env=environment, text=True, capture_output=True, timeout=300
    )


def run_here(monkeypatch, script, task, **variables):
    """The exit code of a task whose command runs in this process, which takes less time."""
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT / "tests/support"))
        words = shlex.split(script.splitlines()[-1])
        assert words[0] == "exec" and words[2:4] == ["-m", "sweeps.slurm"]
        return slurm.main([*words[4:], f"--task={task}"])


def trained(workdir):
    return (workdir / "trained").read_text().split()


def table(workdir):
    return {p.name: p.read_bytes() for p in (workdir / "certificates").iterdir()}


def test_the_script_says_what_slurm_must_know(tmp_path, capsys):
    options = ["--sbatch=--gpus=1 --time=04:00:00", "--at_once=2", "--setup=module load cuda"]
    code, script, said = submit(tmp_path, capsys, *options)
    assert code == 0 and "trials in" in said
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert f"#SBATCH --array=0-{tasks(script) - 1}%2" in lines
    assert "#SBATCH --gpus=1 --time=04:00:00" in lines and "module load cuda" in lines
    assert max(i for i, line in enumerate(lines) if line.startswith("#SBATCH")) < lines.index(
        "set -e"
    )
    assert submit(tmp_path, capsys, *options)[1] == script  # the same round, the same script


@pytest.mark.slow
def test_rounds_of_array_jobs_end_in_the_same_certificates(tmp_path, capsys):
    rounds, workdir = 0, tmp_path / "slurm"
    while True:
        code, script, said = submit(workdir, capsys)
        if code:
            break
        rounds += 1
        for task in range(tasks(script)):
            done = run(script, task)
            assert done.returncode == 0, done.stderr
        before = trained(workdir)
        assert run(script, 0).returncode == 0 and trained(workdir) == before  # nothing twice
    assert code == 1 and "4 of 4 cells are certified" in said and rounds > 1
    assert len(trained(workdir)) == len(set(trained(workdir)))
    here = tmp_path / "here"
    assert run_lib.main([f"--config={STUDY}", f"--workdir={here}", TRAINER]) == 0
    assert table(workdir) == table(here)


@pytest.mark.slow
def test_a_trial_that_crashes_is_tried_again_next_round_and_holds_its_cell_up(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("BESTIARY_FAKE", '{"crash": 0.032}')
    tried = []
    while (last := submit(tmp_path, capsys))[0] == 0:
        for task in range(tasks(last[1])):
            assert run_here(monkeypatch, last[1], task) == 0
        attempts = [json.loads(p.read_text()) for p in tmp_path.glob("trials/*/attempts.json")]
        tried.append({len(found) for found in attempts})
    assert tried[0] == {1} and tried[-1] == {2}  # one a round, on whatever node
    code, _, said = last
    assert code == 2 and "failed: its process exited with code 3; mend the cause" in said
    bad = [
        json.loads((p.parent / "config.json").read_text()) for p in tmp_path.glob("trials/*/re*")
    ]
    assert 0.032 not in [config["optimizer"]["learning_rate"] for config in bad]
    monkeypatch.delenv("BESTIARY_FAKE")
    _, script, _ = submit(tmp_path, capsys, "--retry_failed")
    assert tasks(script) >= 1


def test_a_study_whose_first_trials_all_fail_stops_and_records_nothing(
    tmp_path, capsys, monkeypatch
):
    _, script, _ = submit(tmp_path, capsys)
    monkeypatch.setenv("BESTIARY_FAKE", '{"raise": "any"}')
    for task in range(tasks(script)):
        assert run_here(monkeypatch, script, task) == 0
    monkeypatch.delenv("BESTIARY_FAKE")
    code, _, said = submit(tmp_path, capsys)
    assert (
        code == 2 and said.count("\n") == 1 and "trials all failed; the last: failed: Value" in said
    )
    assert not list(tmp_path.glob("trials/*/*.json"))
    assert submit(tmp_path, capsys)[1] == script


def test_a_node_where_packs_only_die_is_set_aside(tmp_path, capsys, monkeypatch):
    """Two tasks die on the node `bad`; the others leave it at once, the next round avoids it."""
    _, script, _ = submit(tmp_path, capsys, "--config.pack.width=2")
    assert run_here(monkeypatch, script, 0, SLURMD_NODENAME="good") == 0
    broken = {"SLURMD_NODENAME": "bad", "BESTIARY_FAKE": '{"raise": "any"}'}
    codes = [run_here(monkeypatch, script, n, **broken) for n in range(1, tasks(script))]
    assert codes[:3] == [0, 0, slurm.AVOIDED] and set(codes[2:]) == {slurm.AVOIDED}
    attempts = [json.loads(path.read_text()) for path in tmp_path.glob("trials/*/attempts.json")]
    assert [[a["where"] for a in found] for found in attempts] == [["bad"]] * 4
    _, script, said = submit(tmp_path, capsys, "--config.pack.width=2")
    assert "#SBATCH --exclude=bad" in script.splitlines() and "set aside: bad" in said
    for task in range(tasks(script)):
        assert run_here(monkeypatch, script, task, SLURMD_NODENAME="good") == 0
    results = [json.loads(path.read_text()) for path in tmp_path.glob("trials/*/result.json")]
    assert {result["status"] for result in results} == {"finished"}


@pytest.mark.slow
def test_a_task_on_a_full_disk_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BESTIARY_FAKE", '{"disk": 0.032}')
    _, script, _ = submit(tmp_path, capsys)
    done = [run(script, task) for task in range(tasks(script))]
    assert {task.returncode for task in done} == {0, 2}
    for task in done:
        if task.returncode:
            assert task.stderr.startswith("error: no space left on the device for ")
            assert task.stderr.count("\n") == 1
    results = [json.loads(path.read_text()) for path in tmp_path.glob("trials/*/result.json")]
    assert {result["status"] for result in results} == {"finished"}  # the rest runs again


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--round=nowhere.json", "--task=0"], "nowhere.json cannot be read"),
        (["--round=nowhere.json", "--tusk=0"], "unknown flag --tusk=0"),
        ([f"--config={STUDY}", "--device=abacus"], "abacus"),
        ([f"--config={STUDY}", "--config.data.fingerprint=", "--config.data.corpus=no"], "'no'"),
        ([f"--config={STUDY}", "--workdir={}/file"], "file: File exists"),
        ([f"--config={STUDY}", "--workdir={}/file/below"], "file/below: Not a directory"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, expected):
    (tmp_path / "file").touch()
    words = [word.format(tmp_path) for word in words]
    assert slurm.main([f"--workdir={tmp_path}", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_options_that_the_shell_could_not_read_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        submit(tmp_path, capsys, '--sbatch=--comment="open')
    assert end.value.code == 2 and "argument --sbatch" in capsys.readouterr().err
