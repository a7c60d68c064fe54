"""Result folders become tidy tables; what cannot be read is named and never fatal."""

import json

import numpy as np
import pytest
import synthetic_study

from analysis.runs import curves, reader, winners
from analysis.runs.names import CELL
from analysis.runs.repeats import repeats


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic_study.write(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study(folder):
    return reader.load(folder)


@pytest.fixture
def small(tmp_path):
    return synthetic_study.write(tmp_path, optimizers=["adamw"], sizes=["tiny"], ratios=[1])


def trials(folder):
    return sorted((folder / "trials").iterdir())


def test_every_trial_is_a_row(folder, study):
    assert len(study.runs) == len(trials(folder))
    assert list(study.runs["hash"]) == sorted(path.name for path in trials(folder))
    assert [p.kind for p in study.problems] == ["diverged"] and study.unfinished == 0
    assert study.tuned == ["beta2", "learning_rate", "weight_decay"]


def test_lists_among_the_options_become_text(small):
    path = trials(small)[0] / "config.json"
    config = json.loads(path.read_text())
    config["optimizer"]["decayed"] = ["matrix", "head"]
    path.write_text(json.dumps(config))
    runs = reader.load(small).runs
    assert runs["hp_decayed"].dropna().tolist() == ['["matrix", "head"]']
    repeats(reader.load(small))  # groups by it


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("result.json", '{"hash": "', "not valid JSON"),
        ("result.json", "[]", "list indices"),
        ("result.json", "{}", "the field 'hash' is missing"),
        ("config.json", '{"optimizer": {"name": "adamw"}}', "the field 'train' is missing"),
    ],
)
def test_unusable_files_are_named_and_left_out(small, file, content, expected):
    broken, *rest = trials(small)
    (broken / file).write_text(content)
    study = reader.load(small)
    assert len(study.runs) == len(rest)
    problem, *_ = study.problems
    assert problem.kind == "unreadable"
    assert broken.name in problem.sentence and expected in problem.sentence


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"loss": float("nan")}, "finished with a loss of nan"),
        ({"loss": None}, "finished with a loss of None"),
        ({"hash": "0123"}, "carries the hash 0123"),
        ({"status": "done"}, "status 'done' is none of finished, diverged, infeasible"),
    ],
)
def test_results_that_contradict_themselves_are_left_out(small, change, expected):
    folder = next(f for f in trials(small) if _result(f)["status"] == "finished")
    (folder / "result.json").write_text(json.dumps(_result(folder) | change))
    study = reader.load(small)
    assert expected in study.problems[0].sentence
    assert folder.name not in set(study.runs["hash"])


def _result(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_torn_line_costs_only_itself(small):
    path = trials(small)[0] / "curve.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1][:10]]))
    study = reader.load(small)
    assert f"line {len(lines)} of curve.jsonl" in study.problems[0].sentence
    assert (study.curves["hash"] == trials(small)[0].name).sum() == len(lines) - 1


def test_trials_without_a_result_are_counted(small):
    (trials(small)[0] / "result.json").unlink()
    study = reader.load(small)
    assert study.unfinished == 1 and "unreadable" not in {p.kind for p in study.problems}


def test_a_torn_certificate_is_named(small):
    path = next((small / "certificates").iterdir())
    path.write_text(path.read_text()[:40])
    study = reader.load(small)
    assert path.name in study.problems[0].sentence
    best = winners.winners(study)
    assert len(best) == 1 and not best["complete"].iloc[0]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "no such results folder"),
        (lambda path: path.mkdir(), "holds no trials"),
        (lambda path: (path / "trials" / "0").mkdir(parents=True), "none finished"),
    ],
)
def test_nothing_to_report_says_what_was_found(tmp_path, make, expected):
    path = tmp_path / "study"
    make(path)
    with pytest.raises(reader.NothingToReport, match=expected):
        reader.load(path)


def test_only_diverged_trials_are_nothing_to_report(small):
    for folder in trials(small):
        change = {"status": "diverged", "loss": None}
        (folder / "result.json").write_text(json.dumps(_result(folder) | change))
    with pytest.raises(reader.NothingToReport, match=r"none finished \(\d+ diverged"):
        reader.load(small)


def test_best_is_the_minimum_of_the_searched_seed(study):
    best = winners.winners(study)
    assert len(best) == 24
    for row in best.itertuples():
        where = [row.optimizer, row.model_size, row.chinchilla_ratio]
        cell = study.runs[(study.runs[CELL] == where).all(axis=1)]
        searched = cell[(cell["seed"] == 0) & (cell["status"] == "finished")]
        assert row.loss == searched["loss"].min()
        assert row.trials == (cell["seed"] == 0).sum() and row.diverged == 1
        assert row.reruns == 2 and row.complete
    assert list(best["model_size"].unique()) == ["tiny", "small"]
    assert list(best["optimizer"][:4]) == ["adamw", "nadamw", "lion", "muon"]


def test_best_needs_no_certificate(study, folder, tmp_path):
    bare = reader.load(synthetic_study.write(tmp_path))
    for path in (tmp_path / "certificates").iterdir():
        path.unlink()
    bare = reader.load(tmp_path)
    assert list(winners.winners(bare)["loss"]) == list(winners.winners(study)["loss"])
    assert not winners.winners(bare)["complete"].any()


def test_deviations_are_the_star_around_the_centre(study):
    table = winners.deviations(study)
    cell = table[(table[CELL] == ["muon", "tiny", 2.0]).all(axis=1)]
    swept = cell.groupby("hyperparameter")["value"].apply(list).to_dict()
    assert swept == synthetic_study.GRIDS
    centre = cell[cell["value"] == cell["centre_value"]]
    assert len(centre) == 3 and (centre["delta"] == 0).all()
    diverged = cell[cell["status"] == "diverged"]
    assert list(diverged["value"]) == [0.064] and diverged["loss"].isna().all()
    wide = cell[cell["value"] == 0.032].iloc[0]
    assert wide["delta"] == pytest.approx(0.02 * 2**2, abs=0.006)


def test_repeats_differ_in_the_seed_alone(study):
    table = repeats(study)
    assert len(table) == 24 * 3
    assert (table.groupby("setting")["seed"].apply(list).map(tuple) == (0, 1, 2)).all()
    spread = table["loss"] - table.groupby("setting")["loss"].transform("mean")
    assert np.sqrt((spread**2).sum() / 48) == pytest.approx(1e-3, rel=0.3)


def test_cost_counts_every_trial(study):
    cost = winners.cost(study)
    assert cost["trials"].sum() == len(study.runs)
    assert cost["tokens"].sum() == study.runs["tokens"].sum()
    assert list(cost["diverged"]) == [6, 6, 6, 6]


def test_early_stops_and_crossings_find_the_late_winner(study):
    seen = curves.winner_curves(study, winners.winners(study))
    stops = curves.early_stop(seen).set_index("fraction")
    assert stops["wrong_winner"][0.5] == 1.0 and stops["wrong_winner"][1.0] == 0.0
    assert stops["regret"][0.5] > 0.01 and stops["regret"][1.0] == 0.0
    assert stops["races"].eq(6).all()
    crossings = curves.crossings(seen)
    assert set(crossings["optimizer"]) == {"muon"} and set(crossings["leader"]) == {"muon"}
    # at the crossing Muon's extra late loss 0.15 (1 - f) is the gap it ends with
    best = winners.winners(study).set_index(CELL)["loss"]
    for row in crossings.itertuples():
        at = (row.model_size, row.chinchilla_ratio)
        gap = best[("adamw", *at)] - best[("muon", *at)]
        assert row.fraction == pytest.approx(1 - gap / 0.15, abs=0.02)


def test_a_diverged_run_ends_before_one(study):
    diverged = study.runs.loc[study.runs["status"] == "diverged", "hash"]
    assert study.curves.loc[study.curves["hash"].isin(diverged), "fraction"].max() <= 1
