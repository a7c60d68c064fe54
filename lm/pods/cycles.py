"""Time by the TPU's compiler: the cycles that it expects of every operation, summed through loops.

XLA's TPU compiler writes `estimated_cycles` beside each fusion, copy and convolution. Attention's
kernels are not among them; their bundles are counted in `lm.pods.kernels`. Collectives and waiting
for memory are in neither. Elementwise work on narrow arrays looks dearer than it is: compare two
programs with it, do not quote it as a measurement.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lm.model import flops
from lm.pods import hlo, kernels

# Hz: peak FLOP/s over the FLOPs that all matrix units of a core finish in a cycle, cores together.
CLOCKS = {"TPU v4": 1.05e9, "TPU v5 lite": 1.5e9, "TPU v5": 1.75e9, "TPU v6 lite": 1.75e9}
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# The outermost scope decides: what an optimizer computes of the model is the optimizer's.
PART = re.compile(r"\b(update|loss|attention|mlp)\b")
NAMES = {"update": "optimizer", "loss": "loss", "attention": "attention", "mlp": "MLP"}
KERNELS, REST = "attention kernels", "rest"
FAR = 4.0  # times the peak rate's, beyond which a part is worth a look


class Estimate(NamedTuple):
    """Milliseconds a step, collectives and waiting for memory not in them."""

    parts: dict[str, float]  # by part, in a step that refreshes no preconditioner
    refresh: float  # all parts together, in a step that refreshes every one
    notes: list[str]  # what could not be counted; parts far from their roofline


def estimate(text: str, device_kind: str) -> Estimate:
    """What the compiler expects of a step on a kind of device; no parts where its clock is unknown.

    A note names a part that takes more than `FAR` times what its matrix products would at the peak
    rate, and at least a tenth of the step.
    """
    clock = flops.by_kind(CLOCKS, device_kind)
    if clock is None:
        return Estimate({}, 0.0, [f"no clock is known of {device_kind}"])
    uncounted = False

    def cost(_, lines):
        nonlocal uncounted
        for line in lines:
            if found := CYCLES.search(line):
                yield _part(line), int(found[1])
            elif "tpu_custom_call" in line:
                of_kernel = kernels.cycles(line, device_kind)
                uncounted |= of_kernel is None
                yield KERNELS, of_kernel or 0

    least, most = hlo.amounts(text, cost)
    order = (KERNELS, *NAMES.values(), REST)
    parts = {part: 1e3 * least[part] / clock for part in order if part in least}
    notes = [f"attention's kernels were never counted on {device_kind}"] if uncounted else []
    rate, total = flops.peak_flops(device_kind) / 1e3, sum(parts.values())
    for part, made in hlo.products(text, by=_part).least.items():
        ms, ideal = parts[part], made / rate
        if ms > FAR * ideal and ms > 0.1 * total and part != REST:
            notes.append(f"{part} takes {ms / ideal:.1f} times its products at the peak rate")
    return Estimate(parts, 1e3 * sum(most.values()) / clock, notes)


def _part(line: str) -> str:
    name = hlo.OP_NAME.search(line)
    scope = PART.search(name[1]) if name else None
    return NAMES[scope[1]] if scope else REST
