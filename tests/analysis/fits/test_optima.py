"""Optima as intervals, laws through them, suggestions with their regret."""

import numpy as np
import pandas as pd
import pytest

from analysis import published, suggest
from analysis.fits import optima, sensitivity
from analysis.fits.valley import optimum
from analysis.stats import hyper_laws
from analysis.stats.hyper_laws import from_log2, to_log2

SIGMA = 1e-3


def landscape(rng, *, drift=0.0, curvature=0.0145, sigma=SIGMA, sizes=published.SIZES):
    """Learning-rate sweeps on a x2 grid whose optimum falls by `drift` doublings per 4x N."""
    rows, offset = [], rng.uniform(-0.5, 0.5)
    for size in sizes:
        best = offset - drift * np.log2(published.PARAMS[size] / published.PARAMS["300m"]) / 2
        for ratio in (1, 2):
            for step in range(-2, 3):
                loss = 3 + curvature * (step - best) ** 2 + sigma * rng.standard_normal()
                rows.append((size, ratio, loss, 0.008 * 2.0**step))
    table = pd.DataFrame(rows, columns=["model_size", "chinchilla_ratio", "loss", "hp_lr"])
    table = table.rename(columns={"hp_lr": "hp_learning_rate"})
    params = table.model_size.map(published.PARAMS).astype(float)
    return table.assign(optimizer="muon", non_embedding_params=params)


def valley(d, k, curvature=0.012):
    """Nats above the best, d octaves from it; rises faster upwards by k."""
    return curvature * d**2 if k == 0 else 2 * curvature / k**2 * (np.exp(k * d) - k * d - 1)


def test_optimum_of_an_exact_parabola():
    x = np.arange(-2.0, 3.0)
    found = optimum(x, 3 + 0.01 * (x - 0.3) ** 2, SIGMA)
    assert found.x == pytest.approx(0.3, abs=0.03) and found.curvature == pytest.approx(0.01, 0.05)
    assert found.low < 0.3 < found.high and (found.edge, found.side) == ("", 0)
    assert found.regret == pytest.approx(0.01 * 0.3**2, abs=3e-4)


@pytest.mark.parametrize("points", [3, 5])
@pytest.mark.parametrize("k", [0, 0.5, 1.0])
def test_intervals_cover_on_valleys_that_are_no_parabola(points, k):
    rng, covered, known = np.random.default_rng(0), 0, 0
    for _ in range(60):
        x, true = np.arange(points) - (points - 1) / 2, rng.uniform(-0.5, 0.5)
        loss = 3 + valley(x - true, k) + SIGMA * rng.standard_normal(points)
        found = optimum(x, loss, SIGMA)
        known += found.side == 0
        covered += found.side == 0 and found.low <= true <= found.high
    assert known > 48
    assert covered / known >= 0.95 - 3 * (0.95 * 0.05 / known) ** 0.5


def test_an_optimum_that_is_not_bracketed_has_no_value():
    x = np.arange(-2.0, 3.0)
    falling = optimum(x, 3 - 0.01 * x, SIGMA)
    assert (falling.edge, falling.side) == ("high", 1)
    assert np.isnan(falling.x) and falling.low <= 2 and np.isinf(falling.high)
    rising = optimum(x, 3 + valley(x + 4, 0.5), SIGMA)  # the optimum lies below the grid
    assert rising.side == -1 and np.isnan(rising.x) and rising.high >= -2
    zero = optimum(np.array([-np.inf, -1, 0, 1]), [3.0, 3.02, 3.01, 3.05], SIGMA)
    assert (zero.edge, zero.side) == ("low", -1)  # nothing positive is as good as zero
    flat = optimum(x, np.full(5, 3.0), SIGMA)
    assert np.isnan(flat.side) and np.isinf(flat.low) and np.isinf(flat.high)
    two = optimum(x[:2], np.array([3.0, 3.1]), SIGMA)
    assert two.points == 2 and two.side == -1 and two.high < -1
    assert optimum(x[:1], [3.0], SIGMA) is None


def test_runs_far_above_the_best_and_diverged_ones_do_not_shape_the_valley():
    x = np.arange(-2.0, 3.0)
    loss = 3 + 0.012 * (x - 0.2) ** 2
    cliff = loss + np.array([0, 0, 0, 0, 2.0])
    gone = np.where(np.isinf(cliff + np.array([0, 0, 0, 0, np.inf])), np.nan, cliff)
    for found in (optimum(x, cliff, SIGMA), optimum(x, gone, SIGMA)):
        assert found.low < 0.2 < found.high and found.high - found.low < 0.5
        assert found.points == 4


def test_runs_far_above_the_best_bound_the_optimum():
    """A cliff says where the optimum does not lie; between two cliffs a flat floor says no more."""
    x = np.arange(-3.0, 4.0)
    flat = optimum(x[1:-1], np.array([3.4, 3.001, 3.0, 3.002, 3.4]), 0.01)
    assert (flat.low, flat.high) == (-2, 2) and np.isnan(flat.side) and np.isnan(flat.regret)
    right = optimum(x[1:-1], np.array([3.06, 3.05, 3.02, 2.995, 3.4]), 0.01)
    assert right.side == 0 and 0 < right.low < right.x < right.high == 2
    assert 0 <= right.regret < 0.03
    noisy = optimum(x[1:-1], np.array([3.15, 3.05, 3.0, 3.05, 3.15]), 0.02)
    assert noisy.points == 5  # a rise of 0.15 nats is no cliff where the noise is 0.02


def test_sweeps_tell_the_residual_where_nothing_else_does():
    found = [
        optima.valley_scatter(landscape(np.random.default_rng(s), sigma=2 * SIGMA), 10 * SIGMA)
        for s in range(8)
    ]
    times, df = np.array(found).T
    assert np.sqrt((times**2).mean()) == pytest.approx(0.2, rel=0.15)
    # five points, three parameters, and an asymmetry that counts in part, of eight sweeps
    assert ((df > 4) & (df < 16)).all()
    spread = (times**2).std() / (times**2).mean()
    assert spread == pytest.approx(np.sqrt(2 / df.mean()), rel=0.6)
    two = landscape(np.random.default_rng(0)).groupby(["model_size", "chinchilla_ratio"]).head(3)
    assert optima.valley_scatter(two, SIGMA) == (1.0, 0.0)  # three points pass through a valley


def test_what_sweeps_lie_off_their_valleys_widens_them_all():
    rng = np.random.default_rng(0)
    plain, rough = (landscape(rng, sigma=sigma) for sigma in (SIGMA, 4 * SIGMA))
    widths = []
    for runs in (plain, rough):
        found = optima.optima(runs, SIGMA)
        known = found[found.side == 0]
        widths.append((known.x_high - known.x_low).median())
    assert found.misfit.iloc[0] == pytest.approx(4, rel=0.5)
    assert widths[1] > 2 * widths[0]


def test_a_regret_is_that_of_the_settings_reported():
    """The tested rule may report another run than the lowest: an octave up it costs more."""
    runs = landscape(np.random.default_rng(3), sigma=1e-4)
    best = runs.loc[runs.groupby(["model_size", "chinchilla_ratio"]).loss.idxmin()]
    other = best.assign(hp_learning_rate=2 * best.hp_learning_rate).drop(columns="loss")
    other = other.merge(runs)
    found, same = (optima.optima(runs, 1e-4, winners) for winners in (other, best))
    pd.testing.assert_frame_equal(same, optima.optima(runs, 1e-4))
    known = (found.side == 0) & (found.chosen == 2 * found.best)
    rise = 0.0145 * (np.log2(found.chosen / found.value)) ** 2
    assert known.sum() >= 4
    np.testing.assert_allclose(found.regret[known], rise[known], rtol=0.1)


def test_momenta_live_on_their_memory():
    assert from_log2("beta1", to_log2("beta1", 0.95)) == pytest.approx(0.95)
    assert to_log2("momentum", 0.98) - to_log2("momentum", 0.96) == pytest.approx(1)


def test_law_recovers_a_drift_and_predicts_inside_its_interval():
    inside = 0
    for seed in range(20):
        runs = landscape(np.random.default_rng(seed), drift=1.0)
        small = runs[runs.model_size != "1.2b"]
        found = optima.optima(small, SIGMA)
        law = optima.law(found, found.model_size.map(published.PARAMS))
        assert law.coefficients[1] == pytest.approx(-0.5, abs=0.2)
        offset = np.random.default_rng(seed).uniform(-0.5, 0.5)
        big = published.PARAMS["1.2b"]
        true = np.log2(0.008) + offset - np.log2(big / published.PARAMS["300m"]) / 2
        x, variance = law.predict(big, 1)
        inside += abs(x - true) <= law.half_width(variance)
    assert inside >= 18
    assert law.outside(big, 1) == pytest.approx(np.log2(big / published.PARAMS["520m"]))
    assert law.outside(published.PARAMS["300m"], 1) == 0
    assert optima.law(found.head(3), np.array([1e8, 2e8, 4e8])) is None  # no degree of freedom


def test_censored_optima_bound_the_law_and_do_not_pull_it():
    """Cells whose grid ends below the optimum: left out, or taken for points, they bias the law."""
    rng, inside, biased = np.random.default_rng(0), 0, []
    for _ in range(40):
        n = np.repeat(2.0 ** np.arange(8), 3) * 1e8
        ratio = np.tile([1.0, 2, 4], 8)
        true = -0.5 * np.log2(n / n.mean()) + 0.2 * rng.standard_normal(24)
        x = true + 0.1 * rng.standard_normal(24)
        censored = (x > 0.6).astype(int)  # the largest value tried
        law = hyper_laws.through_intervals(n, ratio, np.minimum(x, 0.6), np.full(24, 0.1), censored)
        naive = hyper_laws.through_intervals(
            n, ratio, np.minimum(x, 0.6), np.full(24, 0.1), 0 * censored
        )
        value, variance = law.predict(n.min(), 1)
        inside += abs(value + 0.5 * np.log2(n.min() / n.mean())) <= law.half_width(variance)
        biased.append(naive.coefficients[1])
        assert law.coefficients[1] == pytest.approx(-0.5, abs=0.2)
    assert inside >= 34 and np.mean(biased) > -0.4


@pytest.mark.parametrize("sigma", [5e-4, 3e-3])
@pytest.mark.slow
def test_sensitive_rule_error_rate_and_power(sigma):
    flagged = {"flat": 0, "curved": 0, "drifting": 0}
    for seed in range(15):
        for kind, drift, curvature in (
            ("flat", 0, 0), ("curved", 0, 0.0145), ("drifting", 1, 0.0145),
        ):  # fmt: skip
            runs = landscape(
                np.random.default_rng(seed), drift=drift, curvature=curvature, sigma=sigma
            )
            test = sensitivity.sensitivity_test(
                runs, optima.optima(runs, sigma), sigma, draws=100, seed=seed
            )
            flagged[kind] += test.sensitive.iloc[0]
    assert flagged["flat"] <= 3 and flagged["curved"] <= 3  # 5 % of 15, and its binomial spread
    assert flagged["drifting"] >= 13


def test_suggest_covers_every_hyperparameter_and_says_when_it_extrapolates(capsys):
    suggest.main(["--optimizer=muon", "--params=350e6", "--tokens=14e9"])
    text = capsys.readouterr().out
    assert "learning_rate" in text and "2x Chinchilla" in text and "extrapolates" not in text
    runs = suggest.recorded_runs()
    table = suggest.suggest(runs, "Adam-mini", 7e9, 140e9)
    names = {
        c.removeprefix("hp_")
        for c in runs[runs.optimizer == "adam_mini"].dropna(axis=1, how="all")
        if c.startswith("hp_")
    }
    assert set(table.hyperparameter) == names
    assert table.low.isna().all()  # 13 times beyond the recorded sizes no law is asked
    lion = suggest.suggest(runs, "lion", 6e8, 24e9).set_index("hyperparameter")
    law = lion[lion.low.notna()]
    assert (law.low <= law.value).all() and (law.value <= law.high).all()
    muon = suggest.suggest(runs, "muon", published.PARAMS["520m"], 20 * published.PARAMS["520m"])
    muon = muon.set_index("hyperparameter")
    assert muon.rounded["batch_tokens"] in (128 * 4096, 256 * 4096)
    assert muon.rounded["learning_rate"] in (0.004, 0.008, 0.016)


def test_suggest_from_own_results(tmp_path, capsys):
    import synthetic_study

    synthetic_study.write(tmp_path, optimizers=("adamw", "muon"), seeds=1)
    common = ["--optimizer=muon", "--params=2e5", "--tokens=8e6", f"--results={tmp_path}"]
    suggest.main([*common, "--only=own"])
    line = next(t for t in capsys.readouterr().out.splitlines() if "learning_rate" in t)
    _, value, low, high, rounded, *_ = line.split()
    assert float(low) < 0.008 < float(high) and float(rounded) == 0.008
    assert "law over 6 cells" in line and float(value) > 0
    suggest.main(common)
    assert "learning_rate" in capsys.readouterr().out


def test_suggest_refuses_what_it_cannot_know(capsys):
    runs = suggest.recorded_runs()
    with pytest.raises(ValueError, match="did you mean muon"):
        suggest.suggest(runs, "muonn", 1e8, 1e9)
    with pytest.raises(ValueError, match="params: must be positive and finite, got -1"):
        suggest.suggest(runs, "muon", -1, 1e9)
    with pytest.raises(ValueError, match="params: 350 is fewer than 10000; did you mean 350e6"):
        suggest.suggest(runs, "muon", 350, 14e9)
    with pytest.raises(ValueError, match="for every parameter cannot be meant"):
        suggest.suggest(runs, "muon", 14e9, 350e6)
    with pytest.raises(SystemExit):
        suggest.main(["--optimizer=muon", "--params=1e8", "--tokens=1e9", "--only=own"])
    assert "needs --results" in capsys.readouterr().err
