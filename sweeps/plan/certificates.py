"""What a cell can show for its choice, or what holds it up.

Losses are those of the hash beside them, at the study's seed; a neighbour's `gain` over the centre
is the mean over their common `seeds`. Beyond the contract of docs/design.md there are `overturn`
(the run whose loss would have to fall least for the choice to change, and by how much), `ties`
(contenders not told apart), `start` and what it lost, `moves`, `refined`, `converged`; and what the
optimizer's Phase I found `sensitive`, and the `laws` that predicted a Phase III start:
h = exp(a) (N / n0)^b ratio^c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeps.plan.phases import Plan
from sweeps.plan.search import Search, neighbours
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Point, Trial, finite, freeze


def certificate(
    study: Study, plan: Plan, cell: Cell, failed: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The certificate of a cell that is over, or that failed trials hold up; ready for JSON.

    Args:
      failed: why trials of this cell are not tried again, by hash. With any, it is not complete.
    """
    state, repeats = plan.settled.get(cell) or plan.searches[cell], plan.repeats.get(cell, [])
    failed, phase = failed or {}, study.cells[cell]
    problem, rule, losses = state.problem, state.problem.rule, state.losses
    hashed = lambda point: study.hash(Trial(cell, point, problem.seed))  # noqa: E731
    centre, best, start = state.centre, state.best, freeze(problem.start)
    points = neighbours(problem, centre, problem.grids)
    star = [_neighbour(state, point, hashed, failed) for point in points]
    missing = [n for n in star if n["status"] in ("missing", "unrecorded", "failed")]
    infeasible = [p for p, runs in state.runs.items() if runs[0].status == "infeasible"]
    start_loss = _number(losses.get(start, math.inf))
    laws = plan.laws.get(cell.optimizer, {}) if phase == "III" else {}
    return {
        "optimizer": cell.optimizer,
        "model_size": cell.size,
        "chinchilla_ratio": cell.ratio,
        "phase": phase,
        "rule": rule.mode,
        "threshold": getattr(rule, "threshold", None),
        "error_rate": getattr(rule, "error_rate", None),
        "noise": _noise(state, repeats),
        "start": dict(start),
        "start_loss": start_loss,
        "start_regret": None if best is None or start_loss is None else start_loss - losses[best],
        "centre": dict(centre),
        "centre_hash": hashed(centre) if centre in state.runs else None,
        "centre_loss": _number(losses.get(centre, math.inf)),
        "best": dict(best) if best else None,
        "best_hash": hashed(best) if best else None,
        "best_loss": _number(losses[best]) if best else None,
        "neighbours": star,
        "missing": missing,
        "refused": [n for n in star if n["status"] == "refused"],
        "infeasible": [
            {"changes": _change(p, centre), "hash": hashed(p), "reason": state.runs[p][0].reason}
            for p in infeasible
        ],
        "failed": [{"hash": name, "reason": why} for name, why in sorted(failed.items())],
        "edges": edges(state),
        "ties": [_change(point, centre) for point in state.ties if point != centre],
        "overturn": overturn(state),
        "repeats": [
            {"seed": seed, "hash": run.hash, "status": run.status, "loss": _number(run.loss)}
            for seed, run in repeats
        ],
        "sensitive": plan.sensitive.get(cell.optimizer),
        "laws": {name: law._asdict() for name, law in laws.items()},
        "moves": len(state.moves),
        "refined": state.refined,
        "converged": state.converged,
        **effort([run for runs in state.runs.values() for run in runs] + [r for _, r in repeats]),
        "complete": state.converged and best is not None and not missing and not failed,
    }


def effort(runs: Sequence[Outcome]) -> dict[str, float]:
    """What runs cost: how many, tokens, FLOPs, device seconds."""
    return {
        "trials": len(runs),
        "tokens": math.fsum(run.tokens for run in runs),
        "flops": math.fsum(run.flops for run in runs),
        "seconds": math.fsum(run.seconds for run in runs),
    }


def edges(state: Search) -> list[dict[str, Any]]:
    """Hyper-parameters whose chosen value is the first or last that was tried."""
    chosen, found = dict(state.best or state.centre), []
    tried = [dict(point) for point in state.runs]
    for name, grid in state.problem.grids.items():
        values = [v for v in {*grid, *(p[name] for p in tried)} if not isinstance(v, (bool, str))]
        if len(values) < 2 or chosen[name] not in (min(values), max(values)):
            continue
        side = "low" if chosen[name] == min(values) else "high"
        bound = state.problem.bounds.get(name)
        at_bound = bound is not None and chosen[name] == bound[side == "high"]
        found.append(
            {"hyperparameter": name, "value": chosen[name], "side": side, "bound": at_bound}
        )
    return found


def overturn(state: Search) -> dict[str, Any] | None:
    """The run whose loss would have to fall least, in nats, for another point to be reported."""
    best, nearest = state.best, None
    for point, loss in state.losses.items() if best else ():
        if point == best or not finite(loss):
            continue
        gain, seeds = state.gain(point, best)
        fall = state.problem.rule.margin(state, seeds) - gain
        if finite(fall) and (nearest is None or fall < nearest["fall"]):
            nearest = {"changes": _change(point, state.centre), "fall": fall}
    return nearest


def _neighbour(
    state: Search, point: Point, hashed: Callable[[Point], str], failed: Mapping[str, str]
) -> dict[str, Any]:
    changed = _change(point, state.centre)
    (name, value), *_ = changed.items()
    base = {"hyperparameter": name, "value": value, "loss": None}
    if point in state.refused:
        return base | {"hash": None, "status": "refused", "reason": state.refused[point]}
    runs = state.runs.get(point)
    if not runs and (why := failed.get(hashed(point))):
        return base | {"hash": hashed(point), "status": "failed", "reason": why}
    if not runs:
        return base | {"hash": hashed(point), "status": "missing"}
    status = next((run.status for run in runs if run.status != "finished"), "finished")
    found = base | {"hash": hashed(point), "status": status}
    if status == "finished":
        found["loss"] = runs[0].loss
        if finite(state.losses.get(state.centre, math.inf)):
            found["gain"], found["seeds"] = state.gain(point, state.centre)
    return found


def _change(point: Point, centre: Point) -> dict[str, Any]:
    base = dict(centre)
    return {name: value for name, value in point if value != base[name]}


def _noise(state: Search, repeats: Sequence[tuple[int, Outcome]]) -> dict[str, Any]:
    """The noise the search used, and the spread of the winner's fresh seeds beside it."""
    fresh = [run.loss for _, run in repeats if finite(run.loss)]
    mean = math.fsum(fresh) / len(fresh) if fresh else None
    squares = math.fsum((x - mean) ** 2 for x in fresh)
    used = state.noise
    return {
        "sd": used.sd if used.df else None,
        "df": used.df,
        "fresh_sd": math.sqrt(squares / (len(fresh) - 1)) if len(fresh) > 1 else None,
        "fresh_mean": mean,
    }


def _number(loss: float) -> float | None:
    return loss if finite(loss) else None
