"""Loss laws: exact where the data are exact, the same from every start, honest about the rest."""

import numpy as np
import pandas as pd
import pytest

from analysis import laws
from analysis.fits import lint, loss_laws
from analysis.fits.joint import EquivalentData
from analysis.stats import intervals, solver

TRUE = {
    "floor": 1.8172,
    "amplitude_params": 477.84,
    "exponent_params": 0.3478,
    "amplitude_tokens": 2085.43,
    "exponent_tokens": 0.3658,
}


def chinchilla(seed, noise, n=240):
    """A table like the 240-point one of Hoffmann et al. (which is not ours to ship)."""
    rng = np.random.default_rng(seed)
    N, C = 10 ** rng.uniform(7.7, 10.2, n), 10 ** rng.uniform(18.8, 21.5, n)
    D = C / 6 / N
    loss = TRUE["floor"] + TRUE["amplitude_params"] * N ** -TRUE["exponent_params"]
    loss = loss + TRUE["amplitude_tokens"] * D ** -TRUE["exponent_tokens"]
    loss = np.exp(np.log(loss) + noise * rng.standard_t(4, n))
    return pd.DataFrame({"params": N, "tokens": D, "loss": loss})


def fit(table, **k):
    return loss_laws.fit_law(
        table[["params", "tokens"]], table.loss, columns=("params", "tokens"), **k
    )


@pytest.mark.parametrize("logarithmic, delta", [(True, 1e-3), (True, np.inf), (False, np.inf)])
def test_recovers_exact_data(logarithmic, delta):
    found = fit(chinchilla(0, 0.0), logarithmic=logarithmic, delta=delta).parameters()
    for name, value in TRUE.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("seed", range(6))
def test_starts_agree(seed):
    table = chinchilla(seed, (1e-3, 5e-3, 1e-2)[seed % 3])
    for k in ({"logarithmic": True, "delta": 1e-3}, {}):
        found = fit(table, **k)
        assert found.converged and found.agreement >= 0.95
        assert found.condition < 1e5


def test_optimum_is_the_optimum_of_an_independent_solver():
    from scipy.optimize import minimize

    table = chinchilla(3, 5e-3)
    found = fit(table, logarithmic=True, delta=1e-3)

    def objective(theta):
        return solver.huber(found.form(theta[None])[0][0] - found.target, 1e-3).sum()

    nudged = found.theta * (1 + 1e-3)
    other = minimize(objective, nudged, method="Nelder-Mead", options={"maxiter": 4000})
    assert found.objective <= other.fun * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["powers", "log powers", "equivalent data"])
def test_gradients(kind):
    rng = np.random.default_rng(0)
    if kind == "equivalent data":
        size = rng.integers(0, 2, 9)
        model = EquivalentData(size, size, rng.normal(size=9), rng.normal(size=(9, 2)))
        theta = np.array([3.0, 2.9, -1.0, -1.2, 0.4, 0.0, 0.1, -0.2])  # one exponent exactly zero
    else:
        model = loss_laws.Form(rng.normal(size=(9, 2)), kind == "log powers")
        theta = rng.normal(size=5) * 0.3
    jacobian = model(theta[None])[1][0]
    for j, step in enumerate(np.eye(len(theta)) * 1e-6):
        numeric = (model((theta + step)[None])[0] - model((theta - step)[None])[0])[0] / 2e-6
        np.testing.assert_allclose(jacobian[:, j], numeric, rtol=1e-5, atol=1e-7)


def test_bootstrap_and_profile_contain_the_truth_and_agree():
    table = chinchilla(5, 5e-3)
    found = fit(table, logarithmic=True)
    j = found.names.index("exponent_tokens")
    variance = intervals.scale(found.residuals, 5)
    profile = intervals.profile(
        found.form, found.theta, np.eye(5)[j], target=found.target, variance=variance, df=235
    )
    weight = intervals.cell_weights(np.arange(240), 300, np.random.default_rng(0))
    starts = found.form.starts(table.loss.to_numpy(), exponents=(0.2, 0.6))
    theta, dropped = intervals.bootstrap(
        found.form, found.theta, target=found.target, starts=starts, weight=weight
    )
    low, high = intervals.percentile(theta[:, j])
    assert dropped == 0
    assert profile.low < TRUE["exponent_tokens"] < profile.high
    assert (high - low) / (profile.high - profile.low) == pytest.approx(1, abs=0.4)


def test_leave_out_finds_the_wrong_point():
    table = chinchilla(1, 1e-4)
    table.loc[17, "loss"] *= 1.05
    moved = loss_laws.leave_out(fit(table), np.arange(240))
    assert moved.mean_abs_error.idxmax() == 17


def test_published_law_needs_three_ratios():
    with pytest.raises(ValueError, match="ratio: a data law needs 3"):
        loss_laws.fit_data_law([1, 2, 2], [3.5, 3.4, 3.4])
    law = loss_laws.fit_data_law([8, 1, 2, 4], 3 + 0.4 * np.array([8.0, 1, 2, 4]) ** -0.5)
    assert law.floor == pytest.approx(3, abs=1e-6)
    assert law.data_for(2.9) == np.inf  # below the floor: infinite, not NaN


def test_lint_names_the_patterns():
    r = np.array([1.0, 2, 4])
    saturated = loss_laws.fit_law(r, 3 + 0.4 * r**-0.5, columns=("ratio",))
    assert any("n - p = 0" in s for s in lint.law(saturated, grid=(1, 16)))
    assert any("off the data" in s for s in lint.law(saturated, grid=(1, 16)))
    few = pd.DataFrame({"optimizer": ["adamw", "muon"], "trials": [10, 33]})
    few = few.assign(model_size="130m", chinchilla_ratio=1)
    assert lint.effort(few) == ["130m 1x: muon 33 trials against adamw 10"]
    assert lint.effort(few.assign(trials=[30, 33])) == []


def test_bad_columns_are_named():
    table = chinchilla(0, 1e-3, n=20)
    with pytest.raises(ValueError, match="loss: must be positive and finite, got nan"):
        fit(table.assign(loss=np.nan))
    with pytest.raises(ValueError, match="tokens: a power with a floor needs 3 distinct"):
        fit(table.assign(tokens=1e9))
    with pytest.raises(ValueError, match=r"columns: \['flops'\] not usable"):
        laws.law_numbers(table, ["flops", "loss"])


def test_command_writes_the_columns(tmp_path, capsys):
    table = chinchilla(0, 5e-3)
    table.loc[3, "loss"] = np.nan
    table.to_csv(tmp_path / "runs.csv", index=False)
    out = tmp_path / "numbers.csv"
    laws.main([str(tmp_path / "runs.csv"), "--bootstraps=50", f"--out={out}"])
    rows = pd.read_csv(out)
    assert "chinchilla_huber" in capsys.readouterr().out
    law = rows[(rows.table == "law") & (rows.procedure == "chinchilla_squared")]
    law = law.set_index("quantity")
    for name, value in TRUE.items():
        assert law.low[name] < value < law.high[name], name
    assert rows[rows.table == "input"].note.tolist() == ["rows left out: not positive and finite"]
    with pytest.raises(SystemExit):
        laws.main([str(tmp_path / "absent.csv")])
