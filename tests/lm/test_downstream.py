"""A trained checkpoint scored on tasks: the arithmetic here, the harness where it is installed."""

import functools
import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm import downstream, train
from lm.config import ConfigError
from lm.data.tokenizer import Bytes
from lm.model import llama as model_lib

TASK = """
task: parity
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
QUESTIONS = [
    {"question": "import", "choices": [" sys", " zzqx#"], "answer": 0},
    {"question": "def f(self", "choices": ["):", "%%"], "answer": 0},
    {"question": "return", "choices": ["\\u0001\\u0002", " self"], "answer": 1},
]


@pytest.fixture(scope="module")
def scorer():
    """(scorer, log p of 16 tokens): of a model that is not trained."""
    config = tiny.config()
    model = model_lib.build(config)
    params = jax.jit(functools.partial(model_lib.init, model))(jax.random.key(0))

    @jax.jit
    def log_p_TV(tokens_T):
        x_BTD, head_DV = model.apply({"params": params}, tokens_T[None])
        return jax.nn.log_softmax((x_BTD @ head_DV)[0].astype(jnp.float32))

    return downstream.Scorer(config, params, batch_size=2), log_p_TV


def by_hand(log_p_TV, tokens, count):
    """Filled up to 16 tokens: what follows a token changes nothing for it."""
    log_p_TV = np.asarray(log_p_TV(jnp.array(tokens + [0] * (16 - len(tokens)))))
    asked = range(len(tokens) - 1 - count, len(tokens) - 1)
    nats = -sum(float(log_p_TV[t, tokens[t + 1]]) for t in asked)
    return -nats, all(int(log_p_TV[t].argmax()) == tokens[t + 1] for t in asked)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.slow
def test_scores_are_the_models_whatever_the_padding_and_the_order(scorer, rows, monkeypatch):
    score, log_p = scorer
    monkeypatch.setattr(downstream, "SCORES_BYTES", rows * 4 * tiny.MODEL["heads"] * 16**2)
    assert score.rows(16) == rows
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 256, n).tolist() for n in (16, 3, 9, 2, 12)]
    counts = [4, 1, 8, 1, 2]
    for found, tokens, count in zip(score(sequences, counts), sequences, counts, strict=True):
        nats, likeliest = by_hand(log_p, tokens, count)
        assert found[0] == pytest.approx(nats, rel=1e-5) and found[1] == likeliest


def test_a_long_context_loses_its_beginning(scorer):
    score, log_p = scorer
    tokens = list(range(40))
    (found,) = score([tokens], [3])
    assert found[0] == pytest.approx(by_hand(log_p, tokens[-16:], 3)[0], rel=1e-5)


def test_rolling_scores_each_token_once(scorer):
    pytest.importorskip("lm_eval")
    score, _ = scorer
    model = downstream.harness_model(score, Bytes())
    text = "x" * 50
    request = types.SimpleNamespace(args=(text,))
    tokens = [256, *text.encode()]
    windows = [tokens[i : i + 16] for i in range(0, 50, 15)]
    expected = sum(s for s, _ in score(windows, [len(w) - 1 for w in windows]))
    assert model.loglikelihood_rolling([request]) == [pytest.approx(expected, rel=1e-6)]


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        downstream.restore(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny.config()))
    with pytest.raises(ConfigError, match="delete_when_finished=False"):
        downstream.restore(tmp_path)


@pytest.mark.slow
def test_a_kept_checkpoint_beats_chance_on_a_task_file(tmp_path):
    config = tiny.config(
        steps=160,
        batch_size=8,
        learning_rate=0.03,
        sections={"checkpoint": {"delete_when_finished": False}},
    )
    folder = tmp_path / "run"
    train.train_one(config, folder, log=lambda line: None)
    restored, params = downstream.restore(folder, log=lambda line: None)
    score = downstream.Scorer(restored, params)
    ((likely, _), (unlikely, _)) = score([list(b"import sys"), list(b"import zq#")], [4, 4])
    assert likely > unlikely
    pytest.importorskip("lm_eval")
    (tmp_path / "data.json").write_text("\n".join(json.dumps(q) for q in QUESTIONS))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "parity.yaml").write_text(TASK.replace("DATA", str(tmp_path / "data.json")))
    command = [sys.executable, "-m", "lm.downstream", str(folder), "--tokenizer=bytes"]
    command += ["--tasks=parity", f"--include={tasks}"]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    scores = json.loads((folder / "downstream.json").read_text())["tasks"]["parity"]
    assert scores["acc"] > 0.5 and "parity" in out.stdout
    wrong = subprocess.run([*command[:-2], "--tasks=party"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "party" in wrong.stderr and "Traceback" not in wrong.stderr
