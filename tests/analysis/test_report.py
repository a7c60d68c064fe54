"""The report says what the data carry, says what they do not, and is the same file twice."""

import filecmp
import html.parser
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from analysis import report
from analysis.estimates.table import KEY
from analysis.pages import verdicts
from analysis.pages.view import view
from analysis.runs import reader
from analysis.runs.study import together

SMALL = {"optimizers": ["adamw", "muon"], "sizes": ["tiny"], "ratios": [1], "seeds": 2}

EXAMPLE = Path(__file__).parents[2] / "docs" / "report"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic_study.write(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def found(folder):
    return view(reader.load(folder))


def analyse(path, **options):
    return view(reader.load(synthetic_study.write(path, **options)), cards=False)


@pytest.mark.slow
def test_certificates_reach_the_page(found, page_of_study):
    table = found.searches
    assert len(table) == 24 and set(table["ties"]) == {1} and set(table["overturn"]) == {0.0071}
    assert page_of_study.text.count("1 ties (beta2 0.95)") == 24
    law = "laws: learning_rate = 0.0111 (N / 2e+05)^-0.3 r^-0.1"
    assert page_of_study.text.count(f"sensitive: learning_rate; {law}") == 24
    assert page_of_study.text.count("≈") == 25  # a cell each, and the key
    assert any("could not be told apart" in doubt for doubt in found.doubts)


def test_the_terminal_gives_the_answer_in_twelve_lines(found):
    lines = report.terminal(found).splitlines()  # and a last one that names the page
    assert len(lines) <= 11 and lines[0] == verdicts.verdicts(found)[0]
    assert any(line.startswith("Muon") and line.endswith("faster") for line in lines)
    assert lines[-1].startswith(f"{len(found.doubts)} doubts, the first (≤ 0.")


@pytest.mark.slow
def test_an_optimizer_nobody_knows_is_reported_under_its_name(tmp_path):
    found = analyse(tmp_path, optimizers=["adamw", "zephyr"], sizes=["tiny"])
    assert "zephyr" in report.terminal(found)
    zephyr = found.speedups[found.speedups["optimizer"] == "zephyr"]
    assert (zephyr["verdict"] == "faster").all()


def test_numbers_are_long_finite_and_complete(found):
    numbers = report.numbers(found)
    assert list(numbers.columns) == [
        *("table", "procedure", "optimizer", "model_size", "chinchilla_ratio"),
        *("quantity", "value", "low", "high", "bound", "note"),
    ]
    assert not numbers.duplicated(KEY).any()
    assert np.isfinite(numbers["value"]).all()
    assert {"best", "speedup", "data_law", "noise", "tuning", "early_stop"} <= set(numbers["table"])
    speedups = numbers[numbers["table"] == "speedup"]
    assert {"published_formula", "robust_cell", "robust_joint"} <= set(speedups["procedure"])
    timed = numbers["quantity"].str.contains("seconds")
    assert timed.any() and set(numbers.loc[timed, "table"]) == {"time"}


@pytest.fixture(scope="module")
def page_of_study(found):
    return read(report.html(found))


def test_every_number_on_the_page_is_in_the_table(found, page_of_study):
    """Numbers of the page's tables and of the verdict, to the digits shown."""
    page, numbers = page_of_study, report.numbers(found)
    known = np.abs(numbers[["chinchilla_ratio", "value", "low", "high"]].to_numpy(float).ravel())
    known = np.sort(known[np.isfinite(known)])
    verdict = " ".join(verdicts.verdicts(found))
    shown = re.findall(r"(?<![\w.])\d+\.\d+(?:e[-+]\d+)?", " ".join([*page.numbers, verdict]))
    assert len(shown) > 300
    strange = [text for text in shown if not _stands_in(known, text)]
    assert strange == []
    assert len(page.sources) > 200 and all("numbers.csv line" in tip for tip in page.sources)
    assert sum("seeds: 3" in tip and "run " in tip for tip in page.sources) > 100
    tips = re.findall(r'<g class="\w+ mark">(<title>[^<]+)?', page.text.split("<figure", 1)[1])
    forest = re.search(r'<figure id="forest">.*?</figure>', page.text, re.S)[0]
    for said in re.findall(r"need ([\d.]+ \([^)]*\)) times", verdicts.verdicts(found)[0]):
        assert said in forest
    nameless = sum(not tip for tip in tips)
    assert nameless <= len(found.best["optimizer"].unique())  # the toggles are the legend


def _stands_in(known, text):
    """Is some number of the table shown as this text?"""
    digits = re.fullmatch(r"[-−+]?(\d*\.?\d*(?:e[+-]?\d+)?)([kMBT]?)", text.replace(",", ""))
    if digits is None or not digits[1]:
        return False
    scale = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[digits[2]]
    mantissa, _, exponent = digits[1].partition("e")
    step = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])) * scale
    value = float(digits[1]) * scale
    nearest = known[np.searchsorted(known, value - 0.51 * step) :][:1]
    return len(nearest) == 1 and nearest[0] <= value + 0.51 * step


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "no such results folder"),
        (lambda path: path.mkdir(), "holds no trials"),
        (lambda path: (path / "trials" / "0").mkdir(parents=True), "none finished"),
    ],
)
def test_nothing_to_say_is_exit_code_2(tmp_path, capsys, make, expected):
    make(tmp_path / "study")
    assert report.main([str(tmp_path / "study")]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err and captured.out == ""
    assert not (tmp_path / "study" / "report").exists()


def test_help_shows_how_to_call_it(capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(["--help"])
    assert stop.value.code == 0
    assert "python -m analysis.report published --out=docs/report" in capsys.readouterr().out


def test_the_recorded_study_needs_a_place(capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(["published"])
    assert stop.value.code == 2 and "--out=DIR" in capsys.readouterr().err


class _Page(html.parser.HTMLParser):
    """Collects what a reader sees and what a browser would fetch; elements close in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self):
        super().__init__()
        self.open, self.targets, self.ids, self.addresses, self.named = [], [], [], [], []
        self.numbers, self.in_number = [], False  # what stands in the cells of numbers
        self.sources = []  # what is said of them on hover

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ("link", "iframe", "object", "img")
        if tag not in self.VOID:
            self.open.append(tag)
        self.in_number = tag == "td" and attributes.get("class") == "n"
        if self.in_number and "data-v" in attributes:
            self.sources.append(attributes.get("title", ""))
        self.targets += [attributes["href"]] if "href" in attributes else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [v for k, v in attributes.items() if k in ("src", "xlink:href", "data")]
        if attributes.get("role") == "img":
            self.named.append(attributes["aria-label"])

    def handle_data(self, data):
        if self.in_number:
            self.numbers.append(data)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.in_number = False


def read(content):
    page = _Page()
    page.text = content
    page.feed(re.sub(r"<(line|rect|path|circle|polygon)([^>]*)/>", r"<\1\2></\1>", content))
    page.close()
    assert page.open == []
    return page


def test_the_page_is_self_contained_and_its_links_lead_somewhere(page_of_study):
    page = page_of_study
    assert page.addresses == [] and "default-src 'none'" in page.text
    assert {target[1:] for target in page.targets} <= set(page.ids)
    assert len(page.named) >= 20 and all(page.named)
    assert len(set(page.ids)) == len(page.ids)
    shown = re.sub(r"<script.*?</script>", "", page.text, flags=re.S)
    assert not re.search(r"\bnan\b|\bNone\b|\bundefined\b", shown)


@pytest.mark.slow
def test_a_folder_with_a_strange_name_is_reported(tmp_path, capsys):
    workdir = synthetic_study.write(tmp_path / "a study <b>&", **SMALL | {"optimizers": ["lion"]})
    assert report.main([str(workdir)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("index.html")
    assert "One model size only" in read((workdir / "report" / "index.html").read_text()).text


@pytest.mark.slow
def test_folders_together_are_one_race_and_a_gallery_shows_each(tmp_path, capsys):
    """Muon's folder extends AdamW's; both together say what one folder of both says."""
    two = {"sizes": ["tiny"], "ratios": [1, 2, 4]}
    parts = [
        str(synthetic_study.write(tmp_path / "runs" / name, optimizers=[name], **two))
        for name in ("adamw", "muon")
    ]
    assert report.main([*parts, f"--out={tmp_path / 'both'}"]) == 0
    assert "Muon has the lowest loss" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "both" / "table.csv")
    assert set(table["optimizer"]) == {"adamw", "muon"} and len(table) == 6
    again = together([reader.load(part) for part in (*parts, parts[0])])  # a folder given twice
    assert len(again.runs) == len(reader.load(parts[0]).runs) + len(reader.load(parts[1]).runs)
    assert any("more than one folder" in doubt.sentence for doubt in again.known_doubts)
    assert report.main([str(tmp_path / "runs"), "--gallery"]) == 0
    gallery = read((tmp_path / "runs" / "index.html").read_text())
    assert "only Muon was raced" in gallery.text and "only AdamW was raced" in gallery.text
    assert report.main([str(tmp_path / "both"), "--gallery"]) == 2
    with pytest.raises(SystemExit):
        report.main(parts)
    assert "--out=DIR" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_study_gives_the_same_bytes_and_its_clock_stays_apart(tmp_path):
    two = {"optimizers": ["adamw", "muon"], "sizes": ["tiny"]}
    folder = synthetic_study.write(tmp_path / "now" / "study", **two)
    later = synthetic_study.write(tmp_path / "then" / "study", clock=7.0, **two)
    assert report.main([str(folder), f"--out={tmp_path / 'first'}"]) == 0
    assert report.main([str(folder), f"--out={tmp_path / 'again'}"]) == 0
    assert report.main([str(later), f"--out={tmp_path / 'later'}"]) == 0
    first, again, slow = (tmp_path / name for name in ("first", "again", "later"))
    names = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(first, again, names, shallow=False) == (names, [], [])
    assert (first / "table.csv").read_bytes() == (slow / "table.csv").read_bytes()
    numbers = [pd.read_csv(path / "numbers.csv", dtype=str) for path in (first, slow)]
    timeless = [n[(n["table"] != "time")].reset_index(drop=True) for n in numbers]
    pd.testing.assert_frame_equal(*timeless)
    assert not numbers[0].equals(numbers[1])  # the clock is in the table of times


@pytest.mark.slow
def test_a_corrupt_result_is_named_in_the_page(tmp_path, capsys):
    workdir = synthetic_study.write(tmp_path, **SMALL)
    broken = sorted((workdir / "trials").iterdir())[0]
    (broken / "result.json").write_text("{")
    assert report.main([str(workdir)]) == 0
    assert broken.name in (workdir / "report" / "index.html").read_text()
    assert f"trial {broken.name} left out: not valid JSON" in capsys.readouterr().out


@pytest.mark.slow
def test_the_recorded_study_and_a_comparison_with_it(tmp_path, capsys):
    assert report.main(["published", f"--out={tmp_path / 'published'}"]) == 0
    assert "1.2b, 8×: Muon has the lowest loss, 2.7484" in capsys.readouterr().out
    path = tmp_path / "published" / "index.html"
    text = read(path.read_text()).text
    for doubt in (
        "76 of 150 reported settings are not the best run",
        "147 neighbours in 67 cells beat the centre",
        "3 cells have no loss of their centre (soap 130m 2x",
        "Unequal effort in",
    ):
        assert doubt in text
    assert path.stat().st_size < 3e6
    numbers = pd.read_csv(tmp_path / "published" / "numbers.csv")
    row = numbers[
        (numbers["procedure"] == "published_may_4pt")
        & (numbers["optimizer"] == "muon")
        & (numbers["model_size"] == "130m")
        & (numbers["chinchilla_ratio"] == 8)
        & (numbers["quantity"] == "ratio")
    ]
    assert row["value"].item() == pytest.approx(1.382, abs=2e-3)
    assert {"robust_cell", "robust_joint"} <= set(numbers["procedure"])
    # the committed example: python -m analysis.report published --out=docs/report
    fresh, committed = (
        pd.read_csv(folder / "table.csv")[
            ["published", "robust", "joint", "joint_low", "joint_high"]
        ]
        for folder in (tmp_path / "published", EXAMPLE)
    )
    np.testing.assert_allclose(fresh, committed, atol=2e-3)

    workdir = synthetic_study.write(tmp_path / "mine", optimizers=["adamw", "muon", "zephyr"])
    assert report.main([str(workdir), "--against=published"]) == 0
    text = (workdir / "report" / "index.html").read_text()
    assert "Against the recorded study" in text and "published 130m" in text
    assert "Not in the recorded study: zephyr" in text


def test_a_record_has_a_page_of_its_own(tmp_path, capsys):
    assert report.main(["qwen3_ladder", f"--out={tmp_path}"]) == 0
    page = read((tmp_path / "index.html").read_text())
    for doubt in (
        "AdamC&#x27;s optimum is open at 520m, 1.2b",
        "is the hyperball&#x27;s alone at no size",
        "MuonC is not plain Muon: at 520m it is 0.032 nats (0.020 to 0.045) worse",
        "differ by up to 0.0063 nats",
        "has 23M parameters without embeddings",
        "The cheapest runs that would settle",
    ):
        assert doubt in page.text
    assert len(page.named) >= 5
    assert len(pd.read_csv(tmp_path / "numbers.csv")) > 100
    with pytest.raises(SystemExit):
        report.main(["track3"])
    assert "--out=DIR" in capsys.readouterr().err
