"""Verdicts and doubts of a study say what the data carry, and what they do not."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from analysis import report
from analysis.estimates.speedups import put_published
from analysis.estimates.table import Rows
from analysis.pages import verdicts
from analysis.pages.view import View, view
from analysis.runs import reader

SMALL = {"optimizers": ["adamw", "muon"], "sizes": ["tiny"], "ratios": [1], "seeds": 2}


def analyse(path, **options):
    return view(reader.load(synthetic_study.write(path, **options)), cards=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return analyse(tmp_path_factory.mktemp("study"))


@pytest.mark.slow
def test_speedups_recover_the_truth(found):
    table = found.speedups[found.speedups["optimizer"] != "adamw"]
    truth = table["optimizer"].map(synthetic_study.RHO)
    joint = (table["joint_low"] <= truth) & (truth <= table["joint_high"])
    assert joint.mean() >= 0.85  # 95 % intervals, 18 correlated cells
    known = table["joint_bound"] == ""
    assert (np.abs(np.log(table["joint"] / truth))[known] < 0.05).all() and known.mean() > 0.5
    assert (table["joint"] <= truth)[~known].mean() >= 0.8  # a bound, to within the noise
    robust = (table["robust_low"] <= truth) & (truth <= table["robust_high"])
    assert robust.mean() >= 0.75  # cells of a size share a curve of three points
    assert set(table.loc[table["optimizer"] == "muon", "verdict"]) == {"faster"}


def test_the_law_without_freedom_says_so(found):
    assert (found.law_table["freedom"] == 0).all()
    assert any("no degrees of freedom" in doubt for doubt in found.doubts)


def test_verdicts_name_the_winner_and_the_trend(found):
    small, tiny, trend = verdicts.verdicts(found)
    assert tiny.startswith("tiny, 4×: Muon has the lowest loss")
    assert small.startswith("small, 4×: Muon has the lowest loss")
    assert "more tokens than its largest budget has for that: 1." in small
    assert "cannot be shown to change with model size" in trend


@pytest.mark.slow
def test_a_tie_is_not_resolvable(tmp_path, monkeypatch):
    monkeypatch.setitem(synthetic_study.RHO, "muon", 1.0)
    found = analyse(tmp_path, optimizers=["adamw", "muon"], noise=0.005)
    muon = found.speedups[found.speedups["optimizer"] == "muon"]
    assert (muon["verdict"] == "not resolvable").mean() >= 0.8
    assert any("cannot be told from" in sentence for sentence in verdicts.verdicts(found))


def test_without_repeats_no_difference_is_real(tmp_path):
    found = analyse(tmp_path, optimizers=["adamw", "muon"], seeds=1)
    assert found.noise == ""
    verdict = found.speedups.loc[found.speedups["optimizer"] != "adamw", "verdict"]
    assert set(verdict) == {"noise unknown"}
    assert any("noise is unknown" in doubt for doubt in found.doubts)
    assert all("nobody can say" in sentence for sentence in verdicts.verdicts(found))
    muon = found.speedups[found.speedups["optimizer"] == "muon"]
    assert muon["published"].notna().all() and muon["joint"].isna().all()
    assert "robust_cell" not in set(report.numbers(found)["procedure"])


@pytest.mark.slow
def test_without_adamw_losses_are_compared(tmp_path):
    found = analyse(tmp_path, optimizers=["nadamw", "muon"])
    assert set(found.speedups["verdict"]) == {"no baseline"}
    assert found.speedups["speedup"].isna().all()
    assert any("No finished adamw run" in doubt for doubt in found.doubts)
    assert "Muon has the lowest loss" in verdicts.verdicts(found)[0]


@pytest.mark.parametrize("seed_noise", [0.0, 0.02])
@pytest.mark.slow
def test_a_seed_that_moves_a_whole_race_costs_no_verdict(tmp_path, seed_noise):
    """Muon is 0.004 to 0.01 nats ahead; a seed moves every optimizer of a race by 0.02."""
    options = {"sizes": ["tiny"], "ratios": [1, 2, 4, 8], "noise": 0.0005, "seeds": 4}
    found = analyse(tmp_path, optimizers=["adamw", "muon"], seed_noise=seed_noise, **options)
    verdict = found.speedups.loc[found.speedups["optimizer"] == "muon", "verdict"]
    assert (verdict == "faster").all()
    assert (found.value("noise", "seeds", "carried") > 0.9) == (seed_noise > 0)


def test_an_infeasible_or_failed_trial_is_named(tmp_path):
    synthetic_study.write(tmp_path, **SMALL)
    path = next((tmp_path / "certificates").iterdir())
    certificate = json.loads(path.read_text())
    certificate["infeasible"] = [{"changes": {"batch_size": 64}, "hash": "0", "reason": "memory"}]
    certificate["failed"] = [{"hash": "1", "reason": "no space left on device"}]
    path.write_text(json.dumps(certificate | {"complete": False}))
    found = view(reader.load(tmp_path), cards=False)
    doubts = " ".join(found.doubts)
    assert "1 settings cannot be run (out of memory)" in doubts
    assert "1 trials failed on the machine" in doubts and "1 of 2 cells have no" in doubts
    notes = found.of("search")["note"].tolist()
    assert "batch_size 64: memory" in notes and "no space left on device" in notes


def test_one_size_has_no_trend(tmp_path):
    found = analyse(tmp_path, optimizers=["adamw", "muon"], sizes=["tiny"])
    assert found.of("decline").empty
    assert any("One model size only" in doubt for doubt in found.doubts)
    assert len(verdicts.verdicts(found)) == 1


def test_two_ratios_give_a_bracket_and_no_law(tmp_path):
    found = analyse(tmp_path, optimizers=["adamw", "muon"], ratios=[1, 2])
    assert not found.laws and found.of("speedup", "robust_joint").empty
    assert any("2 budgets" in doubt for doubt in found.doubts)
    others = found.speedups[found.speedups["optimizer"] != "adamw"]
    assert others["published"].isna().all()
    assert others["robust_note"].str.contains("2 adamw ratios fix no law").all()


def test_an_unfinished_study_is_reported_as_such(tmp_path):
    synthetic_study.write(tmp_path, **SMALL)
    for path in (tmp_path / "certificates").iterdir():
        path.unlink()
    next((tmp_path / "trials").glob("*/result.json")).unlink()
    found = view(reader.load(tmp_path), cards=False)
    assert any("1 trials have no result yet" in doubt for doubt in found.doubts)
    assert any("2 of 2 cells have no certificate" in doubt for doubt in found.doubts)


@pytest.mark.parametrize(
    "loss",
    [lambda r: 3.0 + 0.1 * r, lambda r: 3.0 - 0.1 * r**2, lambda r: 3.0 + 0 * r],
    ids=["rising", "falling ever faster", "flat"],
)
def test_losses_that_follow_no_law_give_a_note(loss):
    ratio = np.array([1.0, 2.0, 4.0, 8.0])
    best = pd.DataFrame(
        {"optimizer": "adamw", "model_size": "s", "chinchilla_ratio": ratio, "loss": loss(ratio)}
    )
    rows = Rows()
    put_published(rows, best.assign(best_loss=best["loss"]), "adamw")
    found = View(None, rows.frame())
    if found.laws:  # never a law that does not decrease
        assert np.all(np.diff(found.laws["s"].loss(ratio)) < 0)
    else:
        assert "do not follow" in found.law_table["note"].iloc[0]
