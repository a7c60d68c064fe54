"""How far a doubt could move the answer, in nats, where and why."""

import json

import pytest
import synthetic_study

from analysis.estimates.estimate import estimate
from analysis.estimates.table import pick
from analysis.pages.trust import ranked_doubts
from analysis.pages.view import View
from analysis.runs import reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    two = {"optimizers": ["adamw", "muon"], "sizes": ["tiny"], "ratios": [1, 2, 4]}
    return synthetic_study.write(tmp_path_factory.mktemp("study"), **two)


def numbers(folder, **changes):
    """The numbers of the study with some fields of Muon's certificates, by ratio, changed."""
    for path in (folder / "certificates").iterdir():
        plain = json.loads(path.read_text()) | {"edges": [], "complete": True, "start_regret": 0.03}
        optimizer, _, ratio = path.stem.split("-")
        here = changes.get(f"at_{ratio}", {}) if optimizer == "muon" else {}
        path.write_text(json.dumps(plain | here))
    study = reader.load(folder)
    return View(study, estimate(study, cards=False))


EDGE = {"edges": [{"hyperparameter": "weight_decay", "value": 0.1}]}


def test_an_edge_could_gain_no_more_than_the_last_step_did(folder):
    """Weight decay 0.0 is 0.01 nats above 0.1."""
    found = numbers(folder, at_4x=EDGE)
    row = pick(found.numbers, "reach", "edges", "nats").iloc[0]
    assert row["value"] == pytest.approx(0.01, abs=5 * 0.001 * 2**0.5)
    assert (row["optimizer"], row["chinchilla_ratio"]) == ("muon", 4)
    assert "last step of weight_decay" in row["note"]


def test_what_touches_no_headline_race_moves_nothing(folder):
    found = numbers(folder, at_1x=EDGE)
    row = pick(found.numbers, "reach", "edges", "nats").iloc[0]
    assert row["value"] == 0 and row["note"] == "touches no headline race"


def test_doubts_are_ranked_by_their_number(folder):
    """An open search may lack what others gained, 0.03; an edge 0.01; ties are below the noise."""
    found = ranked_doubts(numbers(folder, at_4x=EDGE | {"complete": False}))
    kinds = [doubt.kind for doubt in found]
    assert kinds[:3] == ["uncertified", "edges", "ties"]
    assert found[0].nats.value == 0.03 and 0 < found[2].nats.value < 0.01
    assert kinds.index("one size") > kinds.index("ties") and found[-1].nats is None
    assert "numbers.csv line" in found[0].nats.tip and found[0].nats.name == "Muon tiny 4×"
