"""configs/: sizes, runs and winners are what they say."""

import pytest

import optim
from analysis import published
from configs import ladder, run, winners
from lm.config import finalise

NAMES = list(optim.catalogue.CATALOGUE)


def test_the_ladder_counts_as_its_comments_say():
    expected = {"nano-xs": 8_192, "nano-s": 18_432, "nano-m": 32_768, "nano-l": 73_728}
    expected |= {"micro-xs": 262_144, "micro-s": 589_824, "micro-m": 1_048_576}
    expected |= {"micro-l": 2_359_296, **published.PARAMS}
    assert {name: ladder.params(name) for name in ladder.SIZES} == expected
    assert set(ladder.PUBLISHED) == set(published.PARAMS)


def test_widths_keep_the_published_proportions():
    widths = [
        [ladder.SIZES[f"{kind}-{s}"]["hidden"] for s in ("xs", "s", "m", "l")]
        for kind in ("nano", "micro")
    ]
    big = [ladder.SIZES[name]["hidden"] for name in ladder.PUBLISHED]
    assert [32 * w for w in widths[0]] == [8 * w for w in widths[1]] == big


def test_unknown_size_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean '130m'"):
        ladder.size("130")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cell", ["nano-xs,1x", "micro-l,0.5x", "130m,1x", "520m,2x", "1.2b,16x"])
def test_every_run_config_is_complete_and_valid(name, cell):
    config = run.get_config(f"{cell},{name}").to_dict()
    config["data"] = {"corpus": "stdlib"}
    done = finalise(config)
    size, ratio = cell.split(",")
    tokens = done["train"]["steps"] * done["train"]["batch_size"]
    tokens *= done["model"]["sequence_length"]
    assert tokens == pytest.approx(float(ratio[:-1]) * 20 * ladder.params(size), rel=0.01)


def test_steps_of_the_published_runs():
    # As the study ran: steps at batch 128 are 5120 at 130m, 1x; 46080 at 1.2b, 1x.
    assert finalise(run.get_config("130m,1x,adamw").to_dict())["train"]["steps"] == 5120
    config = run.get_config("1.2b,1x,adamw").to_dict()
    assert (config["train"]["batch_size"], finalise(config)["train"]["steps"]) == (128, 46080)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("nano-s,1x", "is not SIZE,RATIO,OPTIMIZER"),
        ("nano-s,-1x,adamw", "'-1x' is not a positive number"),
        ("nano-s,x,adamw", "'x' is not a positive number"),
    ],
)
def test_malformed_runs_are_refused(arg, message):
    with pytest.raises(ValueError, match=message):
        run.get_config(arg)


def test_winners_are_the_recorded_ones():
    table = published.best()
    assert len(table) == 150
    for row in table.to_dict("records"):
        size, ratio = row["model_size"], row["chinchilla_ratio"]
        found = winners.winner(row["optimizer"], size, ratio)
        assert found["cell"] == f"{size},{ratio:g}x" and found["loss"] == row["loss"]
        spec = optim.spec(row["optimizer"])
        assert found.keys() - {"cell", "loss", "batch_size"} <= spec.flat().keys()
        for name in found.keys() - {"cell", "loss", "block_size"}:
            assert found[name] == row[f"hp_{name}"], (found["cell"], name)
    assert winners.winner("soap", "130m", 1)["block_size"] in (None, 256, 512)


def test_cells_without_a_record_take_the_nearest():
    assert winners.winner("kron", "1.2b", 8)["cell"] == "520m,8x"
    assert winners.winner("sophia", "520m", 4)["cell"] == "520m,1x"
    assert winners.winner("my_own", "520m", 4) is None
