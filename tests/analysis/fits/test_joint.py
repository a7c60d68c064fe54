"""Speed-ups: exact on exact data, bounded where AdamW was not run, never NaN."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import published
from analysis.coverage import bootstrap_check
from analysis.estimates import cards
from analysis.fits import advice, lint, simulate
from analysis.fits.joint import fit_joint
from analysis.fits.speedup import own_curve_scatter, published_speedup, robust_cell
from analysis.runs.names import CELL
from analysis.stats import noise

NOISE = noise.Noise(1e-3, np.inf)


@pytest.fixture(scope="module")
def truth():
    return simulate.draw_truth(np.random.default_rng(1), sigma=0.0, tuning=0.0)


@pytest.fixture(scope="module")
def exact(truth):
    """The recorded study's cells with exact losses."""
    cells = simulate.draw_cells(np.random.default_rng(0), truth, noise.assumed(1e-9))
    return cells.assign(loss=cells.best_loss, se=1e-3)


def true_speedup(truth, row):
    params = published.PARAMS[row.model_size]
    return truth.speedup(row.optimizer, params, row.chinchilla_ratio)


def test_joint_model_recovers_exact_speedups(truth, exact):
    fit = fit_joint(exact, 1e-3)
    assert fit.converged and fit.agreement == 1.0 and fit.condition < 1e4
    assert fit.theta[8] == pytest.approx(truth.exponent, rel=1e-6)
    for name in fit.columns:
        value, _ = fit.speedup(name, published.PARAMS["1.2b"], 3)
        expected = truth.speedup(name, published.PARAMS["1.2b"], 3)
        assert value == pytest.approx(expected, rel=1e-6)
        assert fit.decline(name)[0] == pytest.approx(np.exp(truth.log_rho[name][1]), rel=1e-6)
    assert lint.joint(fit) == []


def test_cells_recover_exact_speedups_or_give_a_true_bound(truth, exact):
    answers = robust_cell(exact, NOISE)
    assert np.isfinite(answers.speedup).all() and len(answers) == 132
    for row in answers.itertuples():
        true = true_speedup(truth, row)
        assert row.low <= true <= row.high
        if row.bound:
            largest = 16 if row.model_size in ("130m", "300m") else 8
            assert row.speedup == largest / row.chinchilla_ratio <= true
            assert np.isinf(row.high) and row.note.startswith("lower bound")
        else:
            assert row.speedup == pytest.approx(true, rel=1e-6)


def test_two_ratios_give_brackets_and_one_size_still_works(truth, exact):
    two = exact[exact.chinchilla_ratio.isin([1, 8])]
    answers = robust_cell(two, NOISE)
    assert set(answers.bound) <= {"lower", "upper", "none"}
    for row in answers.itertuples():
        assert row.low * 0.999 <= true_speedup(truth, row) <= row.high * 1.001
    with pytest.raises(ValueError, match="no size has 3 adamw ratios"):
        fit_joint(two, 1e-3)
    one = fit_joint(exact[exact.model_size == "130m"], 1e-3)
    assert any("no trend in size" in note for note in one.notes)
    assert one.decline("muon") is None and one.decline_test() is None
    assert fit_joint(exact[exact.optimizer == "adamw"], 1e-3).columns == {}


def test_intervals_and_probabilities_on_the_recorded_study():
    best = published.best()
    fit = fit_joint(best, 1.1e-3)
    value, (low, high) = fit.speedup("muon", published.PARAMS["130m"], 2 * 2**0.5)
    assert 1.26 < low < 1.35 == pytest.approx(value, abs=0.02) and high < 1.44
    value, (low, high) = fit.speedup("muon", published.PARAMS["1.2b"], 2 * 2**0.5)
    assert 1.05 < low < 1.1 < value < 1.16 < high < 1.26
    factor, (low, high), p = fit.decline("muon")
    assert factor == pytest.approx(0.95, abs=0.01) and high < 1 and p < 1e-3
    assert fit.scatter > 2e-3 and any("scatter" in s for s in lint.joint(fit))
    N = published.PARAMS["1.2b"]
    assert fit.faster("muon", "soap", N, 4) == pytest.approx(1 - fit.faster("soap", "muon", N, 4))
    assert fit.faster("muon", "muon", N, 4) == 0.5
    assert fit.speedup("adamw", N, 4)[0] == 1


def test_influence_and_three_kinds_of_interval(truth, exact):
    wrong = exact.copy()
    at = wrong.index[(wrong.optimizer == "muon") & (wrong.model_size == "1.2b")][0]
    wrong.loc[at, "loss"] += 0.02
    fit = fit_joint(wrong, 1e-3)
    moved = cards.influence(fit, "muon", published.PARAMS["1.2b"], 2)
    cell = wrong.loc[at]
    single = moved[moved.left_out == "cell"].iloc[0]
    assert single.label == f"muon 1.2b {cell.chinchilla_ratio:g}x"
    assert set(moved.left_out) == {"cell", "size", "ratio"}

    rng = np.random.default_rng(3)
    noisy = simulate.draw_truth(rng, sigma=1e-3)
    measured = simulate.draw_noise(rng, noisy)
    fit = fit_joint(simulate.draw_cells(rng, noisy, measured), measured.paired.sd)
    three = bootstrap_check(fit, "muon", published.PARAMS["520m"], 4, replicates=60)
    assert three.interval.tolist() == ["profile", "noise bootstrap", "bootstrap by cell"]
    width = np.log(three.high / three.low)
    assert (width / width[0]).between(0.5, 1.6).all()


@pytest.mark.slow
def test_advice_settles_the_claim_as_often_as_it_says(exact):
    """The advised runs are made, in studies drawn from the fit, and everything is refitted."""
    few = exact[exact.optimizer.isin(["adamw", "muon"]) & (exact.model_size != "1.2b")]
    unit = fit_joint(few, 1e-3)
    claim = unit.contrast("muon", published.PARAMS["300m"], 4)
    settled = abs(claim @ unit.theta) / np.sqrt(claim @ unit.covariance @ claim)
    sd = 1e-3 * settled / 1.85  # so noisy that the effect is 1.85 standard errors
    fit = fit_joint(few.assign(se=sd), sd)
    extra = advice.cheapest(fit, claim, ["muon"])
    assert "cheapest that would, with a chance of" in advice.sentence(extra)
    sharp = fit_joint(few.assign(se=1e-5), 1e-5)
    assert advice.cheapest(sharp, claim, ["muon"]) is None  # already settled
    rng, won, studies = np.random.default_rng(0), 0, 200
    spread = np.linalg.cholesky(fit.covariance)
    names = [tuple(cell) for cell in fit.cells[CELL].itertuples(index=False)]
    at = [names.index(cell) for cell in extra.cells]  # all of them exist
    for _ in range(studies):
        # what may be true, given this study; then the new runs' means, averaged in
        truth = fit.model((fit.theta + spread @ rng.standard_normal(len(fit.theta)))[None])[0][0]
        new = truth[at] + sd / extra.runs**0.5 * rng.standard_normal(len(at))
        cells = fit.cells.copy()
        cells.loc[at, "loss"] = (cells.loss[at] + extra.runs * new) / (1 + extra.runs)
        cells.loc[at, "se"] = sd / (1 + extra.runs) ** 0.5
        _, (low, high) = fit_joint(cells, sd).interval(claim)
        won += low > 0 or high < 0
    assert won / studies == pytest.approx(extra.power, abs=3 * (0.8 * 0.2 / studies) ** 0.5 + 0.03)


def test_seeds_do_not_average_the_scatter_of_cells_away(exact):
    few = exact[exact.optimizer.isin(["adamw", "muon"])].copy()
    few["loss"] += 3e-3 * np.random.default_rng(0).standard_normal(len(few))
    fit = fit_joint(few.assign(se=1e-4), 1e-4)
    assert fit.scatter > 1e-3
    endless = advice._added_weight(fit, "muon", "300m", 4.0, 10**6) + fit.weight[0]
    assert endless == pytest.approx(fit.noise**2 / fit.scatter**2, rel=1e-3)


def test_intervals_are_wider_when_the_noise_rests_on_little(exact):
    few = exact[exact.optimizer.isin(["adamw", "muon"]) & (exact.model_size == "130m")]
    sure, unsure = (
        robust_cell(few, noise.Noise(1e-3, df)).query("bound == ''").iloc[0] for df in (np.inf, 3)
    )
    ratio = np.log(unsure.high / unsure.low) / np.log(sure.high / sure.low)
    assert ratio == pytest.approx(stats.t.ppf(0.975, 3) / 1.96, rel=0.1)
    rough = few.assign(loss=few.loss + 3e-3 * np.random.default_rng(0).standard_normal(len(few)))
    fit = fit_joint(rough, 1e-3)
    assert fit.scatter > 0 and fit.df < 8
    claim = fit.contrast("muon", fit.params0, fit.ratio0)
    _, (low, high) = fit.interval(claim)
    half = stats.t.ppf(0.975, fit.df) * np.sqrt(claim @ fit.covariance @ claim)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)


def test_a_bracket_needs_more_than_noise():
    """Two baseline losses fix no law; a rival between them, or level with one, is not ahead."""
    r = pd.DataFrame({"chinchilla_ratio": [1.0, 2.0], "loss": [3.4, 3.3]})
    base = r.assign(optimizer="adamw", model_size="s", se=1e-3)
    for loss, bound, speedup in (
        (3.4 - 1e-3, "upper", 2.0), (3.3 - 1e-3, "lower", 1.0), (3.2, "lower", 2.0),
        (3.45, "upper", 1.0),
    ):  # fmt: skip
        rival = base.iloc[[0]].assign(optimizer="muon", loss=loss)
        answer = robust_cell(pd.concat([base, rival]), noise.Noise(1e-3, 4)).iloc[0]
        assert (answer.bound, answer.speedup) == (bound, speedup), loss
    level = base.assign(loss=3.4)  # within the noise of every one
    rival = base.iloc[[0]].assign(optimizer="muon", loss=3.4 + 1e-3)
    answer = robust_cell(pd.concat([level, rival]), noise.Noise(1e-3, 4)).iloc[0]
    assert answer.bound == "none" and "not resolvable" in answer.note


def test_what_a_race_has_in_common_costs_a_speedup_little(exact):
    """The same losses, shifted race by race: as pairs they say as much as before."""
    few = exact[exact.optimizer.isin(["adamw", "muon"]) & (exact.model_size != "1.2b")].copy()
    rng = np.random.default_rng(0)
    few["loss"] += 3e-4 * rng.standard_normal(len(few))
    races = few.groupby(["model_size", "chinchilla_ratio"]).ngroup()
    shift = 5e-3 * rng.standard_normal(races.max() + 1)
    moved = few.assign(loss=few.loss + shift[races], se=3e-4)
    paired = fit_joint(moved.assign(common_se=5e-3), 3e-4)
    alone = fit_joint(moved.assign(se=5e-3), 5e-3)
    params = published.PARAMS["300m"]
    width = [np.diff(np.log(fit.speedup("muon", params, 4)[1]))[0] for fit in (paired, alone)]
    assert width[0] < 0.5 * width[1]
    quiet = fit_joint(few.assign(se=3e-4), 3e-4)
    assert paired.speedup("muon", params, 4)[0] == pytest.approx(
        quiet.speedup("muon", params, 4)[0], rel=0.05
    )
    without = cards.leave_out(paired)
    assert np.isfinite(np.stack(without.theta.to_list())).all()


def test_own_curve_scatter_sees_tuning_error():
    found = []
    for tuning in (0.0, 2e-3):
        rng = np.random.default_rng(0)
        drawn = simulate.draw_truth(rng, sigma=5e-4, tuning=tuning)
        cells = simulate.draw_cells(rng, drawn, noise.assumed(5e-4))
        found.append(own_curve_scatter(cells).tau)
    assert found[0] < 5e-4 < 8e-4 < found[1]
    assert own_curve_scatter(cells[cells.model_size == "1.2b"]) is None


def test_published_speedup_below_the_floor_is_a_bound():
    r = [1, 2, 4, 8]
    base = pd.DataFrame({"chinchilla_ratio": r, "loss": 3 + 0.4 * np.array(r) ** -0.5})
    base = base.assign(optimizer="adamw", model_size="130m")
    below = base.iloc[[3]].assign(optimizer="muon", loss=2.9)
    answer = published_speedup(pd.concat([base, below])).set_index("optimizer").loc["muon"]
    assert answer.speedup == 1.0 and answer.note == "lower bound: below the fitted floor"
