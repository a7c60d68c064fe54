"""The three phases of the study as one pure function of the finished results.

Phase I tunes every hyper-parameter in full. Phase II keeps what did not prove sensitive and
searches cut grids from the optimizer's smallest-ratio optimum of the same size. Phase III predicts
settings by laws fitted to I and II. Cells of all optimizers that are ready go out together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from analysis.stats import hyper_laws, near_best
from analysis.stats.noise import Noise, estimate
from sweeps.plan import effort, transfer
from sweeps.plan.rules import Tested
from sweeps.plan.search import Problem, Search, go_on, opening
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Point, Trial, freeze

ALWAYS_MOVE = ("learning_rate", "batch_size")  # swept in Phase II whether or not found sensitive
PRIOR_DF = 8


@dataclass
class Plan:
    """Where a study stands."""

    pending: list[Trial] = field(default_factory=list)
    searches: dict[Cell, Search] = field(default_factory=dict)  # all that have begun
    settled: dict[Cell, Search] = field(default_factory=dict)
    repeats: dict[Cell, list[tuple[int, Outcome]]] = field(default_factory=dict)  # once all are in
    waiting: dict[Cell, str] = field(default_factory=dict)
    sensitive: dict[str, list[str]] = field(default_factory=dict)
    laws: dict[str, dict[str, hyper_laws.Law]] = field(default_factory=dict)
    parts: dict[str, Plan] = field(default_factory=dict)  # each optimizer's searches, by its name

    @property
    def finished(self) -> bool:
        return not self.pending and not self.waiting


def plan(study: Study, results: Mapping[Trial, Outcome], before: Plan | None = None) -> Plan:
    """The next round of a study, or its end. Pure: reads its arguments, nothing else.

    Args:
      results: outcomes by trial; anything with `get`.
      before: a plan of this study, of results that are all among these. It changes nothing but the
        time taken: optimizers about which there is nothing new are not searched again.
    """
    out = Plan()
    for optimizer in study.config["optimizers"]:
        part = before.parts[optimizer] if before else None
        if part is None or any(results.get(trial) is not None for trial in part.pending):
            part = _tune(study, results, optimizer)
        out.parts[optimizer] = part
        out.pending += part.pending
        for name in ("searches", "settled", "waiting", "sensitive", "laws"):
            getattr(out, name).update(getattr(part, name))
    _finish(study, results, out)
    _carry(study, results, out)
    out.pending = list(dict.fromkeys(out.pending))
    return out


def _tune(study: Study, results: Mapping[Trial, Outcome], optimizer: str) -> Plan:
    """One optimizer's searches, which depend on its own results alone."""
    out = Plan()
    phases: dict[str, list[Cell]] = {"I": [], "II": [], "III": []}
    for cell, phase in study.cells.items():
        if cell.optimizer == optimizer:
            phases[phase].append(cell)
    later = dict.fromkeys(phases["II"] + phases["III"], "waits for Phase I")
    begun = [opening(problem(study, cell), results) for cell in phases["I"]]
    if any(search.problem.calibrate and search.pending for search in begun):
        # Nothing is judged before the noise is known.
        out.pending = [trial for search in begun for trial in search.pending]
        out.searches = {search.problem.cell: search for search in begun}
        out.waiting = later | dict.fromkeys(phases["I"], "waits for the noise calibration")
        return out
    known = {search.problem.cell: search.repeated() for search in begun}
    for search in begun:
        search.problem = replace(search.problem, prior=prior(known, search.problem.cell))
    _advance(out, begun)
    first = [out.settled.get(cell) for cell in phases["I"]]
    if None in first:
        out.waiting = later
        return out
    nearby = [this.problem.rule.near(this, share=len(first)) for this in first]
    out.sensitive[optimizer] = sensitive(first, nearby)
    everywhere = prior(known)
    won = [state for state in first if state.best]
    near = [point for points in nearby for point in points]
    cut = [second(study, out, cell, won, near) for cell in phases["II"]]
    _advance(out, [opening(replace(this, prior=everywhere), results) for this in cut])
    tuned = [out.settled.get(cell) for cell in phases["I"] + phases["II"]]
    if phases["III"] and None in tuned:
        out.waiting = dict.fromkeys(phases["III"], "waits for Phase II")
    elif phases["III"]:
        tuned = [state for state in tuned if state.best]
        out.laws[optimizer] = fit(study, out.sensitive[optimizer], tuned)
        ahead = [third(study, out, cell, tuned) for cell in phases["III"]]
        _advance(out, [opening(replace(this, prior=everywhere), results) for this in ahead])
    return out


def prior(known: Mapping[Cell, list[list[float]]], cell: Cell | None = None) -> Noise | None:
    """One optimizer's noise from its other cells' calibrations (`cell` counts its own itself).

    It is worth PRIOR_DF degrees of freedom at most, so that a noisier or quieter cell can say so.
    """
    found = estimate([rows for other, rows in known.items() if other != cell])
    return found._replace(df=min(found.df, PRIOR_DF)) if found.df else None


def _advance(out: Plan, searches: Iterable[Search]) -> None:
    """Takes each cell's search as far as the results go."""
    for search in map(go_on, searches):
        out.searches[search.problem.cell] = search
        out.pending += search.pending
        if not search.pending:
            out.settled[search.problem.cell] = search


def _finish(study: Study, results: Mapping, out: Plan) -> None:
    """Where a search is over: equal effort among the optimizers, then the winner's repeats."""
    final, slack = dict(out.settled), study.rule.equal_effort
    for size, ratio in dict.fromkeys(cell[1:] for cell in study.cells) if slack else ():
        cells = [cell for cell in study.cells if cell[1:] == (size, ratio)]
        states = [final.pop(cell, None) for cell in cells]
        if None in states:
            continue
        for cell, state in zip(cells, effort.equalise(states, results, slack), strict=True):
            out.pending += state.pending
            if not state.pending:
                out.settled[cell] = final[cell] = state
    for cell, state in final.items():
        best = state.best
        seeds = state.problem.fresh_seeds if best else ()
        trials = [Trial(cell, best, seed) for seed in seeds]
        outcomes = [results.get(trial) for trial in trials]
        out.pending += [t for t, o in zip(trials, outcomes, strict=True) if o is None]
        if None not in outcomes:
            out.repeats[cell] = list(zip(seeds, outcomes, strict=True))


def _carry(study: Study, results: Mapping, out: Plan) -> None:
    """Winners of the base size taken to the other sizes by each rule of `transfer`, untuned, on
    the seeds that no search uses.
    """
    given = study.config.get("transfer")
    for cell in study.cells if given else ():
        base = out.settled.get(cell._replace(size=given["base"]))
        if base is None or base.best is None or cell.size == given["base"]:
            continue
        for rule in (None, *given["rules"].get(cell.optimizer, ())):
            point = freeze(dict(base.best) | ({transfer.NAME: rule} if rule else {}))
            trials = [Trial(cell, point, seed) for seed in base.problem.fresh_seeds]
            out.pending += [trial for trial in trials if results.get(trial) is None]


def problem(study: Study, cell: Cell) -> Problem:
    """The full search of a Phase I cell."""
    entry, rule = study.config["optimizers"][cell.optimizer], study.rule
    seed, *fresh = study.config["seeds"]
    phase = study.cells.get(cell, "I")
    return Problem(
        cell=cell,
        start=study.start(cell),
        grids=entry["grids"],
        bounds=entry["bounds"] if phase in rule.extend else {},
        refusal=partial(study.refusal, cell),
        rule=rule,
        calibrate=isinstance(rule, Tested) and phase == "I",
        seed=seed,
        fresh_seeds=tuple(fresh),
    )


def sensitive(cells: Sequence[Search], near: Sequence[Sequence[Point]]) -> list[str]:
    """Hyper-parameters no single value of which is near-best in every Phase I cell.

    The study's set rule; what counts as near-best (a fixed threshold, or not significantly worse at
    an error rate shared out over the cells) is the cells' own rule.
    """
    names = cells[0].problem.grids if cells else ()
    return near_best.sensitive([map(dict, points) for points in near], names)


def second(
    study: Study, out: Plan, cell: Cell, first: Sequence[Search], near: Sequence[Point]
) -> Problem:
    """The search of a Phase II cell: cut grids around the Phase I optimum of the same size.

    As the study's: the learning rate and its half, the batch size and its double, and of what is
    sensitive the values `near` the best in some Phase I cell, warm-ups no shorter than now.
    """
    entry = study.config["optimizers"][cell.optimizer]
    base = _nearest(study, cell, first)
    start = study.start(cell) if base is None else dict(base.best)
    start |= entry["phase_two"]
    grids = {}
    for name in entry["grids"]:
        here = start[name]
        if name in entry["phase_two"]:
            continue
        if name == "learning_rate":
            grids[name] = [here / 2, here]
        elif name == "batch_size":
            grids[name] = [here, 2 * here]
        elif name in out.sensitive[cell.optimizer]:
            values = {dict(point)[name] for point in near} | {here}
            if name == "warmup":
                values = {value for value in values if value >= here}
            grids[name] = sorted(values)
    return replace(problem(study, cell), start=start, grids=grids)


def _nearest(study: Study, cell: Cell, states: Sequence[Search]) -> Search | None:
    """The settled cell closest in size, then the smallest ratio."""

    def distance(state: Search) -> tuple[float, float]:
        other = state.problem.cell
        return abs(math.log(study.params(other.size) / study.params(cell.size))), other.ratio

    return min(states, key=distance, default=None)


def fit(study: Study, names: Sequence[str], cells: Sequence[Search]) -> dict[str, hyper_laws.Law]:
    """A law over (N, ratio) for each hyper-parameter that moves with scale."""
    moving = [n for n in cells[0].problem.start if n in names or n in ALWAYS_MOVE] if cells else []
    sizes = [study.params(state.problem.cell.size) for state in cells]
    ratios = [state.problem.cell.ratio for state in cells]
    best = [dict(state.best) for state in cells]
    return {name: hyper_laws.fit(sizes, ratios, [point[name] for point in best]) for name in moving}


def third(study: Study, out: Plan, cell: Cell, known: Sequence[Search]) -> Problem:
    """A Phase III cell: the laws' prediction, and with rule.verify its star over what moves with
    scale.
    """
    entry, full = study.config["optimizers"][cell.optimizer], problem(study, cell)
    base = _nearest(study, cell, known)
    start = study.start(cell) if base is None else dict(base.best)
    laws = {n: law for n, law in out.laws[cell.optimizer].items() if n in entry["grids"]}
    for name, law in laws.items():
        value = law.predict(study.params(cell.size), cell.ratio)
        start[name] = snap(value, entry["grids"][name], entry["bounds"].get(name))
    if "warmup" in start:
        start["warmup"] = min(start["warmup"], study.steps(cell, start["batch_size"]))
    grids = {n: grid for n, grid in entry["grids"].items() if n in laws} if full.rule.verify else {}
    return replace(full, start=start, grids=grids)


def snap(value: Any, grid: Sequence[Any], bounds: tuple[float, float] | None = None) -> Any:
    """The value of a grid nearest to a prediction, in ratio; a geometric grid goes on within its
    bounds.
    """
    if value in grid or not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    numbers = sorted(grid)
    if bounds is not None and len(numbers) > 1 and numbers[0] > 0:
        step = numbers[-1] / numbers[-2]
        while numbers[-1] < value and numbers[-1] * step <= bounds[1]:
            numbers.append(_like(grid, numbers[-1] * step))
        step = numbers[1] / numbers[0]
        while numbers[0] > value and numbers[0] / step >= bounds[0]:
            numbers.insert(0, _like(grid, numbers[0] / step))
    positive = [v for v in numbers if v > 0]
    if not positive or value <= 0:
        return min(numbers, key=lambda v: abs(v - value))
    return min(positive, key=lambda v: abs(math.log(v / value)))


def _like(grid: Sequence[Any], value: float) -> Any:
    value = float(f"{value:.6g}")
    return round(value) if all(isinstance(v, int) for v in grid) else value
