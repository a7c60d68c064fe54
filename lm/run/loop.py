"""The one training loop: an opaque state, batch f(seed, step), numbers looked at one call late."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from lm import storage
from lm.config import non_embedding_params, total_params
from lm.data.batches import Batches
from lm.data.corpus import Corpus
from lm.model import flops
from lm.run import records
from lm.run.checkpoints import Checkpoints
from lm.run.evaluation import Evaluation
from lm.run.program import Program, check_memory
from lm.run.progress import Progress
from lm.run.stopping import Lost, Stopped, Termination, Watchdog, stop_agreed
from lm.run.trackers import Trackers


class Loop:
    """Drives a program over its batches; what happens to each member is written as it happens."""

    def __init__(
        self,
        program: Program,
        folders: Sequence[str | Path],
        corpus: Corpus,
        log: Callable[[str], None],
        termination: Termination | None = None,
        right: records.Right | None = None,
    ):
        """Begins the runs' folders, or goes on from the newest checkpoint that all of them have.

        Args:
          folders: one folder per member of the program.
          log: called with one line at a time.
          termination: asked after every call whether to save and stop.
          right: hears of every look at the numbers, and puts the results.
        """
        self.clock = time.perf_counter()
        self.compile_seconds: float | None = None
        self.program, self.log, self.termination = program, log, termination
        self.right = right
        self.configs = configs = program.configs
        first, train = configs[0], configs[0]["train"]
        self.steps = train["steps"]
        self.tokens_per_step = train["batch_size"] * first["model"]["sequence_length"]
        self.sources = {
            seed: Batches(corpus.train, train["batch_size"], seed).host_slice(*program.host)
            for seed in {c["train"]["seed"] for c in configs}
        }
        sequences, points = first["eval"]["sequences"], first["eval"]["points"]
        self.evaluations = {
            name: Evaluation(source, corpus.token_bytes, sequences, **program.rows)
            for name, source in corpus.validation.items()
        }
        call = program.steps_per_call
        self.eval_steps = {max(1, round(self.steps * (i + 1) / points)) for i in range(points)}
        self.log_every = first["log"]["every_steps"] or -(-self.steps // (1000 * call)) * call
        folders = [storage.at(folder) for folder in folders]
        if program.host[0] == 0:
            for folder, config in zip(folders, configs, strict=True):
                records.begin(folder, config)
        self.checkpoints = Checkpoints(folders, first["checkpoint"], log)
        self.step, self.state = self.start()
        self.recorders = [
            records.Recorder(
                folder, config, resume_at=self.step, silent=program.host[0] > 0, right=right
            )
            for folder, config in zip(folders, configs, strict=True)
        ]
        self.seconds = np.array([recorder.seconds for recorder in self.recorders])
        self.trackers = Trackers(first, folders[0], first_host=program.host[0] == 0)
        self.optimizer_bytes = program.optimizer_bytes(self.state)
        self.progress = Progress(program, self.step, log)
        patience = first["checkpoint"]["patience_seconds"]
        self.watchdog = Watchdog(patience, log) if program.host[1] > 1 else None
        self.active = np.ones(len(configs), bool)
        self.results: list[dict | None] = [None] * len(configs)
        self.last_loss = np.full(len(configs), np.nan)
        self.kept: np.ndarray | None = None  # of each run, where its optimizer counts that

    def start(self) -> tuple[int, object]:
        """(step, state) of the newest checkpoint, or of a fresh start."""
        restored = self.checkpoints.restore(self.program.abstract_members, before=self.steps)
        if restored is None:
            check_memory(self.program)
            return 0, self.program.init()
        step, members = restored
        self.log(f"going on from the checkpoint at step {step}/{self.steps}")
        return step, self.program.join(members)

    def run(self) -> list[dict]:
        """Trains to the end and returns the results; raises `Stopped` after a requested stop."""
        try:
            self.train()
        except jax.errors.JaxRuntimeError as error:
            if self.program.host[1] == 1:
                self.close(delete=False)
                raise
            reason = str(error).splitlines()[0][:200]  # closing would wait for who is gone
            raise Lost(f"another process of this job is gone: {reason}") from error
        except BaseException:
            self.close(delete=False)  # a stop waits for its checkpoint here
            raise
        self.close(delete=self.configs[0]["checkpoint"]["delete_when_finished"])
        return self.results

    def close(self, *, delete: bool) -> None:
        """Ends curves, trackers and saving; removes the checkpoints when asked."""
        for recorder in self.recorders:
            recorder.close()
        self.trackers.close()
        self.checkpoints.close(delete=delete)
        if self.watchdog is not None:
            self.watchdog.close()

    def train(self) -> None:
        """Calls the program until the end, or until all members have diverged."""
        pending = None
        while self.step < self.steps and self.active.any():
            count = min(self.program.steps_per_call, self.next_event(self.step) - self.step)
            batches = self.read(self.step, count)
            fresh = self.step % self.log_every == 0
            self.state, report = self.program.advance(self.state, batches, self.active, fresh=fresh)
            self.step = step = self.step + count
            self.trackers.profile(step)
            if pending is not None:
                self.receive(*pending)
            pending = (step, report)
            stop = self.stop_requested(step - count + 1, step)
            due = self.checkpoints.due(step, look=step % self.log_every == 0)
            save = (stop or due) and step < self.steps
            if step in self.eval_steps or save:  # look at everything up to this step
                self.receive(*pending)
                pending = None
            if step == self.steps and not self.configs[0]["checkpoint"]["delete_when_finished"]:
                self.save(step)
                self.checkpoints.wait()  # the result, written next, says that all is there
            if step in self.eval_steps:
                self.evaluate(step)
            if save:
                for recorder in self.recorders:
                    recorder.flush()  # a checkpoint is of no use without the curve up to it
                self.save(step)
            if stop and step < self.steps:
                raise Stopped(f"stopped at step {step}/{self.steps}; the same command goes on")
        if pending is not None:
            self.receive(*pending)

    def save(self, step: int) -> None:
        """Starts saving the active members."""
        self.checkpoints.save(step, self.program.members(self.state), self.active)

    def next_event(self, step: int) -> float:
        """The next step after `step` at which a call has to end."""
        line = (step // self.log_every + 1) * self.log_every
        evaluations = [s for s in self.eval_steps if s > step]
        return min([line, self.checkpoints.next_step(step), *evaluations])

    def stop_requested(self, first: int, last: int) -> bool:
        """Whether to save and stop after steps [first, last]; the processes of a job agree."""
        if self.program.host[1] > 1:
            return stop_agreed(first, last)
        if self.termination is None:
            return False
        self.termination.busy = True
        return self.termination.requested.is_set()

    def read(self, step: int, count: int) -> list[np.ndarray]:
        """Each member's batches of the next steps; runs of one seed share what is read."""
        blocks = {seed: source.block(step, count) for seed, source in self.sources.items()}
        return [blocks[c["train"]["seed"]] for c in self.configs]

    def receive(self, step: int, report) -> None:
        """Takes the numbers of one call: a line of each curve, and the end of whoever diverged."""
        report = self.program.fetch(report)
        self.share_time(step)
        if step % self.log_every == 0 or step == self.steps:
            for i in np.flatnonzero(self.active):
                line = {
                    "step": step,
                    "tokens": step * self.tokens_per_step,
                    "train_loss": float(report.train_loss[i]),
                    "seconds": round(float(self.seconds[i]), 3),
                    **{name: float(values[i]) for name, values in report.watched.items()},
                }
                self.write(i, line)
        self.last_loss = np.where(self.active, report.train_loss, self.last_loss)
        self.kept = report.watched.get("kept")
        for i in np.flatnonzero(self.active & (report.diverged_at >= 0)):
            at = int(report.diverged_at[i])
            reason = f"diverged at step {at}"
            self.finish(i, "diverged", steps=step, diverged_step=at, reason=reason)
        self.progress.show(step, report, self.active)

    def evaluate(self, step: int) -> None:
        """Evaluates all members on every validation set; at the last step that makes the results.

        The first set is the headline; the others are recorded beside it.
        """
        sums = {}
        for name, evaluation in self.evaluations.items():
            batches = evaluation.tokens_EBT, evaluation.weight_EB
            found = self.program.evaluate(self.state, *batches, self.active)
            sums[name] = self.program.fetch(found)
        self.share_time(step)
        for i in np.flatnonzero(self.active):
            others = {
                name: evaluation.summarise(*map(float, sums[name][i]))
                for name, evaluation in self.evaluations.items()
            }
            values = next(iter(others.values()))
            line = {"step": step, "tokens": step * self.tokens_per_step, **values}
            self.write(i, line | ({"validation": others} if len(others) > 1 else {}))
            if step < self.steps:
                continue
            if math.isfinite(values["validation_loss"]):
                loss, bits = values["validation_loss"], values["bits_per_byte"]
                extra = {"validation": others} if len(others) > 1 else {}
                self.finish(i, "finished", steps=step, loss=loss, bits_per_byte=bits, **extra)
            else:
                reason = "validation loss is not finite"
                self.finish(i, "diverged", steps=step, diverged_step=step, reason=reason)

    def write(self, i: int, line: dict) -> None:
        self.recorders[i].line(line)
        if i == 0:
            self.trackers.line(line)

    def finish(self, i: int, status: str, *, steps: int, **values) -> None:
        """Writes the result of member i and takes it out of the pack."""
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
            **({} if self.kept is None else {"kept": int(self.kept[i])}),
            "flops": flops.training_flops(config) * steps / self.steps,
            "seconds": round(float(self.seconds[i]), 4),
            "compile_seconds": round((self.compile_seconds or 0.0) / len(self.configs), 4),
            "device": self.program.device_kind,
            "device_count": self.program.device_count,
        }
        self.results[i] = self.recorders[i].finish(result)
        self.active[i] = False

    def share_time(self, step: int) -> None:
        """Shares the time since the last look among the active; the first look was compilation."""
        if self.watchdog is not None:
            self.watchdog.hear()
        if self.right is not None:
            self.right.hear()
        now = time.perf_counter()
        if self.compile_seconds is None:
            self.compile_seconds = now - self.clock
            self.progress.begin(step, now)
        else:
            self.seconds[self.active] += (now - self.clock) / max(1, self.active.sum())
        self.clock = now
