"""Optima as intervals, laws through them, suggestions with their regret."""

import numpy as np
import pandas as pd
import pytest

from analysis import published, suggest
from analysis.fits import optima, sensitivity

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


def test_optimum_of_an_exact_parabola():
    x = np.arange(-2.0, 3.0)
    found = optima.optimum(x, 3 + 0.01 * (x - 0.3) ** 2, SIGMA)
    assert found.x == pytest.approx(0.3, abs=0.02) and found.curvature == pytest.approx(0.01, 0.02)
    assert found.low < 0.3 < found.high and found.edge == "" and not found.censored
    assert found.regret == pytest.approx(0.01 * 0.3**2, abs=3e-4)


def test_optimum_covers_and_open_ends_are_open():
    x, rng, covered = np.arange(-2.0, 3.0), np.random.default_rng(0), 0
    for _ in range(200):
        true = rng.uniform(-0.8, 0.8)
        loss = 3 + 0.01 * (x - true) ** 2 + SIGMA * rng.standard_normal(5)
        found = optima.optimum(x, loss, SIGMA)
        covered += found.low <= true <= found.high
    assert covered >= 180
    falling = optima.optimum(x, 3 - 0.01 * x, SIGMA)
    assert falling.edge == "high" and np.isinf(falling.high) and falling.censored
    flat = optima.optimum(x, np.full(5, 3.0), SIGMA)
    assert np.isinf(flat.low) and np.isinf(flat.high)
    two = optima.optimum(x[:2], np.array([3.0, 3.1]), SIGMA)
    assert two.points == 2 and np.isnan(two.curvature) and two.high < 0
    assert optima.optimum(x[:1], [3.0], SIGMA) is None


def test_momenta_live_on_their_memory():
    assert optima.from_log2("beta1", optima.to_log2("beta1", 0.95)) == pytest.approx(0.95)
    assert optima.to_log2("momentum", 0.98) - optima.to_log2("momentum", 0.96) == pytest.approx(1)


def test_law_recovers_a_drift_and_predicts_inside_its_interval():
    inside = 0
    for seed in range(20):
        runs = landscape(np.random.default_rng(seed), drift=1.0)
        small = runs[runs.model_size != "1.2b"]
        found = optima.optima(small, SIGMA)
        assert (found.low <= found.value).all() and (found.value <= found.high).all()
        params = found.model_size.map(published.PARAMS)
        law = optima.fit_transfer(
            "learning_rate", found.x, found.x_low, found.x_high, params,
            found.chinchilla_ratio, found.curvature,
        )  # fmt: skip
        assert law.coefficients[1] == pytest.approx(-0.5, abs=0.2)
        offset = np.random.default_rng(seed).uniform(-0.5, 0.5)
        big = published.PARAMS["1.2b"]
        true = 0.008 * 2 ** (offset - np.log2(big / published.PARAMS["300m"]) / 2)
        value, low, high, regret = law.predict(big, 1)
        inside += low <= true <= high
        assert 0 < regret < 0.01 and law.regret(2 * value, big, 1) > law.regret(value, big, 1)
    assert inside >= 18
    assert law.extrapolates(big, 1).startswith("extrapolates: params")
    assert law.extrapolates(published.PARAMS["300m"], 1) == ""
    assert optima.fit_transfer("x", [0, 1], [0, 1], [0, 1], [1, 2], [1, 1], [1, 1]) is None


@pytest.mark.parametrize("sigma", [5e-4, 3e-3])
def test_sensitive_rule_error_rate_and_power(sigma):
    flagged = {"flat": 0, "curved": 0, "drifting": 0}
    for seed in range(30):
        for kind, drift, curvature in (
            ("flat", 0, 0), ("curved", 0, 0.0145), ("drifting", 1, 0.0145),
        ):  # fmt: skip
            runs = landscape(
                np.random.default_rng(seed), drift=drift, curvature=curvature, sigma=sigma
            )
            test = sensitivity.sensitivity_test(
                runs, sigma, optima.optima(runs, sigma), draws=100, seed=seed
            )
            flagged[kind] += test.sensitive.iloc[0]
    assert flagged["flat"] <= 4 and flagged["curved"] <= 4  # 5 % of 30, and its binomial spread
    assert flagged["drifting"] >= 27


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
    law = table[table.low.notna()]
    assert len(law) and law.note.str.contains("extrapolates").all()
    assert (law.low <= law.value).all() and (law.value <= law.high).all()
    muon = suggest.suggest(runs, "muon", published.PARAMS["520m"], 20 * published.PARAMS["520m"])
    lr = muon.set_index("hyperparameter").loc["learning_rate"]
    batch = muon.set_index("hyperparameter").loc["batch_tokens"]
    assert batch.rounded in (128 * 4096, 256 * 4096)
    assert lr.rounded in (0.004, 0.008, 0.016) and 0 < lr.regret < 5e-3


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
    assert "law over 22 cells" in capsys.readouterr().out


def test_suggest_refuses_what_it_cannot_know(capsys):
    runs = suggest.recorded_runs()
    with pytest.raises(ValueError, match="did you mean muon"):
        suggest.suggest(runs, "muonn", 1e8, 1e9)
    with pytest.raises(ValueError, match="params: must be positive and finite, got -1"):
        suggest.suggest(runs, "muon", -1, 1e9)
    with pytest.raises(SystemExit):
        suggest.main(["--optimizer=muon", "--params=1e8", "--tokens=1e9", "--only=own"])
    assert "needs --results" in capsys.readouterr().err
