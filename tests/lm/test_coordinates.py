"""lm/coordinates.py: which sizes are measured, and the way from the command to the table."""

import pytest

from lm import coordinates


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
    assert "depths 1, 2, 3 after 2 steps" in capsys.readouterr().out
    lines = (tmp_path / "adamw-completep-depth.csv").read_text().splitlines()
    assert lines[0] == "axis,layer,size,seed,rms,change" and len(lines) == 1 + 3 * 5
