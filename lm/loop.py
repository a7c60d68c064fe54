"""The one training loop: an opaque state, batch f(seed, step), numbers looked at one call late."""

from __future__ import annotations

import math
import time

import numpy as np

from lm import flops, records
from lm.batches import Batches
from lm.config import non_embedding_params, total_params
from lm.evaluation import Evaluation


class Loop:
    """Drives a program over its batches; what happens to each member is written as it happens."""

    def __init__(self, make_program, configs, folders, corpus, log):
        self.started = self.clock = time.perf_counter()
        self.compile_seconds = None
        self.program, self.configs, self.log = make_program(configs), configs, log
        train = configs[0]["train"]
        self.steps, self.batch_size = train["steps"], train["batch_size"]
        self.tokens_per_step = self.batch_size * configs[0]["model"]["sequence_length"]
        self.sources = {
            seed: Batches(corpus.train, self.batch_size, seed)
            for seed in {c["train"]["seed"] for c in configs}
        }
        self.evaluation = Evaluation(corpus, configs[0]["eval"]["sequences"])
        points = configs[0]["eval"]["points"]
        self.eval_steps = {max(1, round(self.steps * (i + 1) / points)) for i in range(points)}
        call = self.program.steps_per_call
        self.log_every = configs[0]["log"]["every_steps"] or -(-self.steps // (100 * call)) * call
        self.recorders = [records.Recorder(f, c) for f, c in zip(folders, configs, strict=True)]
        self.active = np.ones(len(configs), bool)
        self.results: list[dict | None] = [None] * len(configs)
        self.last_loss = np.full(len(configs), np.nan)
        self.seconds = np.zeros(len(configs))
        self.first_step, self.last_line, self.last_log = None, 0, 0.0

    def run(self) -> list[dict]:
        state = self.program.init()
        self.optimizer_bytes = self.program.optimizer_bytes(state)
        step, pending = 0, None
        while step < self.steps and self.active.any():
            count = min(self.program.steps_per_call, self.next_event(step) - step)
            state, report = self.program.advance(state, self.read(step, count), self.active)
            step += count
            if pending is not None:
                self.receive(*pending)
            pending = (step, report)
            if step in self.eval_steps:
                self.receive(*pending)
                pending = None
                sums = self.program.evaluate(state, self.evaluation.tokens_EBT, self.active)
                sums = self.program.fetch(sums)
                self.evaluated(step, sums)
        if pending is not None:
            self.receive(*pending)
        return self.results

    def next_event(self, step: int) -> int:
        """The next step after `step` at which a call has to end."""
        line = (step // self.log_every + 1) * self.log_every
        return min([line] + [s for s in self.eval_steps if s > step])

    def read(self, step: int, count: int) -> list[np.ndarray]:
        """Each member's batches of the next steps; runs of one seed share what is read."""
        blocks = {seed: source.block(step, count) for seed, source in self.sources.items()}
        return [blocks[c["train"]["seed"]] for c in self.configs]

    def receive(self, step: int, report) -> None:
        """Takes the numbers of one call: a line of each curve, and the end of whoever diverged."""
        report = self.program.fetch(report)
        self.share_time()
        if step - self.last_line >= self.log_every or step == self.steps:
            self.last_line = step
            for i in np.flatnonzero(self.active):
                line = {"step": step, "tokens": step * self.tokens_per_step}
                line |= {"train_loss": float(report.train_loss[i])}
                line |= {"grad_norm": float(report.grad_norm[i])}
                line |= {name: float(values[i]) for name, values in report.watched.items()}
                self.recorders[i].line(line)
        self.last_loss = np.where(self.active, report.train_loss, self.last_loss)
        for i in np.flatnonzero(self.active & (report.diverged_at >= 0)):
            at = int(report.diverged_at[i])
            self.finish(
                i, "diverged", steps=step, diverged_step=at, reason=f"diverged at step {at}"
            )
        self.progress(step)

    def evaluated(self, step: int, sums: np.ndarray) -> None:
        """Takes an evaluation of all members; the last one makes the results."""
        self.share_time()
        for i in np.flatnonzero(self.active):
            values = self.evaluation.summarise(*map(float, sums[i]))
            line = {"step": step, "tokens": step * self.tokens_per_step, **values}
            self.recorders[i].line(line)
            if step < self.steps:
                continue
            if math.isfinite(values["validation_loss"]):
                loss, bits = values["validation_loss"], values["bits_per_byte"]
                self.finish(i, "finished", steps=step, loss=loss, bits_per_byte=bits)
            else:
                reason = "validation loss is not finite"
                self.finish(i, "diverged", steps=step, diverged_step=step, reason=reason)

    def finish(self, i: int, status: str, *, steps: int, **values) -> None:
        config = self.configs[i]
        blank = {"loss": None, "bits_per_byte": None, "reason": None, "diverged_step": None}
        result = {
            "status": status,
            **blank,
            **values,
            "train_loss": float(self.last_loss[i]),
            "steps": steps,
            "tokens": steps * self.tokens_per_step,
            "non_embedding_params": non_embedding_params(config["model"]),
            "total_params": total_params(config["model"]),
            "optimizer_bytes": self.optimizer_bytes,
            "flops": flops.training_flops(config) * steps / self.steps,
            "seconds": round(float(self.seconds[i]), 4),
            "compile_seconds": round((self.compile_seconds or 0.0) / len(self.configs), 4),
            "device": self.program.device_kind,
            "device_count": self.program.device_count,
        }
        self.results[i] = self.recorders[i].finish(result)
        self.active[i] = False

    def share_time(self) -> None:
        """Shares the time since the last call among the active members; the first call's is
        compilation.
        """
        now = time.perf_counter()
        if self.compile_seconds is None:
            self.compile_seconds, self.compiled = now - self.clock, now
        else:
            self.seconds[self.active] += (now - self.clock) / max(1, self.active.sum())
        self.clock = now

    def progress(self, step: int) -> None:
        now = time.perf_counter()
        if self.first_step is None:  # the first call compiled: its pace says nothing
            self.first_step = step
        elif now - self.last_log >= 2.0 or step == self.steps:
            self.last_log = now
            pace = (now - self.compiled) / (step - self.first_step)  # seconds a step
            rate = self.tokens_per_step * self.active.sum() / pace
            alive = self.last_loss[self.active]
            losses = f"{alive.min():.3f}" if alive.size else "diverged"
            if alive.size > 1:
                losses += f"..{alive.max():.3f}"
            runs = f"{len(self.configs)} runs  " if len(self.configs) > 1 else ""
            self.log(
                f"{runs}step {step}/{self.steps} {step / self.steps:4.0%}  loss {losses}  "
                f"{rate:,.0f} tokens/s  ETA {pace * (self.steps - step):.0f} s"
            )
