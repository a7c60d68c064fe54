"""What a study is still expected to take: the planner's forecast at the speeds measured so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

from sweeps.plan.forecast import forecast
from sweeps.plan.study import Study
from sweeps.plan.trial import Outcome, Trial

SHARE = 0.05  # of the time that may go into forecasts; a large study's takes seconds


class Expected:
    """The trials still to come, and the device seconds and the time they will take."""

    def __init__(self, study: Study):
        self.study, self.trials, self.next = study, [], 0.0
        self.known: tuple[int, int] | None = None  # what the last forecast was made of

    def look(self, outcomes: Mapping[Trial, Outcome], failed: Container[Trial] = ()) -> list[Trial]:
        """What is still to come. A forecast waits until it takes little of the time; meanwhile
        what has finished is taken from the one before.
        """
        now, known = time.monotonic(), (len(outcomes), len(failed))
        if known != self.known and now >= self.next:
            self.trials, self.known = forecast(self.study, outcomes, failed), known
            took = time.monotonic() - now
            self.next = now + took / SHARE
        self.trials = [trial for trial in self.trials if trial not in outcomes]
        return self.trials

    def device_seconds(
        self, coming: Iterable[Trial], outcomes: Mapping[Trial, Outcome]
    ) -> float | None:
        """Of what is still to come; None before anything has finished."""
        rates = rates_of(self.study, outcomes)
        if not rates:
            return None
        seconds = 0.0
        for trial in coming:
            size, optimizer = trial.cell.size, trial.cell.optimizer
            rate = rates.get((size, optimizer)) or rates.get((size, None)) or rates[None, None]
            seconds += self.study.flops(trial) / rate
        return seconds

    def seconds(
        self,
        left: float | None,
        outcomes: Mapping[Trial, Outcome],
        workers: Sequence[tuple[float | None, int]],
    ) -> float | None:
        """Until the end, as fast as the workers have been so far.

        Args:
          left: `device_seconds` of what is still to come.
          workers: FLOP/s of each since it began, compiling and waiting included, and the packs it
            trains at once; one that has finished nothing yet counts a device second a second for
            each pack.
        Returns:
          None where nothing runs or nothing has finished.
        """
        if left is None or not workers:
            return None
        rate = rates_of(self.study, outcomes)[None, None]
        pace = sum(speed / rate if speed else slots for speed, slots in workers)
        return left / pace


def rates_of(study: Study, outcomes: Mapping[Trial, Outcome]) -> dict[tuple, float]:
    """FLOP/s of a device in finished trials, by (size, optimizer), (size, None), (None, None)."""
    flops: dict[tuple, float] = defaultdict(float)
    seconds: dict[tuple, float] = defaultdict(float)
    for trial, run in outcomes.items():
        if run.status == "finished" and run.seconds > 0:
            size, optimizer = trial.cell.size, trial.cell.optimizer
            spent = study.flops(trial)
            for key in ((size, optimizer), (size, None), (None, None)):
                flops[key] += spent
                seconds[key] += run.seconds
    return {key: flops[key] / seconds[key] for key in flops}
