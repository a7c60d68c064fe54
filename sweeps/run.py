"""Runs a study, or goes on with one.

    python -m sweeps.run --config=configs/study.py:nano --workdir=runs/nano
    python -m sweeps.run --config=configs/study.py:nano --workdir=runs/nano --dry_run

Kill it at any time and start it again: finished trials are kept, the rest is planned anew.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lm import command, storage
from lm.config import FIELDS, ConfigError
from lm.storage import write_json
from sweeps.dispatch import ledger, resources
from sweeps.dispatch.driver import Driver, Refused, lock, read_study
from sweeps.dispatch.executor import Executor
from sweeps.dispatch.local import TRAINER, Inline, Workers
from sweeps.plan import config, cost
from sweeps.plan.certificates import effort
from sweeps.plan.phases import Plan, plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(prog="python -m sweeps.run", allow_abbrev=False)
    out.add_argument(
        "--config", required=True, help="configs/study.py:NAME; --config.a.b=value overrides"
    )
    out.add_argument("--workdir", required=True, type=storage.folder)
    out.add_argument(
        "--dry_run", action="store_true", help="print the plan and its cost, train nothing"
    )
    out.add_argument(
        "--extend", action="store_true", help="let a changed study go on in its workdir"
    )
    out.add_argument(
        "--retry_failed", action="store_true", help="train trials that failed once more"
    )
    out.add_argument("--workers", type=int, default=0, help="worker processes; 0: this process")
    out.add_argument("--executor", choices=("local", "ray"), default="local", help="docs/launch.md")
    out.add_argument("--address", default="auto", help="of the Ray cluster")
    out.add_argument("--resources", default="CPU=1", help="of a pack on Ray: GPU=1, slice=v5e-4x4")
    out.add_argument(
        "--timeout", type=float, default=0.0, help="seconds a pack may take; 0: no limit"
    )
    known = ", ".join([cost.HERE, *cost.DEVICES])
    out.add_argument("--device", default=cost.HERE, help=f"for costs in chip-hours: {known}")
    out.add_argument("--trainer", default=TRAINER, help=argparse.SUPPRESS)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    arguments, overrides = parser().parse_known_args(argv)
    return command.guarded(
        lambda: run(arguments, overrides),
        Refused,
        interrupted="run the same command again to go on",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str], log: Callable = print) -> int:
    """The command with its arguments parsed; returns the exit code."""
    cost.rate(arguments.device)  # refuses an unknown device
    study, changes = resolve(arguments, overrides, log)
    workdir, named = arguments.workdir, study.config
    if arguments.dry_run:
        dry_run(study, ledger.load(workdir, study).outcomes, arguments.device, changes, log)
        return 0
    with lock(workdir):
        found = load(workdir, study, arguments.retry_failed, log)
        if reason := over_budget(study, found.outcomes, arguments.device):
            raise Refused(reason)
        write_json(workdir / "study.json", named)
        executor = make_executor(arguments, workdir, log)
        driver = Driver(
            study,
            workdir,
            executor,
            found,
            log=log,
            workers=executor.capacity(),
            timeout=arguments.timeout or float("inf"),
            **named["pack"],
        )
        state = driver.run()
    report(study, state, driver, log)
    return 0


def resolve(arguments: argparse.Namespace, overrides: Sequence[str], log: Callable) -> tuple:
    """The race that the command names, and what has changed since its workdir was last used.

    Raises:
      ConfigError, CorpusError, Refused: one line; also when the workdir holds another study.
    """
    named = config.load(arguments.config, overrides)
    named["data"] = resolve_data(named, log)
    workdir = arguments.workdir
    study = Study(named)
    study.check()
    before = read_study(workdir)
    if before is not None and (reason := config.incompatible(before, named)):
        raise Refused(f"{workdir} holds a different study: {reason}; choose another workdir")
    changes = list(config.differences(before, named)) if before is not None else []
    if changes and not (arguments.extend or getattr(arguments, "dry_run", False)):
        name, old, new = changes[0]
        raise Refused(
            f"{workdir} holds a different study: {name} is {old!r} there and {new!r} here; "
            f"choose another workdir, or see with --dry_run what is new and go on with --extend"
        )
    return study, changes


def resolve_data(named: dict, log: Callable) -> dict:
    """The data section with the fingerprint of its corpus, prepared if it is not yet.

    A fingerprint that the study names is taken as it is; training checks it.
    """
    if named["data"].get("fingerprint"):
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


def load(workdir: Path, study: Study, retry_failed: bool, log: Callable) -> ledger.Ledger:
    """The workdir's ledger; unusable results are reported and set aside."""
    found = ledger.load(workdir, study)
    for path, reason in found.corrupt.items():
        log(f"{path}/result.json is unusable and its trial runs again: {reason}")
        ledger.discard(path)
    if retry_failed:
        for trial, outcome in list(found.outcomes.items()):
            if outcome.status == "failed":
                ledger.discard(ledger.folder(workdir, outcome.hash))
                del found.outcomes[trial]
    if found.outcomes:
        log(f"{len(found.outcomes)} trials are finished already")
    return found


def make_executor(arguments: argparse.Namespace, workdir: Path, log: Callable) -> Executor:
    if arguments.executor == "ray":
        try:
            from sweeps.dispatch.cluster import Ray
        except ModuleNotFoundError as error:
            reason = f"--executor=ray needs the extra `cluster`: pip install ray ({error})"
            raise Refused(reason) from None
        try:
            need = resources.parse(arguments.resources)
            names = {"workdir": workdir, "trainer": arguments.trainer}
            return Ray(arguments.address, need, **names, log=log)
        except (ConnectionError, ValueError) as error:
            raise Refused(str(error)) from None
    if arguments.workers:
        return Workers(arguments.workers, trainer=arguments.trainer, log_folder=workdir / "logs")
    return Inline(trainer=arguments.trainer, log=log)


def dry_run(
    study: Study, outcomes: Mapping[Trial, Outcome], device: str, changes: Sequence, log: Callable
) -> None:
    """Prints what the next round and, at most, the whole study would train."""
    for name, old, new in changes:
        log(f"changed: {name}: {old!r} -> {new!r}")
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
    log(cost.line("whole study, at most", cost.bound(study), rate))
    if reason := over_budget(study, outcomes, device):
        log(f"would be refused: {reason}")


def over_budget(study: Study, outcomes: Mapping[Trial, Outcome], device: str) -> str | None:
    budget, rate = study.config["budget"], cost.rate(device, outcomes.values())
    return cost.over_budget(cost.bound(study), budget, rate) if any(budget.values()) else None


def report(study: Study, state: Plan, driver: Driver, log: Callable) -> None:
    """The last lines: what was certified, and what each optimizer's tuning cost."""
    for optimizer in study.config["optimizers"]:
        runs = [run for trial, run in driver.outcomes.items() if trial.cell.optimizer == optimizer]
        spent = effort(runs)
        log(
            f"{optimizer:<10} {spent['trials']:>5,} trials  {spent['tokens']:>9.3g} tokens  "
            f"{spent['flops']:>9.3g} FLOPs  {spent['seconds']:>7.0f} device seconds"
        )
    certified, total = len(state.repeats), len(driver.outcomes)
    log(f"{certified} of {len(study.cells)} cells are certified, {total} trials in all")
    if driver.failures:
        log(f"{len(driver.failures)} trials failed, the first: {driver.failures[0]}")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see docs/design.md on LAPACK under XLA
    sys.exit(main())
