"""TensorBoard, Weights & Biases and MLflow mirror a curve when asked to; nobody else needs them."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lm.config import FIELDS, ConfigError
from lm.run.trackers import Trackers
from lm.storage import at

OFF = {name: field.default for name, field in FIELDS["log"].items()}
LINE = {"step": 7, "train_loss": 2.5, "grad_norm": None}


def trackers(folder, first_host=True, **log):
    return Trackers({"log": {**OFF, **log}}, folder, first_host=first_host)


def test_lines_are_mirrored_to_who_is_asked(tmp_path, monkeypatch):
    said = []

    class Writer:
        def __init__(self, folder):
            said.append(Path(folder).parent)

        def add_scalar(self, *words):
            said.append(words)

        def close(self):
            said.append("closed")

    def init(**options):
        said.append((options["project"], options["name"]))
        return SimpleNamespace(
            log=lambda numbers, step: said.append((numbers, step)),
            finish=lambda: said.append("finished"),
        )

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    calls = ("set_experiment", "start_run", "log_dict", "log_metrics", "end_run")
    note = lambda call: lambda *words, **named: said.append((call, *words, named))  # noqa: E731
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(**{c: note(c) for c in calls}))
    for log in ({}, {"tensorboard": True}, {"wandb": "race"}, {"mlflow": "race"}):
        found = trackers(tmp_path, **log)
        found.line(LINE)
        found.close()
    trackers(tmp_path, first_host=False, tensorboard=True, wandb="race", mlflow="r").line(LINE)
    assert said == [
        *(tmp_path, ("train_loss", 2.5, 7), "closed"),
        *(("race", tmp_path.name), ({"train_loss": 2.5}, 7), "finished"),
        *(("set_experiment", "race", {}), ("start_run", {"run_name": tmp_path.name})),
        ("log_dict", {"log": {**OFF, "mlflow": "race"}}, "config.json", {}),
        *(("log_metrics", {"train_loss": 2.5}, {"step": 7}), ("end_run", {})),
    ]


@pytest.mark.parametrize(
    "log, package",
    [
        ({"tensorboard": True}, "tensorboardX"),
        ({"wandb": "race"}, "wandb"),
        ({"mlflow": "race"}, "mlflow"),
    ],
)
def test_a_mirror_that_is_not_installed_or_has_no_folder_is_one_line(
    tmp_path, monkeypatch, log, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"needs the package {package}: pip install"):
        trackers(tmp_path, **log)
    if "tensorboard" in log:
        with pytest.raises(ConfigError, match="writes to folders, not to gs://race/one"):
            trackers(at("gs://race/one"), **log)
