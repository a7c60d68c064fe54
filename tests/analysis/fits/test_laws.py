"""Loss laws: exact where the data are exact, the same from every start, honest about the rest."""

import gzip

import numpy as np
import pandas as pd
import pytest

from analysis import laws
from analysis.fits import isoflop, lint, loss_laws
from analysis.fits.joint import EquivalentData
from analysis.runs.csv_table import read_csv
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


def numbers_of(table, columns, **options):
    return laws.fit_table(table, columns, **options)[0]


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
        numbers_of(table, ["flops", "loss"])


def test_command_writes_the_columns(tmp_path, capsys):
    table = chinchilla(0, 5e-3)
    table.loc[3, "loss"] = np.nan
    table.to_csv(tmp_path / "runs.csv", index=False)
    out = tmp_path / "numbers.csv"
    laws.main([str(tmp_path / "runs.csv"), "--bootstraps=50", f"--out={out}"])
    rows = pd.read_csv(out)
    assert "chinchilla_huber" in capsys.readouterr().out
    how = rows[rows.table == "law"].groupby("procedure").note.agg(" ".join)
    assert all("weigh" in note for note in how)
    assert "Huber 0.001 of log loss" in how["chinchilla_huber_profile"]
    law = rows[(rows.table == "law") & (rows.procedure == "chinchilla_squared")]
    law = law.set_index("quantity")
    for name, value in TRUE.items():
        assert law.low[name] < value < law.high[name], name
    assert rows[rows.table == "input"].note.tolist() == [
        "rows left out: no positive number that can be meant"
    ]


def test_compute_optimal_is_the_least_loss_on_the_budget():
    params, tokens = loss_laws.compute_optimal(TRUE, 1e21)
    assert 6 * params * tokens == pytest.approx(1e21)
    n = params * np.array([0.9, 1, 1.1])
    law = TRUE["amplitude_params"] * n ** -TRUE["exponent_params"]
    law += TRUE["amplitude_tokens"] * (1e21 / 6 / n) ** -TRUE["exponent_tokens"]
    assert law.argmin() == 1
    numbers = numbers_of(
        chinchilla(0, 5e-3), ["params", "tokens", "loss"], replicates=40, flops=[1e21]
    )
    best = numbers[(numbers.table == "compute_optimal") & (numbers.procedure.str.contains("sq"))]
    assert best.iloc[0].low < params < best.iloc[0].high


def isoflop_table(budgets=(1e19, 3e19, 1e20, 3e20), noise=1e-3, low=-2.5, high=2.5):
    """Nine sizes around the best one of each budget."""
    rng, rows = np.random.default_rng(0), []
    for flops in budgets:
        best, _ = loss_laws.compute_optimal(TRUE, flops)
        N = best * 2.0 ** np.linspace(low, high, 9)
        D = flops / 6 / N
        loss = TRUE["floor"] + TRUE["amplitude_params"] * N ** -TRUE["exponent_params"]
        loss = loss + TRUE["amplitude_tokens"] * D ** -TRUE["exponent_tokens"]
        rows += zip(N, D, loss + noise * rng.standard_normal(9), strict=True)
    return pd.DataFrame(rows, columns=["params", "tokens", "loss"])


def test_isoflop_curves_and_the_law_say_the_same_side_by_side(tmp_path):
    isoflop_table().to_csv(tmp_path / "runs.csv", index=False)
    words = [f"--out={tmp_path / 'numbers.csv'}", f"--figures={tmp_path}", "--bootstraps=40"]
    assert laws.main([str(tmp_path / "runs.csv"), "--flops=1e21", "--flops=1e20", *words]) == 0
    rows = pd.read_csv(tmp_path / "numbers.csv")
    curves = rows[rows.table == "isoflop"]
    true = [loss_laws.compute_optimal(TRUE, c)[0] for c in (1e19, 3e19, 1e20, 3e20)]
    assert (curves.low < true).all() and (true < curves.high).all() and len(curves) == 4
    share = rows[(rows.table == "law") & (rows.quantity == "optimal_share")]
    assert set(share.procedure) == {"chinchilla_huber", "chinchilla_squared", "isoflop"}
    a, b = TRUE["exponent_params"], TRUE["exponent_tokens"]
    assert ((share.low < b / (a + b)) & (b / (a + b) < share.high)).all()
    best = rows[rows.quantity == "params at 1e+21 FLOPs"].set_index("procedure")
    assert best.low["isoflop"] < loss_laws.compute_optimal(TRUE, 1e21)[0] < best.high["isoflop"]
    for name in ("law_fit", "isoflop"):
        assert all((tmp_path / f"{name}.{kind}").stat().st_size for kind in ("svg", "csv"))


def test_isoflop_curves_without_a_bottom_are_bounds_and_give_no_line():
    table = isoflop_table(low=0.5)
    rows = numbers_of(table, ["params", "tokens", "loss"], replicates=10, flops=[1e20])
    curves = rows[rows.table == "isoflop"]
    assert (curves.bound == "upper").all() and curves.note.str.contains("lies below").all()
    reason = rows[(rows.table == "withheld") & (rows.procedure == "isoflop")].note.iloc[0]
    assert "0 budgets have runs on both sides" in reason
    scattered = chinchilla(0, 5e-3, n=5000)  # budgets that run into each other
    assert isoflop.curves(scattered.params, scattered.tokens, scattered.loss) == []


def test_influence_to_first_order_is_that_of_a_refit():
    found = fit(chinchilla(2, 5e-3, n=60))
    exact = loss_laws.leave_out(found, np.arange(60))
    for k, name in ((2, "exponent_params"), (4, "exponent_tokens")):
        change = exact[name] - found.parameters()[name]
        close = loss_laws.influence(found)[:, k]
        assert np.corrcoef(change.astype(float), close)[0, 1] > 0.98
        assert np.abs(close).argmax() == np.abs(change).argmax()


def test_what_a_table_does_not_determine_is_withheld():
    table = chinchilla(0, 5e-3, n=60)
    table["tokens"] = 20 * table.params  # the commonest table of all
    table["loss"] = 1.8 + 480 * table.params**-0.35 + 2000 * table.tokens**-0.37
    numbers = numbers_of(table, ["params", "tokens", "loss"], replicates=20)
    assert not (numbers.table == "law").any() and not (numbers.table == "influence").any()
    reasons = numbers[numbers.table == "withheld"].note
    assert len(reasons) and reasons.str.contains("params and tokens rise together").all()
    assert np.isfinite(numbers_of(table, ["tokens", "loss"], replicates=20).value).all()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.assign(loss=3.0), "have the same loss, 3"),
        (lambda t: t.assign(loss=2 + t.tokens / 1e12), "rises with tokens"),
        (lambda t: t.head(3), "3 distinct values; its law needs 4"),
        (lambda t: t.assign(loss=-1.0), "none of 20 has positive numbers"),
    ],
)
def test_a_table_that_no_law_fits_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        numbers_of(change(chinchilla(0, 1e-3, n=20)), ["tokens", "loss"], replicates=5)


GOOD = "params,tokens,loss\n" + "".join(
    f"{n:.6g},{d:.6g},{1.8 + 480 * n**-0.35 + 2000 * d**-0.37:.6f}\n"
    for n in (1e8, 2e8, 4e8, 8e8)
    for d in (1e9, 2e9, 4e9, 1e10)
)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "the file is empty"),
        (b"params,tokens,loss\n", "and no rows"),
        (b"a,b\n1,2\n", r"columns: ['params', 'tokens', 'loss'] not usable"),
        (
            b"params,tokens,loss\n1,2,3\n4,5,6,7\n",
            "not a table: Expected 3 fields in line 3, saw 4",
        ),
        (b"params,tokens,loss\n1e300,1e-300,inf\n", "none of 1 has positive numbers"),
        (b"\x1f\x8b\x08damaged", "a damaged gzip file"),
        (b"\x00\x01\x02", "not a text file"),
        (b"params,tokens,loss\nx,y,z\n", "none of 1 has positive numbers"),
        (None, "No such file"),
    ],
)
def test_every_bad_file_is_one_line(tmp_path, capsys, content, words):
    path = tmp_path / "runs.csv"
    if content is not None:
        path.write_bytes(content)
    assert laws.main([str(path), f"--out={tmp_path / 'out.csv'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace(",", ";").encode(),
        GOOD.replace(".", "§").replace(",", ";").replace("§", ",").encode(),
        gzip.compress(GOOD.encode()),
        ("\ufeff" + GOOD).encode(),
        ("# größe\n" + GOOD).encode("latin-1"),
        GOOD.replace(",", " , ").encode(),
    ],
    ids=["semicolons", "decimal commas", "gzip", "byte order mark", "latin-1", "spaces"],
)
def test_spellings_of_a_table_are_read_alike(tmp_path, content):
    (tmp_path / "runs.csv").write_bytes(content)
    (tmp_path / "plain.csv").write_text(GOOD)
    table, plain = (read_csv(tmp_path / name) for name in ("runs.csv", "plain.csv"))
    pd.testing.assert_frame_equal(table.apply(pd.to_numeric), plain)


@pytest.mark.parametrize(
    "content, words, error",
    [
        (GOOD + "1e300,1e300,2\n1e-300,1e-300,2\n", [], ""),
        (GOOD, ["--columns=loss, tokens, params"], ""),
        (GOOD, ["--columns=params,params,loss"], "not usable"),
        (GOOD, ["--flops=inf"], "--flops=[inf]: each must lie in"),
        (GOOD, ["--delta=1e300"], "--delta must lie in"),
        (GOOD, ["--delta=-1e-3"], "--delta must lie in"),
        (GOOD, ["--bootstraps=0"], "--bootstraps in"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_strange_numbers_and_options_are_one_line_or_none(tmp_path, capsys, content, words, error):
    (tmp_path / "runs.csv").write_text(content)
    common = [str(tmp_path / "runs.csv"), f"--out={tmp_path / 'out.csv'}", "--bootstraps=5"]
    assert laws.main([*common, *words]) == (2 if error else 0)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") == bool(error) and error in last


def test_a_loss_that_rises_with_both_columns_is_refused():
    table = chinchilla(0, 1e-3, n=20)
    table["loss"] = 2 + 1e-10 * table.params
    with pytest.raises(ValueError, match="rises with params and tokens"):
        numbers_of(table.assign(tokens=20 * table.params), ["params", "tokens", "loss"])


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path, capsys):
    (tmp_path / "runs.csv").write_text(GOOD)
    assert laws.main([str(tmp_path / "runs.csv"), f"--out={tmp_path / 'no' / 'x.csv'}"]) == 2
    assert "--out: cannot write" in capsys.readouterr().err
