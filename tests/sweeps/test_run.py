"""The study command: from a config to certificates, through kills, corruption and misuse."""

import json
import shutil
from pathlib import Path

import fake_trainer
import pytest
from study_rig import STUDY, certificate, process, run, table, trained

from sweeps import status
from sweeps.plan import config
from sweeps.plan.cost import Cost, bound
from sweeps.plan.phases import plan
from sweeps.plan.study import Study


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "w"
    assert run(workdir) == 0
    return workdir


def test_study_ends_with_a_certificate_per_cell(undisturbed):
    names = {path.name for path in (undisturbed / "certificates").iterdir()}
    cells = [f"{name}-nano-xs-{ratio}x" for name in ("adamw", "nadamw") for ratio in (1, 2)]
    assert names == {f"{cell}.json" for cell in cells}
    found = certificate(undisturbed, "adamw-nano-xs-1x")
    assert found["complete"] and found["centre"]["learning_rate"] == 0.008
    assert found["best_loss"] <= found["centre_loss"] <= found["best_loss"] + 3e-3
    assert [repeat["seed"] for repeat in found["repeats"]] == [1, 2]
    star = {(n["hyperparameter"], n["value"]): n for n in found["neighbours"]}
    assert star["warmup", 200]["status"] == "refused"
    assert "at most 160 steps" in star["warmup", 200]["reason"]
    assert star["learning_rate", 0.004]["loss"] > found["centre_loss"]
    certificates = [certificate(undisturbed, name) for name in cells]
    assert sum(found["trials"] for found in certificates) == len(trained(undisturbed))
    assert {tuple(found["sensitive"]) for found in certificates} == {()}  # one Phase I cell each


def test_no_trial_trains_twice_and_a_second_run_trains_nothing(undisturbed):
    before = trained(undisturbed)
    assert len(before) == len(set(before)) == len(list((undisturbed / "trials").iterdir()))
    state = table(undisturbed)
    assert run(undisturbed) == 0
    assert trained(undisturbed) == before
    assert table(undisturbed) == state


def test_interrupted_after_each_pack_it_ends_in_the_same_table(undisturbed, tmp_path, monkeypatch):
    train, stops = fake_trainer.train_pack, iter([True, False] * 100)

    def interrupted(configs, folders, **others):
        train(configs, folders, **others)
        if next(stops):
            raise KeyboardInterrupt

    monkeypatch.setattr(fake_trainer, "train_pack", interrupted)
    codes = []
    while not codes or codes[-1]:
        codes.append(run(tmp_path))
    assert codes == [130] * (len(codes) - 1) + [0] and len(codes) > 5
    assert len(trained(tmp_path)) == len(set(trained(tmp_path)))
    assert table(tmp_path) == table(undisturbed)


def test_corrupt_results_are_reported_and_run_again(undisturbed, tmp_path, capsys):
    assert run(tmp_path) == 0
    trials = sorted((tmp_path / "trials").iterdir())
    (trials[0] / "result.json").write_text('{"status": "fini')
    (trials[1] / "result.json").write_text('{"status": "finished", "hash": "another"}')
    capsys.readouterr()
    assert run(tmp_path) == 0
    output = capsys.readouterr().out
    for path in trials[:2]:
        assert f"{path}/result.json is unusable and its trial runs again" in output
        assert trained(tmp_path).count(path.name) == 2
    assert table(tmp_path) == table(undisturbed)


def test_what_a_loss_of_power_cut_short_costs_nothing(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    before, name = trained(tmp_path), next((tmp_path / "trials").iterdir()).name
    (tmp_path / "certificates/adamw-nano-xs-1x.json").write_text('{"complete": tr')
    for path in (f"attempts/{name}.json", "nodes/here.json", f"claims/{name}/00000001"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b'{"\xff')
    assert status.main([str(tmp_path)]) == 0
    assert "3 of 4 cells certified" in capsys.readouterr().out
    assert run(tmp_path) == 0
    assert trained(tmp_path) == before and table(tmp_path) == table(undisturbed)


def test_diverged_trial_is_a_result(tmp_path):
    assert (
        run(tmp_path, "--config.optimizers.adamw.grids.learning_rate=[0.004,0.008,0.016,0.5]") == 0
    )
    found = certificate(tmp_path, "adamw-nano-xs-1x")
    (diverged,) = [n for n in found["neighbours"] if n["status"] == "diverged"]
    assert (diverged["value"], diverged["loss"]) == (0.5, None)


def test_too_long_a_warmup_at_the_start_is_refused_before_anything_trains(tmp_path, capsys):
    assert run(tmp_path, "--config.optimizers.adamw.start.warmup=200") == 2
    error = capsys.readouterr().err
    assert "adamw-nano-xs-1x: optimizer.warmup=200" in error and "[0, 160]" in error
    assert not (tmp_path / "trials").exists()


@pytest.mark.parametrize(
    "override, expected",
    [
        ("--config.optimizers.adamww.start.warmup=1", "did you mean 'adamw'"),
        ("--config.rule.mode=tester", "did you mean 'tested'"),
        ("--config.optimizers.adamw.start.beta2=1.5", "beta2=1.5"),
        ("--config.phases.I=[['nano-x',1]]", "did you mean 'nano-xs'"),
        ("--config.optimizers.adamw.grids={'beta':[1]}", "did you mean 'beta2'"),
        ("--confug.name=x", "unknown flag"),
        ("--config.pack.width=abc", "pack.width='abc' is not of type int"),
        ("--config.pack.width=0", "pack.width=0 is outside [1, 4096]"),
        ("--config.rule.threshold=abc", "rule.threshold='abc' is not of type float"),
        ("--config.rule.tresh=1", "did you mean 'threshold'"),
        ("--config.rule.extend=['IV']", "rule.extend[0]='IV' is not one of I, II, III"),
        ("--config.seeds=[0,0]", "seeds=[0, 0] must be one or more different numbers"),
        ("--config.ratios=[1]", "phases.II: ratio 2 is not one of [1.0]"),
        ("--config.train.z_loss=nan", "train.z_loss='nan' is not of type float"),
        ("--config.checkpoint.keep=none", "checkpoint.keep='none' is not of type int"),
        ("--config.optimizers.adamw.bounds.learning_rate=[1,1]", "is not [lowest, highest]"),
        ("--config.optimizers.adamw.grids.warmup=10", "is not a list"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, capsys, override, expected):
    assert run(tmp_path, override) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unknown_study_or_file_exits_2(tmp_path, capsys):
    assert run(tmp_path, study=f"{STUDY}:tree") == 2
    assert "did you mean 'three'" in capsys.readouterr().err
    assert run(tmp_path, study="nowhere.py") == 2
    assert "there is no file nowhere.py" in capsys.readouterr().err


def test_a_different_study_is_refused(undisturbed, tmp_path, capsys):
    assert run(undisturbed, study=f"{STUDY}:other") == 2
    assert "eval.points is 1 there and 2 here" in capsys.readouterr().err
    assert run(undisturbed, study=f"{STUDY}:three") == 2
    assert "--extend" in capsys.readouterr().err


def test_extending_trains_only_what_is_new(tmp_path, capsys):
    assert run(tmp_path) == 0
    before = trained(tmp_path)
    capsys.readouterr()
    assert run(tmp_path, "--dry_run", study=f"{STUDY}:three") == 0
    output = capsys.readouterr().out
    assert "changed: optimizers.cautious" in output
    assert "cautious-nano-xs-1x" in output and "  adamw-nano-xs-1x" not in output
    assert trained(tmp_path) == before
    assert run(tmp_path, "--extend", study=f"{STUDY}:three") == 0
    after = trained(tmp_path)
    assert after[: len(before)] == before and len(after) == len(set(after)) > len(before)


def test_no_space_left_says_so_and_keeps_results(undisturbed, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BESTIARY_FAKE", '{"disk": 0.008}')
    assert run(tmp_path) == 2
    assert "no space left on the device" in capsys.readouterr().err
    kept = trained(tmp_path)
    monkeypatch.delenv("BESTIARY_FAKE")
    assert run(tmp_path) == 0
    assert trained(tmp_path)[: len(kept)] == kept and len(set(trained(tmp_path))) == len(
        trained(tmp_path)
    )
    assert table(tmp_path) == table(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("accident", ["crash", "hang"])
def test_one_bad_trial_holds_up_its_cell_alone(tmp_path, accident):
    words = {"crash": [], "hang": ["--timeout=4", "--config.pack.width=1"]}[accident]
    child = process(tmp_path, "--workers=1", *words, **{accident: 0.004})
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 2 and "2 of 4 cells are certified" not in output, output
    cause = {"crash": "failed: its process exited with code 3", "hang": "timeout: no result"}
    assert f"adamw-nano-xs-1x: {cause[accident]}" in output
    assert len(trained(tmp_path)) == len(set(trained(tmp_path)))
    check_held_up(tmp_path, cause[accident])


def check_held_up(workdir, cause):
    """Both optimizers' Phase I wait for their trial at 0.004; nothing of it counts as a loss."""
    found = certificate(workdir, "adamw-nano-xs-1x")
    assert found["complete"] is False and found["best_loss"] is not None
    (bad,) = [n for n in found["neighbours"] if n["value"] == 0.004]
    assert (bad["status"], bad["loss"]) == ("failed", None) and bad["reason"].startswith(cause)
    assert [f["hash"] for f in found["failed"]] == [bad["hash"]]
    assert not (workdir / "certificates" / "adamw-nano-xs-2x.json").exists()
    assert not (workdir / "trials" / bad["hash"] / "result.json").exists()


def test_a_failed_trial_is_no_result_and_its_attempts_are_counted_on_disk(
    undisturbed, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("BESTIARY_FAKE", '{"raise": 0.004}')
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "2 trials failed for good and hold 2 cells up" in error and error.count("\n") == 1
    check_held_up(tmp_path, "failed: ValueError: the program cannot be built")
    attempts = sorted((tmp_path / "attempts").iterdir())
    assert [len(json.loads(path.read_text())) for path in attempts] == [2, 2]
    monkeypatch.delenv("BESTIARY_FAKE")
    before = trained(tmp_path)
    assert run(tmp_path) == 2 and trained(tmp_path) == before  # a restart gives no new lives
    assert run(tmp_path, "--retry_failed") == 0
    assert table(tmp_path) == table(undisturbed)


def test_a_node_where_packs_only_die_is_left_when_others_work(tmp_path, capsys, monkeypatch):
    train, done = fake_trainer.train_pack, []

    def dying(configs, folders, **others):
        if len(done) >= 6:
            raise RuntimeError("the device is gone")
        done.append(train(configs, folders, **others))

    monkeypatch.setattr(fake_trainer, "train_pack", dying)
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes/other.json").write_text('{"strikes": 0, "worked": true}')
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "is set aside: packs died here and others work" in error and error.count("\n") == 1
    assert len(list(tmp_path.glob("attempts/*"))) <= 2 and not list(tmp_path.glob("workers/*"))
    monkeypatch.setattr(fake_trainer, "train_pack", train)
    assert run(tmp_path) == 2  # it stays so, whoever starts here
    assert run(tmp_path, "--retry_failed") == 0


def test_a_failure_that_does_not_come_again_costs_nothing(undisturbed, tmp_path, monkeypatch):
    train, failed = fake_trainer.train_pack, set()

    def flaky(configs, folders, **others):
        for folder in folders:
            name = Path(folder).name
            if int(name, 16) % 5 == 0 and name not in failed:
                failed.update([name] if len(folders) == 1 else [])
                raise ValueError("the network is down")
        train(configs, folders, **others)

    monkeypatch.setattr(fake_trainer, "train_pack", flaky)
    assert run(tmp_path) == 0
    assert failed and table(tmp_path) == table(undisturbed)


def test_when_the_first_trials_all_fail_nothing_is_recorded(
    undisturbed, tmp_path, capsys, monkeypatch
):
    train = fake_trainer.train_pack
    monkeypatch.setattr(fake_trainer, "train_pack", lambda *a, **k: 1 / 0)
    for _ in range(2):
        assert run(tmp_path) == 2
        error = capsys.readouterr().err
        assert "the first 16 trials all failed" in error and "ZeroDivisionError" in error
        assert error.count("\n") == 1
        assert not list(tmp_path.glob("trials/*/*"))
    monkeypatch.setattr(fake_trainer, "train_pack", train)
    assert run(tmp_path) == 0
    assert table(tmp_path) == table(undisturbed)


def test_an_optimizer_that_always_raises_is_set_aside_and_the_others_go_on(
    undisturbed, tmp_path, capsys, monkeypatch
):
    train = fake_trainer.train_pack

    def broken(configs, folders, **others):
        if configs[0]["optimizer"]["name"] == "adamw":
            raise ValueError("no such attribute")
        train(configs, folders, **others)

    monkeypatch.setattr(fake_trainer, "train_pack", broken)
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "adamw is set aside: its first" in error and error.count("\n") == 1
    for ratio in (1, 2):
        assert certificate(tmp_path, f"nadamw-nano-xs-{ratio}x")["complete"]
    monkeypatch.setattr(fake_trainer, "train_pack", train)
    assert run(tmp_path) == 0  # nothing of it had finished: it is tried again
    assert table(tmp_path) == table(undisturbed)


def test_dry_run_prints_costs_and_trains_nothing(tmp_path, capsys):
    assert run(tmp_path, "--dry_run", "--device=tpu-v5e") == 0
    output = capsys.readouterr().out
    costs = {line[:28].strip(): line[28:].split()[0] for line in output.splitlines()[2:]}
    first, expected, most = (
        int(costs[name]) for name in ("next round", "whole study, expected", "whole study, at most")
    )
    assert first < expected < most
    assert "7.88e+13 FLOP/s (tpu-v5e)" in output
    assert not (tmp_path / "trials").exists()
    assert run(tmp_path, "--dry_run", "--device=tpu-v5") == 2


def test_a_plan_over_budget_is_refused(tmp_path, capsys):
    assert run(tmp_path, "--config.budget.trials=5") == 2
    assert "budget.trials=5 is less than" in capsys.readouterr().err
    assert run(tmp_path, "--config.budget.hours=1e-9", "--device=h100") == 2
    assert "budget.hours=1e-09 is less than" in capsys.readouterr().err
    assert not (tmp_path / "trials").exists()


def test_a_spent_budget_stops_the_study_until_it_is_raised(
    undisturbed, tmp_path, capsys, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("sweeps.plan.cost.expected", lambda *_: Cost())
        assert run(tmp_path, "--config.budget.trials=20") == 2
    assert "budget.trials=20 is less than 2" in capsys.readouterr().err
    assert 20 < len(trained(tmp_path)) < len(trained(undisturbed))
    assert run(tmp_path) == 0
    assert table(tmp_path) == table(undisturbed)


def test_dry_run_says_what_then_trains(tmp_path, capsys):
    assert run(tmp_path, "--dry_run") == 0
    line = next(s for s in capsys.readouterr().out.splitlines() if s.startswith("next round"))
    words = line.replace(",", "").split()
    promised = {"trials": int(words[2]), "tokens": float(words[6]), "programs": int(words[4])}
    first_round = plan_first_round()
    assert promised["trials"] == len(first_round)
    assert run(tmp_path) == 0
    results = []
    for trial_hash in first_round:
        results.append(json.loads((tmp_path / "trials" / trial_hash / "result.json").read_text()))
    assert sum(r["tokens"] for r in results) == pytest.approx(promised["tokens"], rel=0.01)
    assert promised["programs"] == 2


def plan_first_round():
    race = Study(config.load(STUDY))
    return [race.hash(trial) for trial in plan(race, {}).pending]


def test_upper_bound_holds(undisturbed):
    race = Study(config.load(STUDY))
    assert len(trained(undisturbed)) <= bound(race).trials
