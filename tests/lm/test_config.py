"""lm/config.py: every bad field is one line; the hash depends on values, never on spelling."""

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import optim
from lm.config import ConfigError, canonical, config_hash, finalise, program_key
from lm.run.step import hyperparameters


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"hiden": 8}}, "unknown config key model.'hiden'; did you mean 'hidden'"),
        ({"model": {"heads": 3}}, "model.heads=3 must divide model.hidden=8"),
        ({"model": {"separator": -1}}, "set model.block_documents=False"),
        ({"model": {"layers": 0}}, "model.layers=0 is outside [1, 512]"),
        ({"model": {"layers": "two"}}, "model.layers='two' is not of type int"),
        ({"train": {"seed": 1.5}}, "train.seed=1.5 is not of type int"),
        ({"train": {"compute_dtype": "float16"}}, "is not one of float32, bfloat16"),
        ({"train": {"steps": 0, "batch_size": 4096}}, "train.batch_size=4096 leaves no step"),
        ({"trian": {}}, "unknown config section 'trian'; did you mean 'train'"),
        (
            {"optimizer": {"warmup": 13}},
            "optimizer.warmup=13 is longer than training: it must be in [0, 12]",
        ),
        ({"optimizer": {"beta2": 1.5}}, "beta2=1.5 is outside [0, 1)"),
        ({"optimizer": {"bta2": 0.5}}, "did you mean 'beta2'"),
        ({"optimizer": {"name": "adamv"}}, "'adamv' is unknown; did you mean 'adamw'"),
        ({"optimizer": {"learning_rate": float("nan")}}, "learning_rate=nan"),
        ({"program": {"accumulate": 3}}, "program.accumulate=3 does not divide train.batch_size=2"),
        ({"data": {"corpse": "x"}}, "unknown config key data.'corpse'; did you mean 'corpus'"),
        ({"train": {"batch_size": float("inf")}}, "train.batch_size=inf is outside [1, "),
        ({"train": {"seed": float("nan")}}, "train.seed=nan is outside [0, "),
        ({"train": {"chinchilla_ratio": 10**400}}, "is outside [1e-06, 1e+06]"),
        ({"optimizer": {1: 2}}, "'1' is not a hyper-parameter or option"),
        ({"optimizer": {"beta2": None}}, "beta2=None is not a number"),
        ({"optimizer": {"preset": "authors", "learning_rate": None}}, "preset 'authors' has no"),
    ],
)
def test_bad_fields_are_one_line(sections, message):
    with pytest.raises(ConfigError) as error:
        tiny.config(sections=sections)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_sections_are_named():
    with pytest.raises(ConfigError, match="model.name is missing"):
        finalise({})
    with pytest.raises(ConfigError, match="section model=3 is not a mapping"):
        finalise({"model": 3})


def test_steps_come_from_the_budget():
    config = tiny.config(steps=0, sections={"train": {"chinchilla_ratio": 2.0}})
    params = 2 * (4 * 8 * 8 + 3 * 8 * 16)
    assert config["train"]["steps"] == 2 * 20 * params // (2 * 16)


def shuffled(value, rng):
    """The same value with keys in another order and whole numbers spelled as floats or ints."""
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {k: shuffled(value[k], rng) for k in keys}
    if isinstance(value, list):
        return [shuffled(v, rng) for v in value]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return float(value)
    if isinstance(value, float) and value == int(value) and rng.random() < 0.5:
        return int(value)
    return value


def random_config(rng):
    def number():
        return rng.choice([rng.randint(-10, 10**6), rng.random(), 10.0 ** rng.randint(-30, 15)])

    def value(depth):
        kind = rng.randint(0, 5 if depth else 3)
        if kind == 4:
            return [value(depth - 1) for _ in range(rng.randint(0, 3))]
        if kind == 5:
            return {f"k{i}": value(depth - 1) for i in range(rng.randint(0, 4))}
        return [number(), number(), rng.choice([True, False, None]), f"s{number()}é"][kind]

    return {f"key{i}": value(2) for i in range(rng.randint(1, 6))}


def test_canonical_text_ignores_order_and_spelling():
    rng = random.Random(0)
    for _ in range(10_000):
        config = random_config(rng)
        assert canonical(shuffled(config, rng)) == canonical(config)
        assert canonical(json.loads(canonical(config))) == canonical(config)


def test_hash_is_the_same_in_another_process():
    config = tiny.config(weight_decay=0.1, epsilon=1e-25)
    code = "import sys, json, lm.config as c; print(c.config_hash(json.load(sys.stdin)))"
    out = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(config),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )
    assert out.stdout.strip() == config_hash(config)


def test_hash_is_of_what_not_of_how():
    base = tiny.config()
    assert config_hash(tiny.config(sections={"program": {"unroll": True}})) == config_hash(base)
    assert config_hash(tiny.config(seed=1)) != config_hash(base)
    assert config_hash(tiny.config(learning_rate=2e-2)) != config_hash(base)


def test_what_is_off_has_no_part_in_the_hash():
    plain = tiny.config()
    old = {**plain, "model": dict(tiny.MODEL, block_documents=True, separator=256)}
    old["optimizer"] = {k: v for k, v in plain["optimizer"].items() if k not in optim.OFF}
    assert config_hash(old) == config_hash(plain)
    on = [tiny.config(sections={"model": {k: v}}) for k, v in tiny.MODERN.items()]
    on += [tiny.config(**{name: value / 2 + 0.25}) for name, value in optim.OFF.items()]
    on += [tiny.config(sections={"parametrization": {"rule": rule}}) for rule in ("mup", "hyperp")]
    assert len({config_hash(config) for config in (plain, *on)}) == 1 + len(on)


def test_program_key_ignores_numbers_only():
    base = program_key(tiny.config())
    assert program_key(tiny.config(learning_rate=2e-2, beta2=0.5, warmup=5, seed=3)) == base
    assert program_key(tiny.config(steps=13)) != base
    assert program_key(tiny.config(batch_size=4)) != base
    assert program_key(tiny.config(schedule="linear")) != base
    assert program_key(tiny.config("lion")) != base


def test_a_number_without_a_value_belongs_to_the_program():
    """SOAP's authors' preset leaves shampoo_beta to beta2; as a number it would be NaN."""
    unset = tiny.config("soap", preset="authors")
    given = tiny.config("soap", preset="authors", shampoo_beta=0.9)
    assert unset["optimizer"]["shampoo_beta"] is None
    assert set(hyperparameters(given)) - set(hyperparameters(unset)) == {"shampoo_beta"}
    assert all(np.isfinite(v) for v in hyperparameters(unset).values())
    assert program_key(unset) != program_key(given)


def test_numpy_scalars_are_refused_not_guessed():
    with pytest.raises(ConfigError, match="has no canonical form"):
        canonical({"a": np.float32(0.1)})


def test_a_changed_rule_is_another_run(monkeypatch):
    before = config_hash(tiny.config("lion"))
    newer = dataclasses.replace(optim.catalogue.get("lion"), version=2)
    monkeypatch.setitem(optim.catalogue.CATALOGUE, "lion", newer)
    assert config_hash(tiny.config("lion")) != before
    optim.spec("lion", learning_rate=0.1).build().init({"w": np.ones((2, 2))})
    with pytest.raises(ConfigError, match="version=1 is not one of 2"):
        tiny.config("lion", version=1)
