"""The line that says how training goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lm.model import flops

if TYPE_CHECKING:  # `duration` is for programs without JAX too
    from lm.run.program import Program

EVERY_SECONDS = 2.0


class Progress:
    """At most a line every two seconds, and one at the end; only the first host speaks.

    Step, share done, loss (its range over a pack), for a single run learning rate and gradient
    norm, then milliseconds a step, tokens per second, model FLOP utilisation where the device's
    peak is known, and the time to go.
    """

    def __init__(self, program: Program, step: int, log: Callable):
        self.log = log if program.host[0] == 0 else lambda line: None
        config = program.configs[0]
        self.steps, self.count = config["train"]["steps"], len(program.configs)
        model = config["model"]
        self.tokens = config["train"]["batch_size"] * model["sequence_length"]
        self.flops = 3 * flops.forward_flops_per_token(model)
        peak = flops.peak_flops(program.device_kind)
        self.peak = peak and peak * program.device_count
        self.first, self.begun, self.shown = step, time.perf_counter(), 0.0

    def begin(self, step: int, now: float) -> None:
        """The first call is over: it compiled, its pace says nothing."""
        self.first, self.begun, self.shown = step, now, now

    def show(self, step: int, report, active: np.ndarray) -> None:
        """A line for the call that ended at `step`, if it is time for one."""
        now = time.perf_counter()
        if step == self.first or (now - self.shown < EVERY_SECONDS and step < self.steps):
            return
        self.shown = now
        pace = (now - self.begun) / (step - self.first)
        rate = self.tokens * max(1, active.sum()) / pace
        alive = report.train_loss[active]
        losses = f"{alive.min():.4f}" if alive.size else "diverged"
        parts = [f"step {step}/{self.steps} {step / self.steps:4.0%}"]
        if self.count > 1:
            parts.insert(0, f"{self.count} runs")
            losses += f"..{alive.max():.4f}" if alive.size > 1 else ""
        parts.append(f"loss {losses}")
        if self.count == 1:
            if "learning_rate" in report.watched:  # what an own optimizer's state may not hold
                parts.append(f"lr {report.watched['learning_rate'][0]:.3g}")
            parts.append(f"grad {report.watched['grad_norm'][0]:.3g}")
        if (kept := report.watched.get("kept", np.zeros(1))).any():
            parts.append(f"kept {kept.max():.0f} bases")  # whose successors were not finite
        parts.append(f"{1000 * pace:,.1f} ms/step  {rate:,.0f} tokens/s")
        if self.peak:
            parts.append(f"MFU {rate * self.flops / self.peak:.1%}")
        parts.append(f"ETA {duration(pace * (self.steps - step))}")
        self.log("  ".join(parts))


def duration(seconds: float | None) -> str:
    """'42 s', '3m20s', '5h07m', '4 days'; '?' where it is not known."""
    if seconds is None:
        return "?"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds / 86400:.0f} days"
