"""analysis/coordinates.py: slopes and verdicts, and the way from the table to the picture."""

import numpy as np
import pandas as pd
import pytest

from analysis import coordinates


def rows(change, noise=0.0):
    rng = np.random.default_rng(0)
    return pd.DataFrame([
        {"axis": "width", "layer": layer, "size": size, "seed": seed, "rms": 1.0,
         "change": size**change * np.exp(noise * rng.normal())}
        for layer in ("mlp 1", "logits") for size in (16, 32, 64, 128) for seed in range(3)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("change", "noise", "verdict"),
    [(0.0, 0.01, "flat"), (0.03, 0.01, "flat"), (-0.5, 0.05, "drifts"), (0.0, 0.5, "open")],
)
def test_verdicts(change, noise, verdict):
    """Flat is 10 % over eightfold width, a slope of 0.046."""
    found = coordinates.slopes(rows(change, noise)).iloc[0]
    assert found["verdict"] == verdict
    assert abs(found["change"] - change) <= 1.5 * found["change_half"]


def test_a_table_becomes_a_picture_beside_it(tmp_path, capsys):
    file = tmp_path / "muon-mup-width.csv"
    rows(-0.5, 0.05).to_csv(file, index=False)
    assert coordinates.main([str(file)]) == 0
    printed = capsys.readouterr().out
    assert "muon-mup-width, widths 16, 32, 64, 128" in printed and printed.count("drifts") == 2
    picture = (tmp_path / "muon-mup-width.svg").read_text()
    assert picture.count('<path d="M') == 2 * 2 and "logits -0." in picture


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"size": [1]}), "no column axis, layer, seed, rms, change"),
        (rows(0.0).assign(rms=0.0), "row 1: not a positive size, rms and change"),
        (rows(0.0)[lambda t: t["size"] < 64], "2 sizes; a slope needs 3"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, table, message):
    table.to_csv(tmp_path / "a.csv", index=False)
    assert coordinates.main([str(tmp_path / "a.csv")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
