"""Training runs: many as one packed program (`train_pack`), or one from the command line.

    python -m lm.train --config=configs/run.py:nano-s,1x,muon --workdir=runs/muon
    python -m lm.train --config=configs/run.py:nano-s,1x,muon --workdir=runs/muon \\
        --config.optimizer.learning_rate=0.02 --config.train.seed=1
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lm import command, storage
from lm.config import ConfigError, config_hash
from lm.config_file import load_run
from lm.data.cache import default_cache
from lm.data.corpus import Corpus
from lm.data.corpus import load as load_corpus
from lm.run import dry_run
from lm.run.loop import Loop
from lm.run.records import Right
from lm.run.stopping import LOST, Lost, Stopped, Termination


def train_pack(
    configs: Sequence[Mapping],
    folders: Sequence[str | Path],
    *,
    log: Callable[[str], None] = print,
    termination: Termination | None = None,
    right: Right | None = None,
) -> list[dict]:
    """Trains the runs as one packed program; each leaves its files in its folder as soon as it is
    over.

    Args:
      configs: finalised configs of one `program_key`.
      folders: one folder per run.
      log: called with a progress line every few seconds.
      termination: asked after every call whether to save and stop.
      right: to the runs, where others may train them too; else whoever calls has it.
    Returns:
      the results, in the order of the configs.
    Raises:
      ConfigError, CorpusError: one line.
      OSError: when a file cannot be written.
      Stopped: after a stop that `termination` was asked for; all members are saved.
    """
    prepare_cpu()
    from lm.run.packed import Packed

    first = configs[0]
    corpus = open_corpus(first, log)
    with blamed(first["optimizer"]):
        return Loop(Packed(configs), folders, corpus, log, termination, right).run()


def train_one(
    config: Mapping,
    folder: str | Path,
    *,
    corpus: Corpus | None = None,
    log: Callable[[str], None] = print,
    termination: Termination | None = None,
    right: Right | None = None,
) -> dict:
    """Trains one run, sharded over all devices of the job, from its newest checkpoint if any.

    Args:
      corpus: the config's, if it is open already.
    Returns:
      the result, which `folder` holds too.
    Raises:
      as `train_pack`, and `Lost` when another process of the job is gone.
    """
    from lm.run.solo import Solo

    corpus = corpus or open_corpus(config, log)
    with blamed(config["optimizer"]):
        return Loop(Solo([config]), [folder], corpus, log, termination, right).run()[0]


@contextlib.contextmanager
def blamed(optimizer: Mapping) -> Iterator[None]:
    """What is raised around an optimizer from elsewhere is told in one line that names it.

    Raises:
      ConfigError: instead of any error that is not about the config, the machine or a stop.
    """
    try:
        yield
    except (ConfigError, OSError, MemoryError, Stopped, Lost):
        raise
    except Exception as error:
        if "source" not in optimizer or "RESOURCE_EXHAUSTED" in str(error):
            raise
        from optim.plugins import told

        name = optimizer["name"]
        raise ConfigError(
            f"optimizer {name}: {told(error)}; python -m optim.check {name} says what it needs"
        ) from error


def prepare_cpu() -> None:
    """As many CPU devices as this process has cores, one thread each, unless JAX has started.

    A pack is spread over them: small matrices do not fill two cores, two runs do.
    """
    import jax

    try:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    except RuntimeError:  # the backend has started; its devices stay as they are
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    if not jax.config.jax_compilation_cache_dir:
        folder = Path(default_cache()) / "programs"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def open_corpus(config: Mapping, log: Callable) -> Corpus:
    """The config's corpus, checked against the model's vocabulary and the config's fingerprint."""
    model = config["model"]
    corpus = load_corpus(config["data"], sequence_length=model["sequence_length"], log=log)
    if corpus.vocab_size > model["vocab_size"]:
        raise ConfigError(
            f"model.vocab_size={model['vocab_size']} is smaller than "
            f"the corpus's {corpus.vocab_size}"
        )
    if corpus.separator != model["separator"]:
        raise ConfigError(
            f"model.separator={model['separator']} is not the corpus's {corpus.separator}; "
            f"set --config.model.separator={corpus.separator}"
        )
    return corpus


def parser() -> argparse.ArgumentParser:
    out = command.parser(
        "lm.train",
        "Trains one run and writes config.json, curve.jsonl and result.json.",
        __doc__.split("\n\n")[1] + "\n\nAny field: --config.train.seed=1",
    )
    out.add_argument("--config", required=True, help="configs/run.py:SIZE,RATIO,OPTIMIZER")
    out.add_argument(
        "--workdir",
        required=True,
        type=storage.place,
        help="a folder or gs://BUCKET/FOLDER; trials/<hash>/ is written in it",
    )
    out.add_argument(
        *("--dry_run", "--config.dry_run"),
        action="store_true",
        help="print the resolved config, parameters by role, FLOPs and memory; start nothing",
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    arguments, overrides = parser().parse_known_args(argv)
    return command.guarded(
        lambda: run(arguments, overrides),
        interrupted="the same command goes on from the last checkpoint",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """The command with its arguments parsed; returns the exit code."""
    termination = Termination(lambda line: print(line, flush=True))
    config = load_run(arguments.config, overrides)
    termination.grace = config["checkpoint"]["grace_seconds"]
    if arguments.dry_run:
        with blamed(config["optimizer"]):
            print(dry_run.full(config))
        return 0
    from lm.run import mesh

    prepare_cpu()
    mesh.start()
    corpus = open_corpus(config, print)
    config["data"]["fingerprint"] = corpus.fingerprint
    folder = arguments.workdir / "trials" / config_hash(config)
    if storage.exists(folder / "result.json"):
        print(f"{folder} has its result already; remove it to train again")
        return 0
    with blamed(config["optimizer"]):
        print(f"{folder}\n{dry_run.summary(config)}\n{dry_run.roles(config)}", flush=True)
    log = functools.partial(print, flush=True)
    try:
        result = train_one(config, folder, corpus=corpus, log=log, termination=termination)
    except Stopped as stopped:
        log(str(stopped))
        return 0
    except Lost as lost:
        log(f"error: {lost}; the same command goes on from the last checkpoint")
        os._exit(LOST)  # leaving in order would wait for the others
    loss = "no loss" if result["loss"] is None else f"validation loss {result['loss']:.4f}"
    reason = f" ({result['reason']})" if result["reason"] else ""
    print(f"{result['status']}: {loss}{reason}, {result['seconds']:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
