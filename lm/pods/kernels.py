"""Cycles of the attention kernels, counted in the bundles that the TPU's compiler writes for them.

    python -m lm.pods.kernels --topology=v5e:2x2

in the environment of `make preflight` compiles the kernels alone, counts, and prints the rows of
`BUNDLES` to write here. A kernel's loop runs over heads and pairs of tiles; its final code, one
bundle a cycle, falls into parts by the compiler's marks: the work on a pair of tiles, done where
the causal mask leaves something; the end of a row of tiles; and what every turn of the loop costs.
Waiting is not counted.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lm.pods import environment


class Bundles(NamedTuple):
    """Bundles of one kernel on 64 wide heads in tiles of 1,024, positions minor."""

    work: int  # of a pair of tiles
    row: int  # at the end of a row of tiles
    turn: int  # of every turn of the loop


# jax 0.10.2, libtpu 0.0.42.1, `attention._tiles`; for other tiles nothing is known.
TILE, WIDTH = 1024, 64
BUNDLES = {
    "TPU v5 lite": {
        "fwd": Bundles(4567, 1007, 640),
        "dq": Bundles(5838, 266, 387),
        "dkv": Bundles(7506, 522, 511),
    },
}
KERNEL = re.compile(
    r"%splash_mha_(?P<kind>fwd|dq|dkv)\w*[.\d]* = .*?bf16\[(?P<dims>[\d,]+)\].*custom-call\("
    r".*?s8\[1,(?P<queries>\d+),(?P<keys>\d+)\]"
)


def cycles(line: str, device_kind: str) -> int | None:
    """Of one call of a kernel in the HLO; 0 of any other line, None where it was never counted."""
    call = KERNEL.search(line)
    if not call:
        return 0
    *batch, T, K = map(int, call["dims"].split(","))
    queries, keys = int(call["queries"]), int(call["keys"])
    if (T // queries, T // keys, K) != (TILE, TILE, WIDTH) or device_kind not in BUNDLES:
        return None
    work, row, turn = BUNDLES[device_kind][call["kind"]]
    pairs = queries * (queries + 1) // 2  # on and below the diagonal
    return math.prod(batch) * (pairs * work + queries * row + queries * keys * turn)


MARK = re.compile(r"^ *(?P<at>0x[0-9a-f]+|\d+) +(?P<mark>[A-Z]{2})?:")


def sections(lines: Iterable[str]) -> Bundles:
    """The parts of a kernel's final bundles; the longest is the work, a long one after it the row's
    end.
    """
    marks, last = [], 0
    for line in lines:
        if match := MARK.match(line):
            last = int(match["at"], 0)
            if match["mark"] in ("LB", "PF"):  # a loop's body, the code behind a branch
                marks.append(last)
    lengths = [b - a for a, b in zip(marks, [*marks[1:], last], strict=True)]
    at = lengths.index(max(lengths))
    row = lengths[at + 1] if lengths[at + 1] > 200 else 0
    return Bundles(lengths[at], row, sum(lengths) - lengths[at] - row)


def count(topology: str) -> dict[str, Bundles]:
    """Compiles the kernels in a process of its own, which dumps all that its compiler writes."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        command = [sys.executable, "-m", "lm.pods.kernels", "--compile", f"--topology={topology}"]
        subprocess.run(command, check=True, env=os.environ | {"LIBTPU_INIT_ARGS": flags})
        found = {}
        for path in Path(folder).glob("*splash_mha_*[0-9]-final_bundles.txt"):
            with open(path) as lines:
                found[re.search("mha_(fwd|dq|dkv)", path.name)[1]] = sections(lines)
    return found


def compile_alone(topology: str) -> None:
    """Forward and backward of attention over 4,096 positions of four heads."""
    import jax
    import jax.numpy as jnp

    from lm.model.attention import _splash_local
    from lm.pods.devices import devices_of

    place = jax.sharding.SingleDeviceSharding(devices_of(topology)[0])
    x_BTHK = jax.ShapeDtypeStruct((1, 4 * TILE, 4, WIDTH), jnp.bfloat16, sharding=place)
    segment_BT = jax.ShapeDtypeStruct((1, 4 * TILE), jnp.int32, sharding=place)

    def total(q, k, v, segment):
        return jnp.sum(_splash_local(q, k, v, segment).astype(jnp.float32))

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    gradient.lower(x_BTHK, x_BTHK, x_BTHK, segment_BT).compile()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lm.pods.kernels", allow_abbrev=False)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    environment.set_up()
    if arguments.compile:
        compile_alone(arguments.topology)
        return 0
    for kind, bundles in sorted(count(arguments.topology).items()):
        print(f'"{kind}": {bundles}'.replace("work=", "").replace("row=", "").replace("turn=", ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
