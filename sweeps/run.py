"""Runs a study, or goes on with one.

    python -m sweeps.run --config=configs/study.py:nano --workdir=runs/nano --dry_run
    python -m sweeps.run --config=configs/study.py:nano --workdir=runs/nano
    python -m sweeps.run --config=configs/study.py:nano --workdir=runs/nano --workers=2
    python -m sweeps.run --config=configs/study.py:hour --workdir=runs/hour \\
        --config.rule.max_moves=2 --config.optimizers.muon.start.learning_rate=0.1

Kill it at any time and start it again: finished trials are kept, the rest is planned anew.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from lm import command, storage
from lm.config import FIELDS, ConfigError
from lm.storage import Store, open_store
from lm.storage.store import encode
from sweeps import work
from sweeps.dispatch import driver
from sweeps.dispatch.accidents import Accidents, forgive
from sweeps.dispatch.begun import Refused, config_of
from sweeps.dispatch.ledger import Ledger, uncertify
from sweeps.dispatch.local import TRAINER, keep_sources, sources
from sweeps.plan import config, cost
from sweeps.plan.certificates import effort
from sweeps.plan.phases import Plan, plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial
from sweeps.watch import page


def parser() -> argparse.ArgumentParser:
    out = command.parser("sweeps.run", __doc__)
    add_study(out)
    add = out.add_argument
    add("--dry_run", action="store_true", help="print the plan and its cost, train nothing")
    add("--workers", type=work.count, default=0, help="worker processes; 0: this process (default)")
    add("--executor", choices=("local", "ray"), default="local", help="see docs/launch.md")
    add("--address", default="auto", help="of the Ray cluster; default: this machine's")
    add("--resources", default="CPU=1", help="of a pack on Ray: GPU=1, slice=v5e-4x4")
    add("--timeout", type=float, default=0.0, help="seconds a pack may take; 0: no limit (default)")
    return out


def add_study(out: argparse.ArgumentParser) -> None:
    """The flags that say which study, where, and how it goes on."""
    add = out.add_argument
    add("--config", required=True, help="FILE.py:NAME; --config.a.b=VALUE sets any of its fields")
    add("--workdir", required=True, type=storage.place, help="a folder or s3://, gs://, az://")
    add("--optimizers", type=_names, default=(), help="race these: adamw,muon,my_opt:my_sgd")
    add("--extend", action="store_true", help="let a changed study go on in its workdir")
    add("--retry_failed", action="store_true", help="try trials again that failed for good")
    add("--device", default=cost.HERE, help=f"for costs, one of {', '.join(cost.known())}")
    add("--trainer", default=TRAINER, help=argparse.SUPPRESS)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    arguments, overrides = parser().parse_known_args(argv)
    return command.guarded(
        lambda: run(arguments, overrides),
        Refused,
        interrupted="run the same command again to go on",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str], log: Callable = print) -> int:
    """The command with its arguments parsed; returns the exit code."""
    if arguments.workers and arguments.executor == "ray":
        raise Refused("--workers is for one machine; on Ray --resources says what a pack gets")
    study, changes = resolve(arguments, overrides, log)
    store = open_store(str(arguments.workdir))
    if arguments.dry_run:
        for line in config.own_grids(study.config):
            log(line)
        outcomes = Ledger(store, study).open(put=False).outcomes
        dry_run(study, outcomes, arguments.device, changes, log)
        return 0
    begin(study, store, arguments, log)
    with page.shown(store.address, log) as say:
        state, failed, ledger = drive(study, store, arguments, say)
    report(study, state, ledger.outcomes, failed, log)
    return 0


def drive(study: Study, store: Store, arguments: argparse.Namespace, log: Callable) -> tuple:
    """Lets workers train the study and shows what they do, as `Worker.run` does."""
    own = argparse.Namespace(**vars(arguments), slots=arguments.workers, sharded=False)
    if arguments.executor == "ray":
        return _on_ray(study, store, own, log)
    if arguments.workers:
        return driver.follow(store, study, driver.Process(store, work.flags(own)), log)
    try:
        return work.work(store, study, own, log)
    except work.Stopping:
        raise KeyboardInterrupt from None
    except work.Avoided as avoided:
        raise Refused(f"{avoided}; --retry_failed gives it another chance") from None


def _on_ray(study: Study, store: Store, arguments: argparse.Namespace, log: Callable) -> tuple:
    try:
        from sweeps.dispatch.cluster import Cluster
    except ModuleNotFoundError as error:
        reason = f"--executor=ray needs the extra `cluster`: pip install ray ({error})"
        raise Refused(reason) from None
    words = work.flags(arguments)
    cluster = Cluster(arguments.address, arguments.resources, store.address, words)
    try:
        return driver.follow(store, study, cluster, log)
    finally:
        cluster.close()


def resolve(arguments: argparse.Namespace, overrides: Sequence[str], log: Callable) -> tuple:
    """The study that the command names, and what has changed since its workdir was last used.

    Raises:
      ConfigError, CorpusError, Refused: one line; also when the workdir holds another study.
    """
    cost.rate(arguments.device)  # refuses an unknown device
    store = open_store(str(arguments.workdir))
    sys.path.append(str(sources(store)))  # of whoever began it; ours come first
    named = config.load(arguments.config, overrides, arguments.optimizers)
    named["data"] = resolve_data(named, log)
    workdir = arguments.workdir
    study = Study(named)
    study.check()
    changes = []
    if old := config_of(store):
        if reason := config.incompatible(old, named):
            raise Refused(f"{workdir} holds a different study: {reason}; choose another workdir")
        changes = config.changes(old, named)
    if changes and not (arguments.extend or getattr(arguments, "dry_run", False)):
        raise Refused(
            f"{workdir} holds a different study: {config.other(old, named)}; "
            f"choose another workdir, or see with --dry_run what is new and go on with --extend"
        )
    return study, changes


def resolve_data(named: dict, log: Callable) -> dict:
    """The data section with the fingerprint of its corpus, prepared if it is not yet.

    A fingerprint that the study names is taken as it is; training checks it.
    """
    if named["data"]["fingerprint"]:
        return named["data"]
    from lm.data import corpus

    lengths = {size["sequence_length"] for size in named["sizes"].values()}
    if len(lengths) != 1:
        raise ConfigError(
            f"sizes of one study must share a sequence_length; these have {sorted(lengths)}"
        )
    given = {k: v for k, v in named["data"].items() if v != FIELDS["data"][k].default}
    prepared = corpus.load(given, sequence_length=lengths.pop(), log=log)
    return {**named["data"], "fingerprint": prepared.fingerprint}


def begin(study: Study, store: Store, arguments: argparse.Namespace, log: Callable) -> None:
    """Puts study.json and the sources of own optimizers.

    Unusable results are reported and set aside; attempts at trials of an optimizer of which nothing
    has finished are forgotten, for they may be those of a broken set-up.

    Raises:
      Refused: the study is expected to cost more than its budget.
    """
    ledger, accidents = Ledger(store, study).open(), Accidents(store, study)
    for name, reason in ledger.corrupt.items():
        ledger.discard(name, reason, log)
    outcomes = ledger.outcomes
    budget, rate = study.config["budget"], cost.rate(arguments.device, outcomes.values())
    total = cost.expected(study, outcomes) if any(budget.values()) else cost.Cost()
    if reason := cost.over_budget(total, budget, rate):
        raise Refused(
            f"{reason}, which this study is expected to need; raise the budget, or lower "
            f"rule.max_moves, the grids, the sizes or the ratios"
        )
    accidents.look()
    state = plan(study, outcomes)
    begun = {trial.cell.optimizer for trial, run in outcomes.items() if run.status != "infeasible"}
    broken = [trial for trial in state.pending if trial.cell.optimizer not in begun]
    accidents.forget(state.pending if arguments.retry_failed else broken)
    if arguments.retry_failed:
        forgive(store)
    content = encode(study.config)
    if store.read("study.json") != content or not store.list("workers"):
        store.write("study.json", content)
        uncertify(study, state, store)  # else others may be certifying as we look
    if own := [name for name, entry in study.config["optimizers"].items() if "source" in entry]:
        keep_sources(store, own)  # for workers, and whoever goes on with it
    if outcomes:
        log(f"{len(outcomes)} trials are finished already")


def dry_run(
    study: Study, outcomes: Mapping[Trial, Outcome], device: str, changes: Sequence, log: Callable
) -> None:
    """Prints what the next round and, at most, the whole study would train."""
    for name, old, new in changes:
        log(f"changed: {name}: {old!r} -> {new!r}")
    log("rule: " + " ".join(f"{name}={value}" for name, value in study.config["rule"].items()))
    state, rate = plan(study, outcomes), cost.rate(device, outcomes.values())
    log(
        f"{len(outcomes)} trials of this study are finished; one chip: {rate:.3g} FLOP/s ({device})"
    )
    cells: dict[Cell, list[Trial]] = {}
    for trial in state.pending:
        cells.setdefault(trial.cell, []).append(trial)
    for cell, trials in cells.items():
        log(cost.line(f"  {cell}", cost.of(study, trials), rate))
    log(cost.line("next round", cost.of(study, state.pending), rate))
    expected = cost.expected(study, outcomes)
    log(cost.line("whole study, expected", expected, rate))
    log(cost.line("whole study, at most", cost.bound(study), rate))
    if reason := cost.over_budget(expected, study.config["budget"], rate):
        log(f"would be refused: {reason}, which is expected")


def report(
    study: Study,
    state: Plan,
    outcomes: Mapping[Trial, Outcome],
    failed: Mapping[Trial, str],
    log: Callable,
) -> None:
    """The last lines: what was certified, and what each optimizer's tuning cost.

    Raises:
      Refused: trials failed for good, and hold their cells up.
    """
    for optimizer in study.config["optimizers"]:
        spent = effort([run for trial, run in outcomes.items() if trial.cell[0] == optimizer])
        log(
            f"{optimizer:<10} {spent['trials']:>5,} trials  {spent['tokens']:>9.3g} tokens  "
            f"{spent['flops']:>9.3g} FLOPs  {spent['seconds']:>7.0f} device seconds"
        )
    certified = f"{len(state.repeats)} of {len(study.cells)} cells are certified"
    log(f"{certified}, {len(outcomes)} trials in all")
    for trial, run in outcomes.items():
        if run.status == "infeasible":
            log(f"{trial.cell}: {run.hash} is infeasible: {run.reason}")
    if failed:
        (trial, cause), *_ = failed.items()
        held = len({trial.cell for trial in failed})
        raise Refused(
            f"{len(failed)} trials failed for good and hold {held} cells up; the first: "
            f"{trial.cell}: {cause}; mend the cause and go on with --retry_failed"
        )


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see docs/design.md on LAPACK under XLA
    sys.exit(main())
