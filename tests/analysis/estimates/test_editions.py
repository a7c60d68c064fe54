"""The study's own numbers come back from the shipped tables."""

import numpy as np
import pandas as pd
import pytest

from analysis import published
from analysis.estimates.editions import (
    EDITIONS,
    edition,
    edition_cells,
    joint_law,
    predictions,
    sensitive_sets,
)
from analysis.runs.names import CELL


@pytest.mark.parametrize("name", EDITIONS)
def test_every_quoted_speedup_within_2e3(name):
    quoted = published.quoted_speedups().query("procedure == @name")
    both = quoted.merge(edition(name), on=CELL, suffixes=("_quoted", ""))
    assert len(both) == len(quoted) > 5
    pd.testing.assert_series_equal(
        both.speedup, both.speedup_quoted, check_names=False, rtol=0, atol=2e-3
    )


@pytest.mark.slow
def test_every_predicted_setting_within_1e3():
    quoted = published.quoted_predictions()
    ours = predictions(published.centres(), published.PARAMS)
    both = quoted.merge(ours, on=["optimizer", "hyperparameter", "chinchilla_ratio"])
    assert len(both) == len(quoted) == 168
    np.testing.assert_allclose(both.prediction_y, both.prediction_x, rtol=1e-3, atol=1e-30)
    lr = ours[(ours.optimizer == "adamw") & (ours.hyperparameter == "learning_rate")]
    assert (lr.flag == "degenerate").all()  # exponents of 1e-4: rises by a constant per doubling


def test_each_sensitive_set_at_a_threshold_the_study_names():
    quoted = published.quoted_sensitive().groupby("optimizer").hyperparameter.apply(set)
    runs, best = published.runs(), published.best()
    at = {d: sensitive_sets(runs, best, delta=d) for d in (5e-3, 6e-3, 7e-3)}
    assert len(quoted) == 10
    for name, keys in quoted.items():
        assert any(sets[name] == keys for sets in at.values()), (name, keys)
    assert sum(at[6e-3][name] == keys for name, keys in quoted.items()) == 8


def test_joint_law_at_7b_turns_over_without_the_1b_runs():
    def muon_minus_adamw(cells):
        N = 7e9
        loss = {}
        for name in ("adamw", "muon"):
            alpha, A, beta, B, gamma = joint_law(cells[cells.optimizer == name])
            loss[name] = alpha * N**-A + beta * (20 * N) ** -B + gamma
        return loss["muon"] - loss["adamw"]

    final, may = edition_cells("published_final"), edition_cells("published_may_4pt")
    assert muon_minus_adamw(final) == pytest.approx(0.0006, abs=5e-4)
    assert muon_minus_adamw(may) == pytest.approx(0.0080, abs=5e-4)
    assert -0.09 < muon_minus_adamw(may[may.model_size != "1.2b"]) < -0.06


def test_tables_are_tidy():
    best, runs = published.best(), published.runs()
    assert len(best) == 150 and len(runs) == 2141
    for table in (best, runs, published.curves(), published.downstream(), published.grids()):
        assert set(table.optimizer) <= set(published.OPTIMIZERS)
        assert set(table.model_size) <= set(published.SIZES)
    assert not best.loss.isna().any()
    assert runs.status.value_counts().to_dict() == {
        "finished": 1816,
        "diverged": 217,
        "missing": 108,
    }
    budget = best.chinchilla_ratio * published.TOKENS_PER_PARAM * best.non_embedding_params
    batch = best.hp_batch_size * 4096
    assert ((budget - best.tokens) >= 0).all() and ((budget - best.tokens) < batch).all()
