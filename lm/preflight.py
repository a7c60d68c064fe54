"""A pod launch checked without a pod: the exact step, compiled by the TPU's compiler on any
machine.

    python -m lm.preflight --config=configs/run.py:1.2b,8x,soap --topology=v5e:16x16

needs the extra `tpu` in an environment of its own (`make preflight RUN=1.2b,8x,soap
TOPOLOGY=v5e:16x16` makes one): an installed libtpu changes how JAX starts. No TPU is touched.
`--tune` tries other ways to run it and prints the fastest that fits as flags; `--pack=16` compiles
a pack of runs; `--topology=2*v5e:16x16` is two slices.
docs/preflight.md holds the answers for every published size and optimizer; `--all` makes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lm import command
from lm.config import ConfigError
from lm.config_file import load_run
from lm.pods import environment


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("lm.preflight", __doc__)
    parser.add_argument("--config", help="configs/run.py:SIZE,RATIO,OPTIMIZER")
    parser.add_argument(
        "--topology", default="v5e:16x16", help="as v5e:16x16, v5p:4x4x4, h100:8, h100:16x8"
    )
    parser.add_argument("--pack", metavar="N", type=int, default=0, help="N runs trained at once")
    parser.add_argument(
        "--tune", action="store_true", help="try ways to run it; print the fastest that fits"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--all", metavar="FILE.csv", type=Path, help="make the table of all runs")
    arguments, overrides = parser.parse_known_args(argv)
    environment.set_up()  # read when JAX and libtpu are imported
    if arguments.all:
        from lm.pods import table

        return table.make(arguments.all)
    return command.guarded(lambda: run(arguments, overrides), interrupted="nothing was written")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """The command with its arguments parsed; returns the exit code, 1 for what does not fit."""
    if not arguments.config:
        raise ConfigError("--config is missing, as in --config=configs/run.py:520m,2x,soap")
    if arguments.pack < 0 or (arguments.pack and arguments.tune):
        raise ConfigError(f"--pack={arguments.pack} is a number of runs, 1 or more, without --tune")
    from lm.pods import flight, report, tune

    config, name = load_run(arguments.config, overrides), arguments.config.partition(":")[2]
    way = {}
    try:
        if arguments.tune:
            way, found = tune.tune(config, arguments.topology, name)
        else:
            found = flight.check(config, arguments.topology, name, members=arguments.pack)
    except flight.TooLarge as error:
        print(f"{arguments.config} on {arguments.topology}: DOES NOT FIT: {error}\n{report.TO_FIT}")
        return 1
    config = tune.applied(config, way)
    text = report.report(found, config["program"]["remat"], tune.flags(way))
    print(json.dumps(found._asdict()) if arguments.json else text)
    return 0 if found.fits else 1


if __name__ == "__main__":
    sys.exit(main())
