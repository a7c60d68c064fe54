"""What the documents name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = "analysis|benchmarks|configs|lm|optim|sweeps|tests|docs"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES = [page for page in PAGES if page.name not in ("LOG.md", "CHANGELOG.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = set(re.findall(rf"\b(?:{ROOMS})/[\w/]+\.(?:py|md|csv|ipynb)\b", page.read_text()))
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not {name for name in missing if "NAME" not in name}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_names_exist(page):
    named = set(re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)*)", page.read_text()))
    for module in {name for name in named if name.partition(".")[0] in ROOMS.split("|")}:
        path = ROOT / Path(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_glossary_is_short():
    text = (ROOT / "docs" / "design.md").read_text()
    table = text[text.index("## Glossary") :].split("\n\n")[1].splitlines()
    assert 10 < len(table) - 2 <= 25
