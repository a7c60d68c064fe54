"""The pre-flight's table; the compiler itself needs libtpu, which CI has not."""

import pytest

import optim
from lm import preflight
from lm.config import ConfigError
from lm.config_file import load_run
from lm.pods import flight, table, tune

ROW = {
    "version": "step 2, jax 0.10.2",
    **{"estimate": {"loss": 10.0, "rest": 15.0}, "estimate_refresh": 25.0, "estimate_notes": []},
    "mfu_estimate": 0.4,
    **{"run": "130m,1x,muon", "topology": "v5e:16x16", "mesh": {"data": 128, "model": 2}},
    **{"chips": 256, "fits": True, "total_bytes": 2**30, "hbm_bytes": 16e9, "params_bytes": 2**22},
    **{"state_bytes": 2**23, "state_copies": 1.02, "temporary_bytes": 2**29, "replication": 1.4},
    **{"model_flops": 3e12, "update_flops": 2e10, "collectives": {"all-gather": 10**9}},
    "refresh_bytes": 2 * 10**9,
    **{"compute_seconds": 0.02, "memory_seconds": 0.001, "network_seconds": 0.03},
    **{"mfu_bound": 0.5, "compile_seconds": 40.0},
}


def test_rows_survive_the_file_and_make_the_page(tmp_path):
    other = {**ROW, "run": "1.2b,1x,soap", "fits": False, "total_bytes": 17e9}
    table.write(tmp_path / "t.csv", [other, ROW])
    rows = table.read(tmp_path / "t.csv")
    assert rows == [other, ROW] and table.read(tmp_path / "none.csv") == []
    page = table.page(rows)
    wanted = len(optim.catalogue.CATALOGUE) * (2 * 4 + 2 * 2)  # two pods, two hosts of GPUs
    assert f"2 of {wanted} rows" in page and page.index("130m muon") < page.index("1.2b soap")
    assert "15.83 **too large**" in page
    muon = next(line for line in page.splitlines() if "130m muon" in line)
    assert muon.split(" | ")[1:5] == ["128 × 2", "1.00", "8.0", "1.02"]
    assert (
        "| 1,000 / 2,000 | 30.0 | 50% | 25.0 | 40% | 40 | step 2 |" in muon
    )  # the network is the longest


def test_tuning_finds_the_fastest_way_whose_parts_all_fit(monkeypatch):
    """A compiler by formula: without remat a step is too large, on four chips its evaluation."""
    config = load_run("configs/run.py:130m,1x,adamw")
    monkeypatch.setattr(flight, "shape", lambda *_: {"data": 128, "model": 2})
    lines = []

    def check(config, topology, run, *, alone=False):
        if config["program"]["remat"] == "none":
            raise flight.TooLarge("step: ran out of memory")
        model = config["mesh"]["model"]
        values = {
            "estimate": {"loss": {"dots": 2.0, "block": 3.0}[config["program"]["remat"]]},
            "network_seconds": {1: 0.009, 2: 0.003, 4: 0.001, 8: 0.002}[model],
            "fits": alone or model != 4,
        }
        return flight.Flight(**ROW | values)

    way, found = tune.tune(config, "v5e:16x16", "130m", log=lines.append, check=check)
    assert found.fits and tune.milliseconds(found) == pytest.approx(5.0)
    assert (way["mesh.data"], way["mesh.model"], way["program.remat"]) == (32, 8, "block")
    assert len(lines) == len(set(lines))  # nothing is compiled twice
    assert any("remat=none" in line and "ran out of memory" in line for line in lines)


def test_a_config_that_fits_nowhere_is_one_line(monkeypatch):
    monkeypatch.setattr(flight, "shape", lambda *_: {"data": 128, "model": 2})

    def check(*_, **__):
        raise flight.TooLarge("step: ran out of memory")

    with pytest.raises(ConfigError, match="no way to run 130m on v5e:16x16"):
        config = load_run("configs/run.py:130m,1x,adamw")
        tune.tune(config, "v5e:16x16", "130m", log=lambda line: None, check=check)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config=configs/run.py:130m,1x,adamw", "--pack=2", "--tune"], "--pack=2"),
        ([], "--config is missing"),
        (["--config=configs/run.py:130m,1x,adamv"], "did you mean 'adamw'"),
        (["--config=configs/run.py:130m,1x,adamw", "--topology=v5e:3x3"], "--topology=v5e:3x3"),
        (
            ["--config=configs/run.py:130m,1x,adamw", "--topology=h100:0"],
            "as in h100:8 or h100:16x8",
        ),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    assert preflight.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
