"""The wheel: `pip install .` alone serves `import optim`, with JAX and optax and nothing else."""

import importlib.metadata as metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])"
USE = """
import importlib.util, sys
import optim, jax.numpy as jnp
tx = optim.build("muon", learning_rate=0.02, weight_decay=0.1)
params = {"up": {"kernel": jnp.ones((4, 8))}}
tx.update(params, tx.init(params), params)
assert not any(map(importlib.util.find_spec, ("flax", "orbax", "tensorflow_datasets", "pandas")))
print(optim.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what it holds, without a network."""
    if int(metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools 77 is not installed, which builds the wheel")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for room in ("analysis", "benchmarks", "configs", "lm", "optim", "sweeps"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, source / room, ignore=leave)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    words = [sys.executable, "-c", BUILD, str(out)]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def needed(requirements):
    """The distributions that the requirements without an extra ask for, theirs too, by name."""
    found = set()
    while requirements:
        text = requirements.pop()
        name = re.match(r"[\w.-]+", text)[0].lower().replace("_", "-")
        if "extra ==" in text or name in found:
            continue
        try:
            requirements += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another Python or system
        found.add(name)
    return found


@pytest.mark.slow
def test_the_library_needs_jax_and_optax_alone(wheel, tmp_path):
    site = tmp_path / "bare"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        assert "analysis/published/best.csv" in archive.namelist()
        assert not any(name.startswith("tests/") for name in archive.namelist())
    about = metadata.Distribution.at(next(site.glob("*.dist-info")))
    plain = [text for text in about.requires if "extra ==" not in text]
    assert {re.match(r"\w+", text)[0] for text in plain} == {"jax", "optax"}
    for name in needed(plain):
        for file in metadata.distribution(name).files:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(metadata.distribution(name).locate_file(top))
    words = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(site)!r}){USE}"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(site / "optim" / "__init__.py")
