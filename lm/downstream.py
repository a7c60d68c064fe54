"""Scores a checkpoint on downstream tasks with lm-evaluation-harness (extra `eval`).

    python -m lm.train --config=configs/run.py:130m,1x,muon --workdir=runs/muon \\
        --config.checkpoint.delete_when_finished=False
    python -m lm.downstream runs/muon/trials/HASH --tokenizer=tokenizer.json --tasks=study
    python -m lm.downstream runs/muon/trials/HASH --tokenizer=bytes --tasks=mine --include=tasks/

The model is the newest checkpoint of the run. Tasks that compare log-likelihoods work, which all
ten of the study do; tasks that generate text do not.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm import command, storage
from lm.config import ConfigError, config_hash, finalise
from lm.data import tokenizer as tokenizers
from lm.model import llama as model_lib
from lm.model.attention import AUTO
from lm.run.checkpoints import Checkpoints
from lm.storage import write_json

# The ten tasks that the study reports, with the number of examples shown before each question
# (its `experiments/evals/task_configs.py`); the score is the larger of acc and acc_norm.
STUDY = {
    **dict.fromkeys(("lambada_openai", "openbookqa", "winogrande", "wsc273", "hellaswag"), 0),
    **dict.fromkeys(("piqa", "boolq", "arc_challenge", "arc_easy"), 10),
    "copa": 0,
}
WIDTHS = [2**i for i in range(7, 21)]  # texts are padded to one of these, so that few programs do
SCORES_BYTES = 2**30  # what the reference attention may hold of its scores


class Scorer:
    """Log-likelihoods of token sequences under a trained model, with the platform's attention."""

    def __init__(self, config: Mapping, params, *, batch_size: int = 8):
        """`config` is finalised; `params` as `lm.model.llama.init` makes them.

        `batch_size`: rows at once, fewer of long texts where attention is the reference.
        """
        self.params, self.batch_size = params, batch_size
        self.longest = config["model"]["sequence_length"]
        self.separator = max(0, config["model"]["separator"])
        attention = AUTO[jax.default_backend()]
        self.scores_bytes = 4 * config["model"]["heads"] if attention == "reference" else 0
        program = {**config["program"], "attention": attention}
        model = model_lib.build({**config, "program": program})
        self._score = jax.jit(functools.partial(_score, model))

    def rows(self, width: int) -> int:
        """How many texts of this width are scored at once."""
        fitting = SCORES_BYTES // max(1, self.scores_bytes * width * width)
        return max(1, min(self.batch_size, fitting))

    def __call__(self, sequences: Sequence[Sequence[int]], counts: Sequence[int]) -> list:
        """(sum of log-probabilities in nats, whether each was the likeliest) of the last
        `counts[i]` tokens of each sequence, whose beginning is cut off where it is too long.
        """
        out: list = [None] * len(sequences)
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        while order:
            longest = min(self.longest, len(sequences[order[0]]))
            width = min(self.longest, next(w for w in WIDTHS if w >= longest))
            rows, order = order[: self.rows(width)], order[self.rows(width) :]
            kept = [np.asarray(sequences[i][-self.longest :], np.int32) for i in rows]
            tokens_BT = np.full((self.rows(width), width), self.separator, np.int32)
            for row, tokens in enumerate(kept):
                tokens_BT[row, : len(tokens)] = tokens
            nats_BT, likeliest_BT = map(np.asarray, self._score(self.params, tokens_BT))
            for row, (i, tokens) in enumerate(zip(rows, kept, strict=True)):
                end = len(tokens) - 1  # position t predicts token t + 1
                asked = slice(max(0, end - counts[i]), end)
                found = -float(nats_BT[row, asked].sum()), bool(likeliest_BT[row, asked].all())
                out[i] = found
        return out


def _score(model, params, tokens_BT):
    """Per position: nats of its successor, and whether that was the likeliest token."""
    x_BTD, head_DV = model.apply({"params": params}, tokens_BT)
    target_BT = jnp.roll(tokens_BT, -1, axis=1)

    def position(args):  # one position of all rows at a time: the logits of all would be too many
        x_BD, target_B = args
        logits_BV = (x_BD @ head_DV).astype(jnp.float32)
        target_logit_B = jnp.take_along_axis(logits_BV, target_B[:, None], axis=1)[:, 0]
        nats_B = jax.nn.logsumexp(logits_BV, axis=1) - target_logit_B
        return nats_B, jnp.argmax(logits_BV, axis=1) == target_B

    nats_TB, likeliest_TB = jax.lax.map(position, (x_BTD.swapaxes(0, 1), target_BT.T))
    return nats_TB.T, likeliest_TB.T


def restore(folder: Path, log=print) -> tuple[dict, dict]:
    """(config, params) of a run's newest checkpoint.

    Raises:
      ConfigError: when the folder holds no run or no checkpoint.
    """
    from lm.run.solo import Solo
    from lm.run.step import judged, only_judged

    try:
        config = finalise(json.loads(storage.read(folder / "config.json")))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{folder} is not the folder of a run: {error}") from None
    checkpoints = Checkpoints([folder], config["checkpoint"], log)
    program = Solo([config], jax.devices()[:1])
    parts = list(map(only_judged, program.abstract_members()))
    found = checkpoints.restore(lambda: parts, discard=False)
    checkpoints.close(delete=False)
    if found is None:
        raise ConfigError(
            f"{folder} has no checkpoint: train with --config.checkpoint.delete_when_finished=False"
        )
    step, (state,) = found
    log(f"{config['model']['name']}, {config['optimizer']['name']}: step {step}")
    return config, judged(state)


def harness_model(scorer: Scorer, tokenizer):
    """The scorer as a model of lm-evaluation-harness."""
    from lm_eval.api.model import TemplateLM

    class Model(TemplateLM):
        eot_token_id = tokenizer.separator

        def tok_encode(self, string, add_special_tokens=None, **_):
            return tokenizer.encode([string])[0][:-1].tolist()  # without the end of the document

        def _loglikelihood_tokens(self, requests, **_):
            sequences = [[*context, *continuation] for _, context, continuation in requests]
            return scorer(sequences, [len(continuation) for *_, continuation in requests])

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            """Each text in windows that do not overlap, each token scored once."""
            out = []
            for request in requests:
                tokens = [self.eot_token_id, *self.tok_encode(request.args[0])]
                step = scorer.longest - 1
                windows = [tokens[i : i + step + 1] for i in range(0, len(tokens) - 1, step)]
                scores = scorer(windows, [len(window) - 1 for window in windows])
                out.append(sum(nats for nats, _ in scores))
            return out

        def generate_until(self, requests, disable_tqdm=False):
            raise ConfigError("tasks that generate text are not supported, only log-likelihoods")

    return Model()


def evaluate(
    scorer: Scorer, tokenizer, shots: Mapping[str, int], *, limit=None, include=None
) -> dict[str, dict[str, float]]:
    """Scores per task, as the harness names them (`acc`, `acc_norm`, `acc_stderr`, ...).

    Args:
      shots: examples shown before each question, per task.
      limit: questions per task, all by default.
      include: a folder of task files of one's own.
    Raises:
      ConfigError: an unknown task, or one that needs generation.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'bestiary[eval]'") from None
    manager = TaskManager(include_path=str(include) if include else None)
    missing = [task for task in shots if task not in manager.all_tasks]
    if missing:
        raise ConfigError(f"lm-eval knows no task {missing[0]!r}; add its folder with --include")
    model, scores = harness_model(scorer, tokenizer), {}
    for count in sorted(set(shots.values())):
        results = lm_eval.simple_evaluate(
            model,
            tasks=[task for task, shown in shots.items() if shown == count],
            num_fewshot=count,
            limit=limit,
            task_manager=manager,
            log_samples=False,
            bootstrap_iters=0,
        )["results"]
        for task, found in results.items():
            numbers = {k.removesuffix(",none"): v for k, v in found.items() if _is_number(v)}
            scores[task] = {"shots": count, **numbers}
    return {task: scores[task] for task in shots}


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def parser() -> argparse.ArgumentParser:
    what = "Scores a checkpoint on downstream tasks and writes downstream.json beside it."
    out = command.parser("lm.downstream", what, __doc__.split("\n\n")[1])
    out.add_argument(
        "run", type=storage.place, help="WORKDIR/trials/HASH of a run that kept its checkpoint"
    )
    out.add_argument("--tokenizer", required=True, help="'bytes' or the corpus's tokenizer.json")
    out.add_argument("--tasks", default="study", help="'study' (its ten) or names, with commas")
    out.add_argument("--shots", type=int, default=0, help="examples shown, for named tasks")
    out.add_argument("--limit", type=int, help="questions per task")
    out.add_argument("--include", type=Path, help="a folder of task files of your own")
    out.add_argument("--batch_size", type=int, default=8)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    return command.guarded(lambda: run(arguments), interrupted="nothing was written")


def run(arguments: argparse.Namespace) -> int:
    """The command with its arguments parsed; returns the exit code."""
    names = [name for name in arguments.tasks.split(",") if name]
    shots = STUDY if names == ["study"] else dict.fromkeys(names, arguments.shots)
    config, params = restore(arguments.run)
    tokenizer = tokenizers.load(arguments.tokenizer)
    if tokenizer.vocab_size > config["model"]["vocab_size"]:
        raise ConfigError(
            f"--tokenizer={arguments.tokenizer} has {tokenizer.vocab_size} tokens, "
            f"the model {config['model']['vocab_size']}"
        )
    scorer = Scorer(config, params, batch_size=arguments.batch_size)
    scores = evaluate(scorer, tokenizer, shots, limit=arguments.limit, include=arguments.include)
    for task, found in scores.items():
        best = max((found[k] for k in ("acc", "acc_norm") if k in found), default=None)
        shown = ", ".join(f"{k} {v:.4g}" for k, v in found.items())
        print(f"{task:16s} {'' if best is None else f'{best:.4f}'}  ({shown})")
    tagged = {"run": config_hash(config), "tasks": scores}
    write_json(arguments.run / "downstream.json", tagged)
    return 0


if __name__ == "__main__":
    sys.exit(main())
