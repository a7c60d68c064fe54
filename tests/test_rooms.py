"""Who may import whom (docs/design.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("analysis", "benchmarks", "configs", "lm", "optim", "sweeps")
MAY = {
    "optim": {"optim"},
    "lm": {"lm", "optim"},
    "sweeps": {"sweeps", "lm", "optim"},
    "configs": {"configs", "sweeps", "lm", "optim"},
    "analysis": {"analysis"},
}
ONLY_LM = {"flax", "orbax", "grain", "tensorflow_datasets"}
NEVER = {"tensorflow", "clu", "chex", "jaxopt", "jmp"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


FILES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    room, names = path.relative_to(ROOT).parts[0], imports(path)
    assert not names & NEVER
    if room in MAY:
        assert names & set(ROOMS) <= MAY[room]
    if room == "analysis":
        assert not names & {"jax", "optax"}
    if room != "lm":
        assert not names & ONLY_LM
    if room == "optim":
        assert not names & {"ml_collections", "pandas", "matplotlib"}


@pytest.mark.parametrize("module", ["analysis", "analysis.report", "sweeps.status", "sweeps.run"])
def test_starts_without_jax(module):
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_file_is_longer_than_500_lines():
    long = {
        str(p.relative_to(ROOT)): n
        for p in [*FILES, *(ROOT / "tests").rglob("*.py")]
        if (n := len(p.read_text().splitlines())) > 500
    }
    assert not long
