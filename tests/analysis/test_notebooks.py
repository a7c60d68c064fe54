"""The notebooks run from top to bottom and show what they say."""

from pathlib import Path

import nbformat
import pytest
import synthetic_study
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "analysis" / "notebooks"
NAMES = ["new_optimizer", "published_study", "your_study"]


def run(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(FOLDER)}})
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cells) -> str:
    """Everything printed and every table."""
    outputs = [output for cell in cells for output in cell.outputs]
    data = [output.get("data", {}) for output in outputs]
    return "\n".join(
        output.get("text", "") or part.get("text/html", part.get("text/plain", ""))
        for output, part in zip(outputs, data, strict=True)
    )


def pictures(cells) -> int:
    return sum("image/svg+xml" in out.get("data", {}) for cell in cells for out in cell.outputs)


def test_every_notebook_is_here_without_outputs():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    for name in NAMES:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        assert all(not cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
def test_published_study():
    cells = run("published_study")
    text = shown(cells)
    assert pictures(cells) == 2
    assert "P(muon faster than soap at 1.2b)" in text
    assert "1.382" in text and "1.2987" in text  # Muon at 130m, 8x in two editions


@pytest.mark.slow
def test_your_study(tmp_path, monkeypatch):
    monkeypatch.setenv("BESTIARY_WORKDIR", str(synthetic_study.write(tmp_path)))
    cells = run("your_study")
    assert pictures(cells) == 3
    assert "small, 4×: Muon has the lowest loss" in shown(cells)


@pytest.mark.slow
def test_new_optimizer():
    cells = run("new_optimizer")
    assert pictures(cells) == 1
    assert "'mine' is kept under its own name" in shown(cells)
    assert "P(mine is faster than muon at 520m)" in shown(cells)
