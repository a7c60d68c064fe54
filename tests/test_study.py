"""The main job as its user runs it: a study of all optimizers on real text, then its report."""

import html
import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from configs import grids
from lm.config import config_hash
from lm.config_file import load_run


def run(*words):
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)


@pytest.mark.slow
def test_smoke_races_all_eleven_and_reports(tmp_path):
    words = ("sweeps.run", "--config=configs/study.py:smoke", f"--workdir={tmp_path}")
    first = run(*words)
    assert first.returncode == 0, first.stderr
    assert "22 of 22 cells are certified" in first.stdout
    again = run(*words)
    assert again.returncode == 0 and "trials are finished already" in again.stdout
    report = run("analysis.report", str(tmp_path))
    assert report.returncode == 0, report.stderr
    table = pd.read_csv(tmp_path / "report/table.csv")
    assert set(table["optimizer"]) == set(grids.GRIDS)
    assert table["loss"].between(1.5, 5.0).all()
    page = (tmp_path / "report/index.html").read_text()
    assert 'src="http' not in page and 'id="forest"' in page
    _commands_name_the_winners(tmp_path, page)


def _commands_name_the_winners(workdir, page):
    """Each command on the page is that of the run in the folder beside it, to the hash."""
    found = re.findall(r"<code>python -m lm.train (.*?)</code>.*?<code>trials/(\w+)</code>", page)
    assert len(found) == 22
    for words, name in found:
        words = html.unescape(words).split()
        spec = words[0].removeprefix("--config=")
        config = load_run(spec, [word for word in words if word.startswith("--config.")])
        trained = json.loads((workdir / "trials" / name / "config.json").read_text())
        config["data"]["fingerprint"] = trained["data"]["fingerprint"]
        assert config_hash(config) == name


@pytest.mark.slow
def test_settings_are_carried_by_a_rule_and_reported(tmp_path):
    """The way of `configs/study.py:transfer`, small."""
    words = ("sweeps.run", "--config=configs/study.py:transfer-smoke", f"--workdir={tmp_path}")
    trained = run(*words)
    assert trained.returncode == 0, trained.stderr
    assert "4 of 4 cells are certified" in trained.stdout
    report = run("analysis.transfer", str(tmp_path))
    assert report.returncode == 0, report.stderr
    table = pd.read_csv(tmp_path / "transfer/transfer.csv")
    regret = table[table["quantity"] == "regret"]
    assert sorted(zip(regret["optimizer"], regret["rule"], strict=True)) == [
        (optimizer, rule) for optimizer in ("adamw", "muon") for rule in ("constant", "mup")
    ]
    assert (regret["low"] < regret["estimate"]).all() and (regret["seeds"] == 2).all()
    assert {"loss", "tokens", "lead"} < set(table["quantity"])
    assert "Muon" in (tmp_path / "transfer/lead.svg").read_text()
