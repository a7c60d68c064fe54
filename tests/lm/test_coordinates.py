"""lm/coordinates.py: slopes and verdicts, and the way from the command to the picture."""

import numpy as np
import pytest

from lm import coordinates


def rows(change, noise=0.0):
    rng = np.random.default_rng(0)
    return [
        {"layer": "mlp 1", "size": size, "rms": 1.0, "change": size**change * np.exp(noise * z)}
        for size in (16, 32, 64, 128)
        for z in rng.normal(size=3)
    ]


@pytest.mark.parametrize(
    ("change", "noise", "verdict"),
    [(0.0, 0.01, "flat"), (0.03, 0.01, "flat"), (-0.5, 0.05, "drifts"), (0.0, 0.5, "open")],
)
def test_verdicts(change, noise, verdict):
    """Flat is 10 % over eightfold width, a slope of 0.046."""
    (found,) = coordinates.slopes(rows(change, noise))
    assert found["verdict"] == verdict
    assert abs(found["change"] - change) <= 1.5 * found["change_half"]


def test_sizes():
    assert coordinates.doublings("--widths", "16..100") == [16, 32, 64]
    assert coordinates.doublings("--depths", "2,3,5") == [2, 3, 5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--widths=16,8,32"], "--widths=16,8,32 is not three or more growing sizes"),
        (["--widths=8,12,16"], "every width must be a multiple of 8"),
        (["--widths=8..32", "--depths=2..8"], "give one of them"),
        (["--rule=mpu"], "did you mean 'mup'"),
        (["--optimizer=sophia"], "no answer for sophia"),
        (["--seeds=0"], "--seeds=0 must be at least 1"),
    ],
)
def test_errors_are_one_line(capsys, words, message):
    assert coordinates.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_check_from_end_to_end(tmp_path, capsys):
    words = ["--rule=completep", "--depths=1,2,3", "--steps=2", "--seeds=1", f"--out={tmp_path}"]
    assert coordinates.main(words) == 0
    assert "stream" in capsys.readouterr().out
    lines = (tmp_path / "adamw-completep-depth.csv").read_text().splitlines()
    assert lines[0] == "axis,layer,size,seed,rms,change" and len(lines) == 1 + 3 * 5
    assert (tmp_path / "adamw-completep-depth.svg").read_text().count("<polyline") == 2 * 5
