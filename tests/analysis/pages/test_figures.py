"""Every figure is one picture with the table it was drawn from."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import synthetic_study

from analysis.pages import figures
from analysis.pages.svg import Panel, Scale, short
from analysis.pages.view import digits, view
from analysis.runs import reader

ALONE = {"downstream": lambda f: (f.best.assign(average_pct=50 - 5 * f.best["loss"]),)}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = synthetic_study.write(tmp_path_factory.mktemp("study"), seeds=2)
    return view(reader.load(folder))


@pytest.mark.parametrize("name", figures.__all__)
@pytest.mark.slow
def test_a_figure_is_one_picture_with_its_table(found, name):
    draw = getattr(figures, name)
    drawn = draw(*ALONE.get(name, lambda f: (f,))(found))
    tree = ElementTree.fromstring(drawn.svg())  # well-formed
    assert drawn.caption and len(drawn.table) and drawn.hash in drawn.svg()
    text = drawn.svg()
    assert "nan" not in text and "inf" not in text.replace("information", "")
    titled = [panel for panel in drawn.panels if panel.title or len(panel.parts) > 4]
    assert titled == drawn.panels
    assert all("http" not in value or value.startswith("http://www.w3.org")
               for node in tree.iter() for value in node.attrib.values())  # fmt: skip


def test_a_study_with_nothing_to_draw_says_so(tmp_path):
    one = {"optimizers": ["muon"], "sizes": ["tiny"], "ratios": [1], "seeds": 1}
    alone = view(reader.load(synthetic_study.write(tmp_path, **one)), cards=False)
    for name in ("forest", "tornado", "lead", "noise", "profile", "transfer"):
        with pytest.raises(ValueError):
            getattr(figures, name)(alone)


def test_without_the_baseline_the_answer_is_who_is_behind_the_best(tmp_path):
    two = {"optimizers": ["lion", "muon"], "sizes": ["tiny"], "ratios": [1]}
    drawn = figures.forest(view(reader.load(synthetic_study.write(tmp_path, **two)), cards=False))
    assert len(drawn.panels) == 1 and "loss above the best" in drawn.svg()


def test_a_figure_shows_only_the_optimizers_asked_for(found):
    drawn = figures.speedups_by_size(found, ["muon"])
    assert set(drawn.table["optimizer"]) == {"muon"} and 'data-o="lion"' not in drawn.svg()


def test_a_name_with_angle_brackets_stays_text():
    panel = Panel("<b>", Scale([0, 1]), Scale([0, 1]), s='"<')
    with panel.of("<script>"):
        panel.marker("<script>", 0.5, 0.5, "<&>")
    ElementTree.fromstring(panel.svg())


@pytest.mark.parametrize(
    ("values", "log"), [([0.0], False), ([3, 3], True), ([1e-9, 1e9], True), ([-0.01, 0.02], False)]
)
def test_scales_have_ticks_inside(values, log):
    scale = Scale(values, log=log)
    assert scale.ticks and all(0 <= scale(tick) <= 1 for tick in scale.ticks)
    assert all(0 <= scale(value) <= 1 for value in (*values, -np.inf, np.inf))
    assert len(set(scale.ticks.values())) == len(scale.ticks)


@pytest.mark.parametrize(
    ("value", "half", "shown"),
    [(2.61234, 0.004, "2.612"), (2.61234, 0.0021, "2.6123"), (1.2949, 0.08, "1.29"),
     (123.4, 40, "120"), (1.12, 70, "1"), (1.5, np.nan, "1.5000"), (np.inf, 1, "open")],
)  # fmt: skip
def test_digits_are_those_that_the_interval_allows(value, half, shown):
    assert digits(value, value - half, value + half) == shown


def test_short_numbers():
    assert [short(x) for x in (1.5e9, 999, 2e4, 3e15)] == ["1.5B", "999", "20k", "3e+15"]
