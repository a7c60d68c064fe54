"""An optimizer by import path in a study: its grids, its identity, its source kept."""

import importlib
import json
import signal
import sys

import jax
import pytest
import study_rig
from study_rig import run, trained

from configs import grids, ladder, spaces, study
from lm.config import ConfigError
from lm.config_file import load_run
from lm.run.solo import Solo
from optim import plugins
from sweeps import slurm

OWN = "def make(learning_rate, beta2: float = 0.95, power: float = 1.0): ...\n"
SMOKE = str(study_rig.ROOT / "configs/study.py:smoke")
FAKE_DATA = "--config.data.fingerprint=fake"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with `make`, found as one in the current folder is."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(plugins, "FOLDERS", [])
    plugins.load.cache_clear()
    path = folder / f"own_{tmp_path.name}.py"
    path.write_text(OWN)
    return path


def test_it_races_is_kept_and_a_changed_source_is_refused(module, tmp_path, capsys, monkeypatch):
    name, workdir = f"{module.stem}:make", tmp_path / "w"
    words = [f"--optimizers=adamw,{name}", FAKE_DATA]
    assert run(workdir, *words, "--dry_run", study=SMOKE) == 0
    assert f"{name}: learning_rate from 0.01, grid 0.0001, 0.001" in capsys.readouterr().out
    monkeypatch.chdir(module.parent)
    killed = study_rig.process(workdir, *words, study=SMOKE, kill_trainer=5)
    said, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL and len(trained(workdir)) == 5, said
    assert run(workdir, *words, study=SMOKE) == 0
    assert "4 of 4 cells are certified" in capsys.readouterr().out
    assert (workdir / f"optimizers/{module.name}").read_text() == OWN
    assert json.loads((workdir / f"certificates/{name}-nano-xs-0.25x.json").read_text())
    before = trained(workdir)

    def afresh():
        plugins.FOLDERS.clear()
        plugins.load.cache_clear()
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module.stem, raising=False)

    module.write_text(OWN + "# changed\n")
    afresh()
    for go_on in (
        lambda: run(workdir, *words, "--extend", study=SMOKE),
        lambda: slurm.main([f"--config={SMOKE}", f"--workdir={workdir}", *words]),
    ):
        assert go_on() == 2
        assert f"the source of {name} has changed (digest " in capsys.readouterr().err
    module.unlink()  # whoever goes on with the study elsewhere has its workdir only
    afresh()
    assert run(workdir, *words, study=SMOKE) == 0
    assert trained(workdir) == before


def test_what_the_module_states_is_searched(module):
    space = {
        "start": {"learning_rate": 0.1, "batch_size": 16},
        "grids": {"beta2": [0.9, 0.99]},
        "ranges": {"power": {"low": 0.5, "high": 2, "values": 3}},
        "of_steps": ["warmup"],
    }
    space["start"]["warmup"] = 0.25
    module.write_text(OWN + f"search_space = {space}\n")
    entry = study.entry(f"{module.stem}:make", "nano-xs", 1)
    assert entry["start"]["warmup"] == ladder.steps("nano-xs", 1) // 4
    assert entry["start"]["batch_size"] == 16 and entry["start"]["power"] == 1.0
    rates = [0.001, 0.01, 0.1, 1.0, 10.0]
    assert entry["grids"] == {"learning_rate": rates, "beta2": [0.9, 0.99], "power": [0.5, 1, 2]}


def test_without_a_word_it_gets_the_grids_of_adamw(module):
    name = f"{module.stem}:make"
    entry, adamw = (study.entry(n, "nano-xs", 1) for n in (name, "adamw"))
    for shared in ("batch_size", "warmup", "weight_decay", "max_grad_norm", "beta2"):
        assert set(adamw["grids"][shared]) <= set(entry["grids"][shared])
    assert "power" not in entry["grids"]
    (only,) = study.entry(name, "nano-xs", 1, only=("learning_rate",))["grids"]
    assert only == "learning_rate"
    assert (
        study.get_config("published", [name, "muon"]).optimizers.muon.start.learning_rate
        == (grids.published("muon")["start"]["learning_rate"])
    )


def test_state_of_its_own_lies_where_it_says_in_a_run(module):
    module.write_text(
        "import jax, optax\n"
        "def make(learning_rate):\n"
        "    init = lambda p: {'table': jax.numpy.zeros((1024, 512))}\n"
        "    return optax.GradientTransformation(init, lambda u, s, p=None: (u, s))\n"
        "def state_sharding(path, array, mesh):\n"
        "    return jax.sharding.PartitionSpec('data') if 'table' in path else None\n"
    )
    spec = f"{study_rig.ROOT}/configs/run.py:nano-xs,1x,{module.stem}:make"
    config = load_run(spec, ["--config.optimizer.learning_rate=0.1"])
    program = Solo([config], jax.devices()[:8])
    table = next(x for x in jax.tree.leaves(program.abstract_members()) if x.size == 2**19)
    assert table.sharding.shard_shape(table.shape) == (128, 512)


@pytest.mark.parametrize(
    "given",
    [{"low": 1}, {"low": 2, "high": 1}, {"low": 0, "high": 1}, {"low": 1, "hihg": 2}],
)
def test_a_range_that_is_none_is_refused(given):
    with pytest.raises(ConfigError, match="ranges.power="):
        spaces.spread("power", given)


def test_an_unknown_optimizer_is_refused_before_anything_is_written(tmp_path, capsys):
    assert run(tmp_path / "w", "--optimizers=adamw,muno", study=SMOKE) == 2
    assert "did you mean 'muon'" in capsys.readouterr().err
    assert run(tmp_path / "w", "--optimizers=adamw") == 2
    assert "its get_config takes no optimizers" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
