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

from analysis.stats.noise import Noise, estimate
from sweeps.plan import effort, laws
from sweeps.plan.search import Pending, Problem, Rule, Settled, descend, layout, opening
from sweeps.plan.trial import Cell, Outcome, Point, Race, Trial, finite

ALWAYS_MOVE = ("learning_rate", "batch_size")  # swept in Phase II whether or not found sensitive
PRIOR_DF = 8


@dataclass
class Plan:
    """Where a race stands."""

    pending: list[Trial] = field(default_factory=list)
    settled: dict[Cell, Settled] = field(default_factory=dict)
    repeats: dict[Cell, list[tuple[int, Outcome]]] = field(default_factory=dict)  # once all are in
    waiting: dict[Cell, str] = field(default_factory=dict)
    sensitive: dict[str, list[str]] = field(default_factory=dict)
    laws: dict[str, dict[str, laws.Law]] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return not self.pending and not self.waiting


def plan(race: Race, results: Mapping[Trial, Outcome]) -> Plan:
    """The next round of a race, or its end. Pure: reads the study and the results, nothing else."""
    out = Plan()
    for optimizer in race.study["optimizers"]:
        phases: dict[str, list[Cell]] = {"I": [], "II": [], "III": []}
        for cell, phase in race.cells.items():
            if cell.optimizer == optimizer:
                phases[phase].append(cell)
        full = [problem(race, cell) for cell in phases["I"]]
        later = dict.fromkeys(phases["II"] + phases["III"], "waits for Phase I")
        if (known := calibrate(full, results)) is None:  # judge nothing before the noise is known
            out.pending += [trial for this in full for trial in opening(this, results)]
            out.waiting |= later | {this.cell: "waits for the noise calibration" for this in full}
            continue
        _search(results, out, [replace(p, prior=prior(known, p.cell)) for p in full])
        first = [out.settled.get(cell) for cell in phases["I"]]
        if None in first:
            out.waiting |= later
            continue
        out.sensitive[optimizer] = sensitive(first)
        near = [point for state in first for point in near_best(state, share=len(first))]
        cut = [second(race, out, cell, first, near) for cell in phases["II"]]
        everywhere = prior(known)
        _search(results, out, [replace(this, prior=everywhere) for this in cut])
        tuned = [out.settled.get(cell) for cell in phases["I"] + phases["II"]]
        if phases["III"] and None in tuned:
            out.waiting |= dict.fromkeys(phases["III"], "waits for Phase II")
        elif phases["III"]:
            out.laws[optimizer] = fit(race, out.sensitive[optimizer], tuned)
            ahead = [third(race, out, cell, tuned) for cell in phases["III"]]
            _search(results, out, [replace(this, prior=everywhere) for this in ahead])
    _finish(race, results, out)
    out.pending = list(dict.fromkeys(out.pending))
    return out


def calibrate(
    problems: Sequence[Problem], results: Mapping[Trial, Outcome]
) -> dict[Cell, list[list[float]]] | None:
    """Each cell's calibration by point and seed, by the noise rule; None while any is missing."""
    if not problems or problems[0].rule.mode != "noise":
        return {}
    layouts = {this.cell: layout(this, results) for this in problems}
    return None if None in layouts.values() else layouts


def prior(known: Mapping[Cell, list[list[float]]], cell: Cell | None = None) -> Noise | None:
    """One optimizer's noise from its other cells' calibrations (`cell` counts its own itself).

    It is worth PRIOR_DF degrees of freedom at most, so that a noisier or quieter cell can say so.
    """
    found = estimate([rows for other, rows in known.items() if other != cell])
    return found._replace(df=min(found.df, PRIOR_DF)) if found.df else None


def _search(results: Mapping, out: Plan, problems: Iterable[Problem]) -> None:
    """Advances each cell's search."""
    for this in problems:
        state = descend(this, results)
        if isinstance(state, Pending):
            out.pending += state.trials
        else:
            out.settled[this.cell] = state


def _finish(race: Race, results: Mapping, out: Plan) -> None:
    """Where a search is over: equal effort among the optimizers, then the winner's repeats."""
    slack = Rule(**race.study["rule"]).equal_effort
    final = dict(out.settled)
    for size, ratio in dict.fromkeys(cell[1:] for cell in race.cells) if slack else ():
        cells = [cell for cell in race.cells if cell[1:] == (size, ratio)]
        if not all(cell in final for cell in cells):
            final = {cell: state for cell, state in final.items() if cell not in cells}
            continue
        states = effort.equalise([final[cell] for cell in cells], results, slack)
        for cell, state in zip(cells, states, strict=True):
            if isinstance(state, Pending):
                out.pending += state.trials
                del final[cell]
            else:
                out.settled[cell] = final[cell] = state
    for cell, state in final.items():
        seeds = state.problem.fresh_seeds if state.best else ()
        trials = [Trial(cell, state.best, seed) for seed in seeds]
        outcomes = [results.get(trial) for trial in trials]
        out.pending += [t for t, o in zip(trials, outcomes, strict=True) if o is None]
        if None not in outcomes:
            out.repeats[cell] = list(zip(seeds, outcomes, strict=True))


def problem(race: Race, cell: Cell) -> Problem:
    """The full search of a Phase I cell."""
    entry, rule = race.study["optimizers"][cell.optimizer], Rule(**race.study["rule"])
    bounds = entry.get("bounds", {}) if race.cells.get(cell, "I") in rule.extend else {}
    return Problem(
        cell=cell,
        start=race.start(cell),
        grids=entry["grids"],
        bounds=bounds,
        refusal=partial(race.refusal, cell),
        rule=rule,
        calibrate=rule.mode == "noise" and race.cells.get(cell, "I") == "I",
        seed=race.study["seeds"][0],
        fresh_seeds=tuple(race.study["seeds"][1:]),
    )


def sensitive(cells: Sequence[Settled]) -> list[str]:
    """Hyper-parameters no single value of which is near-best in every Phase I cell.

    The study's set rule; what counts as near-best (a fixed threshold, or not significantly worse at
    an error rate shared out over the cells) is the cells' own rule.
    """
    near = [[dict(point) for point in near_best(cell, share=len(cells))] for cell in cells]
    return moving(near, cells[0].problem.grids if cells else ())


def moving(near: Sequence[Sequence[Mapping[str, Any]]], names: Iterable[str]) -> list[str]:
    """The names whose values have nothing in common over all cells' near-best points."""
    near = [points for points in near if points]
    values = {name: [{point.get(name) for point in points} for points in near] for name in names}
    return [name for name, sets in values.items() if sets and not set.intersection(*sets)]


def near_best(cell: Settled, share: int = 1) -> list[tuple]:
    """The points of a settled cell that cannot be told from its best."""
    losses = {p: loss for p, loss in cell.losses.items() if finite(loss)}
    if not losses:
        return []
    rule = cell.problem.rule
    if rule.mode == "published":
        best = min(losses, key=losses.__getitem__)
        return [p for p, loss in losses.items() if loss <= losses[best] + rule.near_best]
    centre = cell.centre if finite(cell.losses.get(cell.centre, math.inf)) else None
    centre = centre or min(losses, key=losses.__getitem__)
    best = max(losses, key=lambda point: cell.gain(point, centre))
    error_rate = rule.error_rate / (share * max(1, len(losses) - 1))

    def worse(point: Point) -> bool:
        behind, seeds = cell.gain(best, point)
        return behind > cell.noise.margin(error_rate, seeds)

    return [point for point in losses if not worse(point)]


def second(
    race: Race, out: Plan, cell: Cell, first: Sequence[Settled], near: Sequence[Point]
) -> Problem:
    """The search of a Phase II cell: cut grids around the Phase I optimum of the same size.

    As the study's: the learning rate and its half, the batch size and its double, and of what is
    sensitive the values `near` the best in some Phase I cell, warm-ups no shorter than now.
    """
    entry = race.study["optimizers"][cell.optimizer]
    base = _nearest(race, cell, [state for state in first if state.best])
    start = race.start(cell) if base is None else dict(base.best)
    start |= entry.get("phase_two", {})
    grids = {}
    for name in entry["grids"]:
        here = start[name]
        if name in entry.get("phase_two", {}):
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
    return replace(problem(race, cell), start=start, grids=grids)


def _nearest(race: Race, cell: Cell, states: Sequence[Settled]) -> Settled | None:
    """The settled cell closest in size, then the smallest ratio."""

    def distance(state: Settled) -> tuple[float, float]:
        other = state.problem.cell
        return abs(math.log(race.params(other.size) / race.params(cell.size))), other.ratio

    return min(states, key=distance, default=None)


def fit(race: Race, names: Sequence[str], cells: Sequence[Settled]) -> dict[str, laws.Law]:
    """A law over (N, ratio) for each hyper-parameter that moves with scale."""
    cells = [state for state in cells if state.best]
    moving = [n for n in cells[0].problem.start if n in names or n in ALWAYS_MOVE] if cells else []
    return {
        name: laws.fit(
            [race.params(s.problem.cell.size) for s in cells],
            [s.problem.cell.ratio for s in cells],
            [dict(s.best)[name] for s in cells],
        )
        for name in moving
    }


def third(race: Race, out: Plan, cell: Cell, known: Sequence[Settled]) -> Problem:
    """A Phase III cell: the laws' prediction, and with rule.verify its star over what moves with
    scale.
    """
    entry, full = race.study["optimizers"][cell.optimizer], problem(race, cell)
    base = _nearest(race, cell, [state for state in known if state.best])
    start = race.start(cell) if base is None else dict(base.best)
    for name, law in out.laws[cell.optimizer].items():
        if name in entry["grids"]:
            value = law.predict(race.params(cell.size), cell.ratio)
            start[name] = laws.snap(value, entry["grids"][name], entry.get("bounds", {}).get(name))
    if "warmup" in start:
        start["warmup"] = min(start["warmup"], race.steps(cell, start["batch_size"]))
    moving = [n for n in entry["grids"] if n in out.laws[cell.optimizer]]
    grids = {n: entry["grids"][n] for n in moving} if full.rule.verify else {}
    return replace(full, start=start, grids=grids)


def upper_bound(race: Race) -> dict[Cell, int]:
    """The most trials each cell can take: a full star for every allowed move, all repeats, all
    fresh seeds.
    """
    rule, fresh = Rule(**race.study["rule"]), len(race.study["seeds"]) - 1
    noisy = rule.mode == "noise"
    looks = rule.looks[-1] - 1 if noisy else 0
    bound = {}
    for cell, phase in race.cells.items():
        entry: dict[str, Any] = race.study["optimizers"][cell.optimizer]
        grids = dict(entry["grids"])
        if phase == "II":
            grids = {n: [0, 1] if n in ALWAYS_MOVE else g for n, g in grids.items()}
        if phase == "III" and not rule.verify:
            grids = {}
        extend = phase in rule.extend
        star = sum(len(g) - 1 + (n in entry.get("bounds", {}) and extend) for n, g in grids.items())
        repeats = looks * (1 + rule.contenders) if star else 0
        rounds = 1 + (rule.max_moves if star else 0)
        calibration = 3 * (rule.calibration - 1) if noisy and phase == "I" else 0
        bound[cell] = 1 + calibration + rounds * (star + repeats) + fresh
    if rule.equal_effort:
        most = {cell[1:]: max(bound[c] for c in bound if c[1:] == cell[1:]) for cell in bound}
        return {cell: most[cell[1:]] for cell in bound}
    return bound
