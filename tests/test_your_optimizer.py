"""The way of a newcomer, docs/your-optimizer.md, line by line, outside the repository."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from optim import plugins

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your-optimizer.md").read_text()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the page's file, from which our commands can be run."""
    (tmp_path / "my_opt.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.S)[1])
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of what the commands start
    monkeypatch.setattr(plugins, "FOLDERS", [])
    monkeypatch.delitem(sys.modules, "my_opt", raising=False)
    plugins.load.cache_clear()
    return tmp_path


def run(line, capfd):
    """What a line of the page prints; training in a process of its own: this has eight devices."""
    python, dash_m, module, *words = shlex.split(line)
    assert (python, dash_m) == ("python", "-m")
    if module == "lm.train":
        code = subprocess.run([sys.executable, dash_m, module, *words]).returncode
    else:
        code = importlib.import_module(module).main(words)
    printed = capfd.readouterr()
    assert code == 0, f"{line}\n{printed.out}\n{printed.err}"
    return printed.out


@pytest.mark.slow
def test_every_line_of_the_page_works(home, capfd):
    lines = re.search(r"```bash\n(.*?)```", PAGE, re.S)[1].splitlines()
    said = [run(line, capfd) for line in lines]
    one, hour, duel, more, wide = said
    assert "finished: validation loss" in one
    assert "adamw against my_opt:my_sgd at nano-s 1x" in hour and "seeds, " in hour
    assert "FAILS" not in duel and "ok     its step compiles once" in duel
    assert "2 of 2 cells are certified" in duel
    assert re.search(r"nano-xs 0.125x: my_opt:my_sgd is 0\.\d{4} nats (below|above) adamw \(", duel)
    assert "5 seeds, 4 trials to train" in more
    report = (home / "runs/mine/report/index.html").read_text()
    assert "Around my_opt:my_sgd goes, of ours: clip, decay, schedule." in report
    assert "my_opt:my_sgd: learning_rate from 0.01, grid" in wide
    assert (home / "runs/mine/optimizers/my_opt.py").read_text() == (home / "my_opt.py").read_text()
