"""The two records: what the sources say of themselves, and what must be said unasked."""

import numpy as np
import pytest

from analysis.published import qwen3_ladder as ladder
from analysis.published import track3 as board
from analysis.records import qwen3_ladder, track3
from analysis.records.__main__ import main


@pytest.fixture(scope="module")
def of_ladder():
    return qwen3_ladder.numbers().set_index(["table", "subject", "quantity"]).sort_index()


@pytest.fixture(scope="module")
def of_board():
    return track3.numbers().set_index(["table", "subject", "quantity"]).sort_index()


def test_tables_are_complete():
    assert len(ladder.runs()) == 238 and len(ladder.settings()) == 79
    assert ladder.runs().loss.between(2.9, 4.5).all()
    runs, curves = board.runs(), board.curves()
    assert (len(runs), len(curves), len(board.results())) == (581, 19_801, 46)
    assert runs.run_id.is_unique and set(curves.run_id) <= set(runs.run_id)
    assert curves.loss.notna().all() and not curves.duplicated(["run_id", "step"]).any()
    assert set(runs.source_id.dropna()) == set(board.sources().source_id)


def test_every_number_is_finite_inside_its_interval(of_ladder, of_board):
    for found in (of_ladder, of_board):
        value = found.value.replace(np.inf, np.nan)
        assert value.notna().mean() > 0.98 and not found.index.duplicated().any()
        inside = (found.low.fillna(-np.inf) <= found.value) & (
            found.value <= found.high.fillna(np.inf)
        )
        assert inside.all()


# best runs, nats, as the sources state them
@pytest.mark.parametrize(
    "pair, gaps",
    [
        ("muonc - muonh", (0.0010, 0.0061, 0.0277, 0.0378)),
        ("adamh - muonh", (0.0395, 0.0309, 0.0244, 0.0171)),
        ("adamc - muonc", (0.0459, 0.0259, 0.0018, -0.0007)),
    ],
)
def test_ladder_gaps_as_published(of_ladder, pair, gaps):
    for size, gap in zip(ladder.SIZES, gaps, strict=True):
        assert of_ladder.value["gap", f"{pair} {size}", "best_runs"] == pytest.approx(gap, abs=1e-4)


def test_ladder_says_its_doubts_unasked(of_ladder):
    for size in ("520m", "1.2b"):
        assert "open" in of_ladder.note["optimum", f"adamc {size}", "best_loss"]
        assert of_ladder.low["optimum", f"adamc {size}", "loss"] == -np.inf
        row = of_ladder.loc["gap", f"adamc - muonc {size}", "loss"]
        assert "adamc is open" in row.note and row.low == -np.inf and row.high < 0.01
    assert "learning_rate" in of_ladder.loc["optimum", "adamc 300m"].index
    assert all(
        "top" in of_ladder.note["optimum", f"muonremez {s}", "best_loss"] for s in ladder.SIZES
    )
    assert "hybrid_norm" in of_ladder.note["confound", "muonc and muonh", "settings_that_differ"]
    assert of_ladder.note["confound", "adamh and muonh", "settings_that_differ"] == "momentum"
    assert of_ladder.value["repeats", "all", "sd"] > 0.002
    assert of_ladder.value["size", "130m", "non_embedding_params"] == pytest.approx(
        22.8e6, rel=1e-3
    )
    shrinks = of_ladder.loc["gap", "adamh - muonh", "per_doubling"]
    assert shrinks.high < 0
    assert {"runs"} == set(of_ladder.loc["settle"].index.get_level_values("quantity"))
    assert all("FLOPs" in note for note in of_ladder.loc["settle"].note)


def test_board_noise_and_exchange_rate(of_board):
    sd = of_board.loc["noise", "all", "sd"]
    assert sd.value == pytest.approx(0.00111, abs=5e-6) and sd.high < 0.0013
    assert "47 groups" in sd.note and "524 degrees" in sd.note
    assert of_board.value["noise", "all", "equal_sd_p"] > 0.05
    rate = of_board.loc["exchange", "12", "rate_per_100_steps"]
    assert rate.value == pytest.approx(0.0048, abs=5e-5) and rate.low < 0.0045 < rate.high
    assert of_board.value["seeds", "40 after 30", "correlation"] == pytest.approx(0.85, abs=0.01)
    assert abs(of_board.value["seeds", "elsewhere", "correlation"]) < 0.1


def test_board_means_are_the_logs(of_board):
    results = board.results().set_index("result_number").logs_mean
    for number, mean in results.items():
        assert of_board.value["board", str(number), "loss"] == pytest.approx(mean, abs=2e-6)


def test_board_ties_and_tuning(of_board):
    first = of_board.loc["board", "46", "rank"]
    assert first.value == 1 and first.high >= 1
    ranks = of_board.xs("rank", level="quantity")
    assert (ranks.low <= ranks.value).all() and (ranks.high > ranks.low).sum() > 30
    tie = of_board.loc["tuning", "MuonH over Muon, both tuned alike", "steps_gained"]
    assert tie.low < 0 < tie.high
    assert of_board.loc["tuning", "Muon, all tuning", "steps_gained"].low > 200
    assert of_board.note["predecessor", "41 after 40", "gain"].count("paired") == 1


def test_command(tmp_path, capsys):
    out = tmp_path / "numbers.csv"
    assert main(["qwen3_ladder", "--table=noise", f"--out={out}"]) == 0
    assert "adamc" in capsys.readouterr().out
    assert out.read_text().startswith("table,subject,quantity,value,low,high,note\nnoise,")
    assert main(["qwen3_ladder", f"--out={tmp_path / 'no' / 'x.csv'}"]) == 2
    with pytest.raises(SystemExit) as end:
        main(["qwen3_ladder", "--table=nose"])
    assert end.value.code == 2 and "noise" in capsys.readouterr().err
