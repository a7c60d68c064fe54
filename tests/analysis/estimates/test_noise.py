"""Noise from seeds and null changes; the best of k runs put back where it belongs."""

import numpy as np
import pandas as pd
import pytest

from analysis import published
from analysis.estimates import noise, simulate
from analysis.runs import cells

CELL = ["optimizer", "model_size", "chinchilla_ratio"]


def runs_of(rng, *, groups=30, seeds=3, sigma=2e-3, **columns):
    rows = [
        {"hp_learning_rate": 0.001 * (1 + g), "seed": s, "loss": 3 + sigma * rng.normal()}
        for g in range(groups)
        for s in range(seeds)
    ]
    base = {"optimizer": "muon", "model_size": "130m", "chinchilla_ratio": 1, **columns}
    return pd.DataFrame(rows).assign(**base)


def test_seeds_give_sigma_with_an_interval_that_covers():
    covered, found = 0, []
    for seed in range(40):
        measured = noise.from_seeds(runs_of(np.random.default_rng(seed), groups=20))
        found.append(measured.sigma)
        covered += measured.low <= 2e-3 <= measured.high
    assert np.mean(found) == pytest.approx(2e-3, rel=0.05)
    assert covered >= 34
    assert measured.source == "seeds" and "groups" in str(measured)


def test_recorded_null_changes():
    measured = noise.measure(published.runs())
    assert measured.source == "null changes"
    assert measured.sigma == pytest.approx(0.0011, abs=1e-4)
    assert measured.low < 0.001 < measured.high
    assert noise.from_seeds(published.runs()) is None  # nothing was ever repeated


def test_what_is_not_a_null_change():
    rng = np.random.default_rng(0)
    runs = runs_of(rng, groups=1, seeds=1).drop(columns="seed")
    pair = pd.concat([runs.assign(hp_epsilon=1e-25), runs.assign(hp_epsilon=1e-15, loss=3.001)])
    assert noise.from_null_changes(pair).sigma == pytest.approx(np.ptp(pair.loss) / 2**0.5)
    assert noise.from_null_changes(pair.assign(hp_epsilon=[1e-25, 1e-6])) is None
    assert noise.from_null_changes(pair.assign(optimizer="sophia")) is None
    assert noise.from_null_changes(pair.assign(loss=3.0)) is None  # bit-identical: one run twice
    with pytest.raises(ValueError, match="sigma: must be positive"):
        noise.assumed(0.0)


@pytest.mark.parametrize("k", [1, 5, 25])
def test_selection_is_undone_when_all_are_equally_good(k):
    losses = 3 + 1e-3 * np.random.default_rng(k).standard_normal((3000, k))
    corrected, error = noise.undo_selection(losses, 1e-3)
    naive, left = losses.min(1).mean() - 3, corrected.mean() - 3
    if k == 1:
        np.testing.assert_array_equal(corrected, losses[:, 0])
    else:
        assert abs(left) < 0.4 * abs(naive)
    assert 0.9 < (np.abs(corrected - 3) < 1.96 * error).mean() < 0.99


def test_a_winner_far_ahead_stays_where_it_is():
    losses = np.array([[3.0, *np.full(20, 3.05)], [3.0, *np.full(20, np.inf)]])
    corrected, error = noise.undo_selection(losses, 1e-3)
    np.testing.assert_allclose(corrected, 3.0, atol=5e-5)
    np.testing.assert_allclose(error, 1e-3, rtol=0.1)


def test_re_runs_of_the_winner_count():
    runs = runs_of(np.random.default_rng(0), groups=8, seeds=1, sigma=1e-3)
    runs.loc[2, "loss"] = 2.99  # a lucky winner ...
    again = pd.concat([runs.iloc[[2]].assign(seed=s, loss=3.0) for s in (1, 2, 3)])
    table, problems = cells.clean(pd.concat([runs, again]))
    one = cells.cell_losses(table, noise.assumed(1e-3)).iloc[0]
    assert problems == []
    assert (one.trials, one.repeats) == (8, 3)
    assert one.best_loss == 2.99 and one.loss > 2.996 and one.se < 6e-4  # ... found out


def test_runs_and_cells_of_the_generator_agree():
    truth = simulate.draw_truth(np.random.default_rng(0))
    few = simulate._grid().query("model_size == '1.2b'")
    runs = simulate.draw_runs(np.random.default_rng(5), truth, few)
    table = cells.cell_losses(cells.clean(runs)[0], noise.assumed(1e-3))
    trials = simulate.draw_trials(np.random.default_rng(5), truth, few)
    expected = few.assign(best=[min(t) for t in trials])
    both = table.merge(expected, on=CELL, suffixes=("", "_drawn"))
    np.testing.assert_array_equal(both.best_loss, both.best)
    np.testing.assert_array_equal(both.trials, both.trials_drawn)


@pytest.mark.parametrize(
    "spelling", ["soape", "SOAP", "soapb", "Adam-mini", "mini", "adam_mini", "PSGD-Kron", "Muon"]
)
def test_one_name_for_every_spelling(spelling):
    assert cells.canonical(spelling) in published.OPTIMIZERS


def test_clean_says_what_it_leaves_out():
    runs = runs_of(np.random.default_rng(0), groups=4, seeds=1).assign(status="finished")
    runs.loc[1, ["status", "loss"]] = ["diverged", np.nan]
    runs.loc[2, "loss"] = np.nan
    table, problems = cells.clean(pd.concat([runs, runs.iloc[[0]]]).assign(optimizer="muonn"))
    assert len(table) == 2
    assert [p[:2] for p in problems] == [
        ("unknown_optimizer", 5),
        ("duplicates", 1),
        ("diverged", 1),
        ("missing_loss", 1),
    ]
    assert "did you mean muon?" in problems[0][2]
    with pytest.raises(ValueError, match="missing column loss"):
        cells.clean(runs.drop(columns="loss"))
    with pytest.raises(ValueError, match="chinchilla_ratio: must be positive, got -1"):
        cells.clean(runs.assign(chinchilla_ratio=-1))
    with pytest.raises(ValueError, match="'tiny' needs a non_embedding_params column"):
        cells.clean(runs.assign(model_size="tiny"))


def test_costs_are_relative_to_the_baseline():
    rows = [
        {"optimizer": o, "model_size": "a", "tokens": 10.0, "flops": f, "seconds": s}
        for o, f, s in (("adamw", 10, 1.0), ("adamw", 10, 3.0), ("muon", 11, 3.0))
    ]
    table = cells.costs(pd.DataFrame(rows)).set_index("quantity")
    assert table.factor.flops == pytest.approx(1.1) and table.factor.seconds == pytest.approx(1.5)
