"""lm/config_file.py: every field of a run can be set from the command line; errors are one line."""

import pytest
from ml_collections import ConfigDict

import optim
from configs import run
from lm.config import ConfigError, config_hash, finalise
from lm.config_file import complete, load_run

FILE = "configs/run.py:nano-s,1x,"


@pytest.mark.parametrize(
    ("optimizer", "field", "text", "value"),
    [
        ("muon", "optimizer.ns_steps", "6", 6),
        ("muon", "optimizer.ns_dtype", "bfloat16", "bfloat16"),
        ("muon", "optimizer.schedule", "cosine", "cosine"),
        ("muon", "optimizer.warmup", "10", 10),
        ("muon", "optimizer.max_grad_norm", "0.5", 0.5),
        ("muon", "optimizer.decayed", "['matrix']", ["matrix"]),
        ("adamw", "optimizer.state_dtypes", "{'momentum':'bfloat16'}", {"momentum": "bfloat16"}),
        ("adamw", "optimizer.weight_decay_kind", "cautious", "cautious"),
        ("soap", "optimizer.block_size", "None", None),
        ("adamw", "model.block_documents", "False", False),
        ("adamw", "data.fingerprint", "abc", "abc"),
        ("adamw", "data.corpus", "1e5", "1e5"),
        ("adamw", "train.batch_size", "16.0", 16),
        ("adamw", "train.z_loss", "1e-4", 1e-4),
        ("adamw", "program.accumulate", "2", 2),
        ("adamw", "checkpoint.keep", "3", 3),
        ("adamw", "log.every_steps", "5", 5),
    ],
)
def test_every_field_can_be_set(optimizer, field, text, value):
    section, name = field.split(".")
    config = load_run(FILE + optimizer, [f"--config.{field}={text}"])
    assert config[section][name] == value
    rest = load_run(FILE + optimizer)
    changed = {n for n in config[section] if config[section][n] != rest[section].get(n)}
    assert changed - {"steps"} == {name}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.ns_stpes=6",
            "key 'optimizer.ns_stpes'; did you mean 'ns_steps'",
        ),
        ("optimizer.ns_steps=0", "optimizer muon: ns_steps=0 is outside [1, 2147483647]"),
        ("optimizer.ns_steps=many", "optimizer.ns_steps='many' is not of type int"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate='fast' is not of type float"),
        ("optimizer.learning_rate=1e999", "optimizer.learning_rate=inf has no canonical form"),
        (f"optimizer.beta2={10**400}", "is not of type float"),
        ("optimizer.beta2=None", "optimizer muon: beta2=None is not a number"),
        ("optimizer.block_size=8", "unknown config key 'optimizer.block_size'"),
        ("optimizer.steps=8", "unknown config key 'optimizer.steps'"),
        ("optimizer.name=muno", "optimizer 'muno' is unknown; did you mean 'muon'"),
        ("optimizer.preset=paper", "preset='paper' is not one of study, authors"),
        ("optimizer=3", "config key optimizer is a section"),
        ("train.batch_size=1e999", "train.batch_size=inf"),
        ("train.batch_size=abc", "train.batch_size='abc' is not of type int"),
        ("train.batch_size=True", "train.batch_size=True is not of type int"),
        ("train.seed=None", "train.seed=None is not of type int"),
        ("model.block_documents=0", "model.block_documents=0 is not of type bool"),
        ("data.corpse=x", "did you mean 'corpus'"),
        ("model.hidden.x=1", "config key model.hidden has no parts"),
        ("optimizer.preset=authors", "optimizer.learning_rate is missing: preset 'authors'"),
    ],
)
def test_what_cannot_be_is_one_line(override, message):
    with pytest.raises(ConfigError) as error:
        load_run(FILE + "muon", [f"--config.{override}"])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["muon", "soap", "kron"])
def test_another_preset_or_optimizer_is_whole(name):
    rate = "--config.optimizer.learning_rate=0.01"
    for start, flag in ((name, "preset=authors"), ("adamw", f"name={name}")):
        config = load_run(FILE + start, [rate, f"--config.optimizer.{flag}"])["optimizer"]
        whole = optim.spec(name, preset=config["preset"], learning_rate=0.01).flat()
        del whole["steps"]
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in whole.items()} == config


def test_the_preset_it_has_changes_nothing():
    assert load_run(FILE + "soap", ["--config.optimizer.preset=study"]) == load_run(FILE + "soap")


def test_runs_are_locked_typed_and_complete():
    config = run.get_config("nano-s,1x,muon")
    assert isinstance(config, ConfigDict) and config.is_locked
    with pytest.raises(AttributeError, match="ns_steps"):
        config.optimizer.ns_stpes = 3
    with pytest.raises(TypeError):
        config.train.batch_size = "eight"
    config.optimizer.ns_steps = 3
    done = finalise(config)
    assert done["optimizer"]["ns_steps"] == 3
    assert config_hash(finalise(complete(done))) == config_hash(done)
