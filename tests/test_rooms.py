"""Who may import whom (docs/design.md): between rooms, between inner rooms, and no circle anywhere.

Imports inside functions count: an arrow that is drawn late is an arrow all the same.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("analysis", "benchmarks", "configs", "lm", "optim", "sweeps")
MAY = {  # room -> rooms and inner rooms it may import from, beside itself
    "optim": set(),
    "lm": {"optim"},
    "sweeps": {"lm", "optim", "analysis.stats"},
    "configs": {"sweeps", "lm", "optim", "analysis.published"},
    "analysis": set(),
    "benchmarks": {"analysis", "configs", "lm", "optim", "sweeps"},
}
INNER = {  # inner room -> what it may import of its own room, beside itself
    "optim.roles": set(),
    "optim.linalg": set(),
    "optim.stacks": {"optim.linalg", "optim.roles"},
    "optim.rules": {
        "optim.linalg",
        "optim.stacks",
        "optim.roles",
        "optim.alias",
        "optim.assemble",
        "optim.entry",
        "optim.sphere",
        "optim.averaging",
    },
    "optim.scaling": {"optim.rules", "optim.roles", "optim.assemble", "optim.entry"},
    "lm.storage": set(),
    "lm.model": {"lm.config"},
    "lm.data": {"lm.command", "lm.storage"},
    "lm.run": {"lm.data", "lm.model", "lm.config", "lm.storage"},
    "lm.pods": {"lm.run", "lm.model", "lm.config"},
    "sweeps.plan": set(),
    "sweeps.dispatch": {"sweeps.plan"},
    "sweeps.watch": {"sweeps.plan", "sweeps.dispatch"},
    "analysis.stats": set(),
    "analysis.published": set(),
    "analysis.runs": {"analysis.stats", "analysis.published"},
    "analysis.fits": {"analysis.stats", "analysis.runs", "analysis.published"},
    "analysis.estimates": {
        "analysis.stats",
        "analysis.runs",
        "analysis.published",
        "analysis.fits",
    },
    "analysis.claims": {"analysis.stats", "analysis.runs", "analysis.published"},
    "analysis.records": {"analysis.stats", "analysis.published", "analysis.claims"},
    "analysis.pages": {
        "analysis.stats",
        "analysis.runs",
        "analysis.fits",
        "analysis.estimates",
    },
}
OUTSIDE = {  # packages that only these rooms may import
    "flax": {"lm"},
    "obstore": {"lm", "analysis"},
    "orbax": {"lm"},
    "tensorflow_datasets": {"lm"},
    "jax": {"lm", "optim", "sweeps", "benchmarks"},
    "optax": {"lm", "optim", "benchmarks"},
    "ml_collections": {"lm", "sweeps", "configs", "benchmarks"},
    "pandas": {"analysis", "benchmarks"},
    "rich": {"sweeps"},
}
NEVER = {"tensorflow", "clu", "chex", "jaxopt", "jmp", "grain"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(p): p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports: our modules as files, others by package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in FILES else node.module)
    return names


GRAPH = {name: imports(path) for name, path in FILES.items()}


def within(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


@pytest.mark.parametrize("name", GRAPH)
def test_imports_follow_the_arrows(name):
    room, used = name.partition(".")[0], GRAPH[name]
    packages = {module.partition(".")[0] for module in used}
    assert not packages & NEVER
    for module in used:
        if module.partition(".")[0] in ROOMS:
            assert within(module, {room} | MAY[room]), f"{room} may not import {module}"
    for package in packages & set(OUTSIDE):
        assert room in OUTSIDE[package], f"{package} is for {OUTSIDE[package]}"


def test_optim_needs_jax_and_optax_only():
    used = set().union(*(names for module, names in GRAPH.items() if within(module, {"optim"})))
    packages = {name.partition(".")[0] for name in used}
    assert packages - set(sys.stdlib_module_names) == {"jax", "optax", "optim"}


@pytest.mark.parametrize("inner", INNER)
def test_inner_rooms_follow_their_arrows(inner):
    room = inner.partition(".")[0]
    for name in GRAPH:
        if within(name, {inner}):
            for module in GRAPH[name]:
                if within(module, {room}) and module != room:
                    assert within(module, {inner} | INNER[inner]), f"{name} imports {module}"


def test_every_inner_room_is_listed_and_says_what_it_holds():
    for name, path in FILES.items():
        if path.name == "__init__.py" and name.count(".") == 1 and name[:5] != "bench":
            assert name in INNER
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), name


def test_no_circle_of_imports():
    left = {
        # A package that lists its own parts is not what they depend on.
        name: {m for m in used if m in FILES and m != name and not m.startswith(name + ".")}
        for name, used in GRAPH.items()
    }
    while free := [name for name, used in left.items() if not used & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"in or behind a circle: {sorted(left)}"


@pytest.mark.parametrize(
    "module", ["analysis", "analysis.report", "sweeps.status", "sweeps.run", "sweeps.slurm"]
)
def test_starts_without_jax(module):
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_file_is_longer_than_400_lines():
    tests = {str(p): p for p in (ROOT / "tests").rglob("*.py")}
    lengths = {n: len(p.read_text().splitlines()) for n, p in (FILES | tests).items()}
    assert not {name: n for name, n in lengths.items() if n > 400}


def test_no_folder_holds_more_than_16_files():
    folders = [path.parent for path in FILES.values()]
    assert not {folder for folder in folders if folders.count(folder) > 16}
