"""The way of a newcomer, docs/your-optimizer.md, line by line, outside the repository."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your-optimizer.md").read_text()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the page's file, from which our commands can be run."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "my_opt.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.S)[1])
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


@pytest.mark.slow
def test_every_line_of_the_page_works(home):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = []
    for line in re.search(r"```bash\n(.*?)```", PAGE, re.S)[1].splitlines():
        words = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(words, cwd=home, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    one, hour, duel, more, wide = said
    assert "finished: validation loss" in one
    assert "adamw against my_opt:my_sgd at nano-s 1x" in hour and "seeds, " in hour
    assert "FAILS" not in duel and "ok     its step compiles once" in duel
    assert "2 of 2 cells are certified" in duel
    assert re.search(r"nano-xs 0.125x: my_opt:my_sgd is 0\.\d{4} nats (below|above) adamw \(", duel)
    assert "5 seeds, 4 trials to train" in more
    assert "my_opt:my_sgd: learning_rate from 0.01, grid" in wide
    assert (home / "runs/mine/optimizers/my_opt.py").read_text() == (home / "my_opt.py").read_text()
