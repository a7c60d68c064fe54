"""Races an optimizer against a rival within a time, and says what can be said of the two.

    python -m sweeps.challenge my_opt:my_sgd --against=muon --size=nano-s --hours=1 --dry_run
    python -m sweeps.challenge my_opt:my_sgd --against=muon --size=nano-s --hours=1
    python -m sweeps.challenge my_opt:my_sgd --against=muon --extend=runs/nano    a race joined

First the optimizer's own properties (`optim.check`), then the smallest budget with one seed, whose
speed tells which budgets and how many seeds the time holds; then the race. The plan, the seeds, the
effort and the certificates are those of every race, and a command that is killed goes on when it is
given again. The verdict is read from the report's table of numbers. Each step is a command of ours,
printed before it runs.
"""

from __future__ import annotations

import argparse
import csv
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from lm import command, storage
from lm.config import ConfigError
from lm.run.progress import duration
from lm.storage import open_store
from sweeps.dispatch.begun import Refused, begun, config_of
from sweeps.dispatch.ledger import Ledger
from sweeps.plan import config, cost
from sweeps.plan.design import Design, Speed, designs, left
from sweeps.plan.study import Study

RACES = Path(__file__).parents[1] / "configs" / "challenge.py"


def parser() -> argparse.ArgumentParser:
    out = command.parser("sweeps.challenge", __doc__)
    add = out.add_argument
    add("optimizer", help="the challenger: an import path, my_opt:my_sgd, or any name")
    add("--against", default="adamw", help="the rival (default: adamw)")
    add("--size", default="nano-s", help="of configs/ladder.py, nano-xs to micro-l")
    add("--ratios", default="1x,2x,4x,8x", help="budgets wanted, in 20 tokens a parameter")
    add("--hours", type=_hours, default=1.0, help="that it may take (default: 1)")
    add("--seeds", type=_seeds, default=0, help="so many, instead of what the time holds")
    add("--extend", type=storage.folder, help="join the race in this folder, at all its cells")
    add("--workdir", type=storage.folder, help="default: runs/OPTIMIZER-against-RIVAL-SIZE")
    add("--workers", type=int, default=0, help="worker processes, as of sweeps.run")
    add("--device", default="cpu-core", help=f"before it is measured: {', '.join(cost.DEVICES)}")
    add("--force", action="store_true", help="race although a property fails")
    add("--dry_run", action="store_true", help="say what would be raced; start nothing")
    add("--trainer", help=argparse.SUPPRESS)
    return out


def _hours(text: str) -> float:
    if not (hours := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a time")
    return hours


def _seeds(text: str) -> int:
    if (seeds := int(text)) < 3:
        raise argparse.ArgumentTypeError(f"{text}: one seed is tuned on, two or more must be fresh")
    return seeds


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    return command.guarded(
        lambda: run(arguments), Refused, interrupted="run the same command again to go on"
    )


def run(arguments: argparse.Namespace) -> int:
    """The command with its arguments parsed; returns the exit code."""
    names = arguments.optimizer, arguments.against
    if names[0] == names[1]:
        raise ConfigError(f"--against={names[1]} is the challenger itself")
    workdir = arguments.extend or arguments.workdir or _folder(arguments)
    duel = Duel(arguments, workdir)
    if arguments.extend and duel.held is None:
        raise Refused(f"--extend={workdir} holds no study")
    duel.named(duel.smallest._replace(seeds=3))  # a wrong name or size is told before anything runs
    from optim.catalogue import is_plugin

    if is_plugin(names[0]) and not arguments.dry_run:
        _check(names[0], arguments.force)
    if duel.held is None and len(duel.designs()) > 1 and not arguments.dry_run:
        duel.measure()
    chosen = duel.design()
    if arguments.dry_run:
        return 0
    duel.run(chosen)
    out = workdir / "report"
    _do(["analysis.report", str(workdir), f"--baseline={names[1]}", f"--out={out}"], quiet=True)
    with open(out / "numbers.csv", newline="") as file:
        for line in verdict(csv.DictReader(file), *names):
            print(line)
    print(f"report: {out / 'index.html'}")
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    words = f"{arguments.optimizer}-against-{arguments.against}-{arguments.size}"
    return Path("runs") / words.replace(":", ".")


def _check(optimizer: str, force: bool) -> None:
    """Raises Refused where a property fails and nobody insists."""
    failed = _do(["optim.check", optimizer], allowed=range(1, 100))
    if failed == 2 and not force:
        raise Refused(f"{optimizer} cannot be checked")
    if failed and not force:
        raise Refused(f"{failed} of its properties fail; mend them, or race it so with --force")


def _do(words: Sequence[str], *, quiet: bool = False, allowed: Iterable[int] = ()) -> int:
    """Runs a command of ours, shown as one would type it.

    Raises:
      Refused: it failed, and has said why.
    """
    print(f"$ python -m {shlex.join(words)}", flush=True)
    said = subprocess.PIPE if quiet else None
    done = subprocess.run([sys.executable, "-m", *words], stdout=said)
    if done.returncode and done.returncode not in allowed:
        raise Refused(f"{words[0]} ended with code {done.returncode}")
    return done.returncode


class Duel:
    """The race that a command asks for."""

    def __init__(self, arguments: argparse.Namespace, workdir: Path):
        self.given, self.workdir, self.began = arguments, workdir, time.monotonic()
        self.workers = max(1, arguments.workers)
        self.smallest = Design((arguments.ratios.split(",")[0],), 1)
        sys.path.append(str(workdir / "optimizers"))  # of whoever began the race
        self.look()
        runs = self.done.values()
        self.speed = Speed(cost.rate(cost.HERE if runs else arguments.device, runs))

    def look(self) -> None:
        """Takes in what the workdir holds: its study, and the trials that are over."""
        store = open_store(str(self.workdir))
        self.held = begun(store) if config_of(store) else None
        self.done = Ledger(store, self.held).open().outcomes if self.held else {}

    def words(self, design: Design) -> list[str]:
        """The flags of `sweeps.run` that say which race."""
        names = [self.given.against, self.given.optimizer]
        seeds = f"--config.seeds={list(range(design.seeds))}"
        if self.given.extend:
            spec = [f"--config={RACES}:{self.workdir}", *[seeds] * bool(self.given.seeds)]
        else:
            spec = [f"--config={RACES}:{','.join([self.given.size, *design.ratios])}", seeds]
            spec.append(f"--config.baseline={names[0]}")
        return [*spec, f"--optimizers={','.join(names)}"]

    def named(self, design: Design) -> Study:
        """Raises ConfigError, one line, for what cannot be raced."""
        spec, *overrides, optimizers = self.words(design)
        names = optimizers.removeprefix("--optimizers=").split(",")
        named = config.load(spec.removeprefix("--config="), overrides, names)
        named["data"]["fingerprint"] = named["data"]["fingerprint"] or "any"  # costs the same
        study = Study(named)
        study.check()
        return study

    def run(self, design: Design) -> None:
        """Races this design to its certificates; takes the speed from its first programs."""
        given, before = self.given, set(self.done)
        more = [f"--workdir={self.workdir}", "--extend", f"--workers={given.workers}"]
        more += [f"--trainer={given.trainer}"] * bool(given.trainer)
        began = time.monotonic()
        _do(["sweeps.run", *self.words(design), *more])
        wall = (time.monotonic() - began) * self.workers
        self.look()
        new = {trial: run for trial, run in self.done.items() if trial not in before}
        if trained := sum(run.seconds for run in new.values()):
            programs = cost.of(self.held, new).programs
            rate = cost.rate(cost.HERE, new.values())
            self.speed = Speed(rate, (wall - trained) / programs, "measured")

    def measure(self) -> None:
        """Races the smallest budget with one seed, a part of every design, for its speed.

        Raises:
          Refused: on the device that is named that alone takes longer than there is time.
        """
        (ratio,), _ = self.smallest
        needed = left(self.named(self.smallest), self.done)
        hours = self.speed.hours(needed, self.workers)
        if hours > self.given.hours:
            raise Refused(
                f"--hours={self.given.hours:g} is too short: {ratio} with one seed alone "
                f"takes about {duration(3600 * hours)} on --device={self.given.device}"
            )
        print(f"measuring: {ratio} with one seed, which is part of the race")
        self.run(self.smallest)

    def designs(self) -> list[Design]:
        """What may be raced, the best first; a race that has begun keeps its own."""
        given, held = self.given, self.held.config if self.held else {"seeds": []}
        if given.extend or len(held["seeds"]) > 1:
            ratios = tuple(f"{ratio:g}x" for ratio in held["ratios"])
            return [Design(ratios, given.seeds or len(held["seeds"]))]
        return designs(given.ratios.split(","), given.seeds)

    def design(self) -> Design:
        """The first design that the time holds; prints what it takes, and how that is known.

        Raises:
          Refused: not even the smallest race fits.
        """
        time_left = self.given.hours - (time.monotonic() - self.began) / 3600
        for design in self.designs():
            study = self.named(design)
            needed = left(study, self.done)
            hours = self.speed.hours(needed, self.workers)
            if hours <= time_left:
                break
        else:
            raise Refused(
                f"--hours={self.given.hours:g} is too short: {duration(3600 * hours)} more are "
                f"expected, for {needed.trials:,} trials"
            )
        settings = dict.fromkeys(cell[1:] for cell in study.cells)
        cells = ", ".join(f"{size} {ratio:g}x" for size, ratio in settings)
        print(f"the race: {' against '.join(study.config['optimizers'])} at {cells}")
        print(
            f"  {design.seeds} seeds, {needed.trials:,} trials to train, {needed.programs} "
            f"programs: about {duration(3600 * hours)} of {duration(3600 * time_left)} left, by "
            f"{self.speed.rate:.2g} FLOP/s and {self.speed.compiling:.0f} s a program, "
            f"{self.speed.known}"
        )
        return design


def verdict(numbers: Iterable[dict], name: str, rival: str) -> list[str]:
    """What the report's numbers say of the two, a line for each cell; see `analysis.estimates`."""
    cells: dict[tuple, dict] = {}
    doubts = []
    for row in numbers:
        if row["table"] == "gap" and row["optimizer"] == name:
            cell = row["model_size"], float(row["chinchilla_ratio"])
            cells.setdefault(cell, {})[row["quantity"]] = row
        elif row["table"] == "doubt":
            doubts.append(row["note"])
    lines = []
    for (size, ratio), found in sorted(cells.items()):
        gap, where = found["nats"], f"{size} {ratio:g}x"
        below = float(gap["value"])
        side = "below" if below >= 0 else "above"
        line = f"{where}: {name} is {abs(below):.4f} nats {side} {rival}"
        if gap["low"]:
            ends = sorted(math.copysign(1, below) * float(gap[end]) for end in ("low", "high"))
            line += f" ({ends[0]:.4f} to {ends[1]:.4f}): {gap['note']}"
        if "detectable" in found:
            line += f"; {float(found['detectable']['value']):.4f} would have been found"
        if gap["note"] == "not resolvable" and "seeds_to_settle" in found:
            needed = math.ceil(float(found["seeds_to_settle"]["value"]))
            line += f"; {needed} fresh seeds would settle it (--seeds={needed + 1})"
        elif gap["note"] == "not resolvable":
            line += "; no more seeds of these cells would settle it"
        lines.append(line)
    if not lines:
        lines = [f"no cell of {name} and {rival} can be compared"]
    return ["", *lines, *(f"doubt: {doubt}" for doubt in doubts)]


if __name__ == "__main__":
    sys.exit(main())
