"""Every figure draws, is labelled, carries its table's hash, and gives the same bytes twice."""

import hashlib
import re

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from analysis.pages import figures, style
from analysis.pages.view import view
from analysis.runs import curves, reader

FIGURES = {
    "loss_against_ratio": lambda f: figures.loss_against_ratio(f.best, f.laws),
    "matrix_against_scalar": lambda f: figures.matrix_against_scalar(f.best),
    "speedup_against_ratio": lambda f: figures.speedup_against_ratio(f.speedups),
    "speedup_against_size": lambda f: figures.speedup_against_size(f.speedups),
    "speedup_across_studies": lambda f: figures.speedup_across_studies(f.speedups, f.speedups),
    "sensitivity": lambda f: figures.sensitivity(one_race(f.deviations)),
    "learning_rate": lambda f: figures.learning_rate(f.deviations, f.laws),
    "weight_decay": lambda f: figures.weight_decay(f.deviations),
    "deviation_histogram": lambda f: figures.deviation_histogram(f.deviations),
    "optima_against_scale": lambda f: figures.optima_against_scale(f.optima, "learning_rate"),
    "training_curves": lambda f: figures.training_curves(f.curves, f.crossings),
    "lead_over_training": lambda f: figures.lead_over_training(f.curves),
    "early_stop": lambda f: figures.early_stop(f.early_stop),
    "norms": lambda f: figures.norms(one_race(f.curves)),
    "pareto": lambda f: figures.pareto(f.best, "optimizer_bytes"),
    "tuning_cost": lambda f: figures.tuning_cost(f.cost),
    "noise": lambda f: figures.noise(f.repeats),
    "downstream": lambda f: figures.downstream(f.best.assign(average_pct=50 - 5 * f.best["loss"])),
}


def one_race(table):
    return table[(table["model_size"] == "small") & (table["chinchilla_ratio"] == 4)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = synthetic_study.write(tmp_path_factory.mktemp("study"), seeds=2)
    return view(reader.load(folder), cards=False)


def test_every_public_figure_is_tested():
    assert set(FIGURES) == set(figures.__all__)


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled_and_no_legend_hides_data(found, name):
    figure = FIGURES[name](found)
    assert figure.axes
    assert any(axis.get_ylabel() or axis.get_yticklabels() for axis in figure.axes)
    if name != "tuning_cost":  # its units are in the titles
        assert any(axis.get_ylabel() for axis in figure.axes)
        assert all(axis.get_xlabel() or axis.get_title() for axis in figure.axes)
        assert all(axis.get_xlabel() or name in ("sensitivity", "noise") for axis in figure.axes)
    assert all(axis.get_legend() is None for axis in figure.axes)


def test_a_table_without_rows_is_refused(found):
    for draw, table in (
        (figures.loss_against_ratio, found.best),
        (figures.noise, found.repeats),
        (figures.weight_decay, found.deviations),
        (figures.early_stop, found.early_stop),
    ):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw(table.iloc[:0])


def test_files_are_reproducible_and_carry_the_hash(found, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        style.save(figures.early_stop(found.early_stop), tmp_path / folder / "early_stop")
    for kind in ("svg", "png", "csv"):
        a, b = (tmp_path / folder / f"early_stop.{kind}" for folder in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()
    mark = style.table_hash(found.early_stop)
    csv = (tmp_path / "a" / "early_stop.csv").read_bytes()
    assert hashlib.sha256(csv).hexdigest().startswith(mark)
    svg = (tmp_path / "a" / "early_stop.svg").read_text()
    assert f"<dc:description>Bestiary, table {mark}" in svg
    assert f"<!-- table {mark} -->" in svg  # drawn in the corner
    assert mark.encode() in (tmp_path / "a" / "early_stop.png").read_bytes()


def test_the_hash_sees_every_change(found):
    table = found.early_stop
    changed = table.assign(regret=table["regret"].replace(0.0, 1e-12))
    assert style.table_hash(table) == style.table_hash(table.copy())
    assert style.table_hash(table) != style.table_hash(changed)
    assert style.table_hash(table) != style.table_hash(table.iloc[::-1])


def test_optimizers_look_different_and_always_the_same():
    looks = [style.of(name) for name in style.OPTIMIZERS]
    assert len({look["color"] for look in looks}) == 11
    assert len({look["marker"] for look in looks}) == 11
    assert style.of("mine") == style.of("mine") and style.of("mine")["label"] == "mine"
    assert style.of("mine")["color"] not in {look["color"] for look in looks}
    # the families differ without colour
    assert {style.of(name)["linestyle"] for name in style.MATRIX} == {"-"}
    scalar = set(style.OPTIMIZERS) - set(style.MATRIX) - {"adamw"}
    assert "-" not in {style.of(name)["linestyle"] for name in scalar}


def _linear_rgb(colour):
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = np.array(
        [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    )
    return linear


# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as seen without L, M cones
_DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
_PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)


@pytest.mark.parametrize("matrix", [_DEUTERANOPIA, _PROTANOPIA], ids=["deuteranopia", "protanopia"])
def test_no_two_optimizers_share_colour_and_line_for_the_colour_blind(matrix):
    names = list(style.OPTIMIZERS)
    seen = {name: matrix @ _linear_rgb(style.of(name)["color"]) for name in names}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            apart = np.abs(np.clip(seen[a], 0, 1) - np.clip(seen[b], 0, 1)).max()
            same_line = style.of(a)["linestyle"] == style.of(b)["linestyle"]
            assert apart > (0.05 if same_line else 0.0), (a, b, apart)


def test_diverged_runs_are_drawn_as_such(found):
    figure = figures.sensitivity(one_race(found.deviations))
    panel = next(axis for axis in figure.axes if axis.get_title() == "learning rate")
    crosses = [
        c for c in panel.collections if len(c.get_offsets()) and len(c.get_paths()[0].vertices) == 4
    ]
    assert len(crosses) == 4  # one per optimizer
    spots = {round(float(c.get_offsets()[0][1]), 6) for c in crosses}
    assert len(spots) == 4  # none hides another


def test_lower_bounds_are_arrows(found):
    bounds = (found.speedups["robust_bound"] == "lower").sum()
    assert bounds > 0
    figure = figures.speedup_against_ratio(found.speedups)
    arrows = sum(
        text.arrow_patch is not None
        for axis in figure.axes
        for text in axis.texts
        if hasattr(text, "arrow_patch")
    )
    assert arrows == bounds


def test_family_gaps_need_the_baseline(found):
    assert figures.losses.family_gaps(found.best[found.best["optimizer"] != "adamw"]).empty
    gaps = figures.losses.family_gaps(found.best)
    assert set(gaps["optimizer"]) <= {"muon", "nadamw", "lion"}
    assert (gaps.loc[gaps["family"] == "matrix", "gain"] > 0).all()


def test_the_frontier_holds_what_nothing_beats():
    table = pd.DataFrame({"seconds": [1.0, 2.0, 3.0, 3.0], "loss": [3.0, 3.1, 2.0, 2.5]})
    front = figures.costs.frontier(table, "seconds")
    assert front.to_dict("list") == {"seconds": [1.0, 3.0], "loss": [3.0, 2.0]}


def test_an_unknown_resource_names_the_choices(found):
    with pytest.raises(ValueError, match="'memory' is none of seconds, flops, optimizer_bytes"):
        figures.pareto(found.best, "memory")


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("learning_rate", [0.002, 0.001, 0.004], [0, 1, 2]),
        ("weight_decay", [0.0, 0.1, 0.2], [0, 0.1, 0.2]),
        ("beta2", [0.9, 0.95, 0.975], [0, 1, 2]),
        ("warmup", [0, 500, 1000], [0, 1, 2]),
        ("schedule", ["linear", "cosine"], [0, 1]),
    ],
)
def test_values_keep_their_distances(name, values, expected):
    positions = np.array(list(figures.tuning.positions_of(name, values).values()))
    np.testing.assert_allclose(positions - positions[0], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("value", "text"), [(1_500_000, "1.5M"), (20_000, "20k"), (3.2e18, "3.2e+18"), (0.5, "0.5")]
)
def test_short_numbers(value, text):
    assert figures.panels.short(value) == text
    assert re.fullmatch(r"[\d.e+]+[TBMk]?", text)


def test_tables_used_by_figures_need_no_records():
    curve = pd.DataFrame(
        {
            "optimizer": ["adamw"] * 3 + ["new"] * 3,
            "model_size": "s",
            "chinchilla_ratio": 1.0,
            "hash": ["a"] * 3 + ["b"] * 3,
            "fraction": [0.0, 0.5, 1.0] * 2,
            "validation_loss": [4.0, 3.0, 2.0, 4.0, 3.2, 1.9],
        }
    )
    crossings = curves.crossings(curve)
    assert crossings["fraction"].tolist() == [pytest.approx(0.5 + 0.5 * 2 / 3, abs=0.005)]
    assert crossings["leader"].tolist() == ["new"]
    figures.lead_over_training(curve)
