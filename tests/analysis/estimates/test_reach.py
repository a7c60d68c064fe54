"""How far a doubt could move the answer, in nats, where and why."""

import json

import pytest
import synthetic_study

from analysis.estimates.estimate import estimate
from analysis.estimates.table import pick
from analysis.pages.trust import ranked_doubts
from analysis.pages.view import View
from analysis.runs import reader

EDGE = {"edges": [{"hyperparameter": "weight_decay", "value": 0.1}], "complete": False}


def look(folder, ratio) -> View:
    """A study in which one of Muon's searches is open and stopped at an edge."""
    two = {"optimizers": ["adamw", "muon"], "sizes": ["tiny"], "ratios": [1, 2]}
    for path in (synthetic_study.write(folder, **two) / "certificates").iterdir():
        changed = EDGE if path.stem == f"muon-tiny-{ratio}x" else {}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"start_regret": 0.03} | changed))
    study = reader.load(folder)
    return View(study, estimate(study, cards=False))


def test_doubts_are_ranked_by_what_they_could_move(tmp_path):
    """An open search may lack what others gained, 0.03; an edge what its last step did, as weight
    decay 0.0 is 0.01 nats above 0.1; ties lie below the noise."""
    found = ranked_doubts(look(tmp_path, ratio=2))
    kinds = [doubt.kind for doubt in found]
    assert kinds[:3] == ["uncertified", "edges", "ties"]
    open_search, edge, ties = (doubt.nats for doubt in found[:3])
    assert open_search.value == 0.03 and "numbers.csv line" in open_search.tip
    assert edge.value == pytest.approx(0.01, abs=5 * 0.001 * 2**0.5)
    assert edge.name == "Muon tiny 2×" and "last step of weight_decay" in edge.tip
    assert 0 < ties.value < 0.01
    assert kinds.index("one size") > kinds.index("ties") and found[-1].nats is None


def test_what_touches_no_headline_race_moves_nothing(tmp_path):
    found = look(tmp_path, ratio=1)
    for kind in ("edges", "uncertified"):
        row = pick(found.numbers, "reach", kind, "nats").iloc[0]
        assert row["value"] == 0 and row["note"] == "touches no headline race"
