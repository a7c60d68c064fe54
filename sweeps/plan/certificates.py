"""What a finished cell can show for its choice.

Losses are those of the hash beside them, at the study's seed; a neighbour's `gain` over the centre
is the mean over their common `seeds`. Beyond the contract of docs/design.md there are `overturn`
(the run whose loss would have to fall least for the choice to change, and by how much), `ties`
(contenders not told apart), `start` and what it lost, `moves`, `refined`, `converged`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeps.plan.phases import Plan
from sweeps.plan.search import Settled, neighbours
from sweeps.plan.trial import Outcome, Point, Race, Trial, finite, freeze


def certificate(
    state: Settled,
    repeats: Sequence[tuple[int, Outcome]],
    *,
    phase: str,
    name: Callable[[Trial], str],
) -> dict[str, Any]:
    """The certificate of a settled cell, ready for JSON.

    Args:
      repeats: (seed, outcome) of the winner's fresh seeds.
      name: a trial's config hash.
    """
    problem, rule, cell = state.problem, state.problem.rule, state.problem.cell
    hashed = lambda point: name(Trial(cell, point, problem.seed))  # noqa: E731
    centre, best, start = state.centre, state.best, freeze(problem.start)
    star = [
        _neighbour(state, point, hashed) for point in neighbours(problem, centre, problem.grids)
    ]
    cost = [run for runs in state.runs.values() for run in runs] + [run for _, run in repeats]
    return {
        "optimizer": cell.optimizer,
        "model_size": cell.size,
        "chinchilla_ratio": cell.ratio,
        "phase": phase,
        "rule": rule.mode,
        "threshold": rule.threshold if rule.mode == "published" else None,
        "error_rate": rule.error_rate if rule.mode == "noise" else None,
        "noise": _noise(state, repeats),
        "start": dict(start),
        "start_loss": _number(state.losses.get(start, math.inf)),
        "start_regret": _regret(state, start),
        "centre": dict(centre),
        "centre_hash": hashed(centre) if centre in state.runs else None,
        "centre_loss": _number(state.losses.get(centre, math.inf)),
        "best": dict(best) if best else None,
        "best_hash": hashed(best) if best else None,
        "best_loss": _number(state.losses[best]) if best else None,
        "neighbours": star,
        "missing": [n for n in star if n["status"] in ("missing", "unrecorded")],
        "refused": [n for n in star if n["status"] == "refused"],
        "edges": edges(state),
        "ties": [_change(point, centre) for point in state.ties if point != centre],
        "overturn": overturn(state),
        "repeats": [
            {"seed": seed, "hash": run.hash, "status": run.status, "loss": _number(run.loss)}
            for seed, run in repeats
        ],
        "moves": len(state.moves),
        "refined": state.refined,
        "converged": state.converged,
        **_effort(cost),
        "complete": state.converged
        and best is not None
        and not any(n["status"] in ("missing", "unrecorded") for n in star),
    }


def summary(race: Race, state: Plan, outcomes: Mapping[Trial, Outcome]) -> dict[str, Any]:
    """What a race found beyond its cells, by optimizer, ready for JSON.

    `sensitive` hyper-parameters, the Phase III `laws` h = exp(a) (N / n0)^b ratio^c, and the
    `effort` of every trial that was run for it.
    """
    found = {}
    for optimizer in race.study["optimizers"]:
        runs = [run for trial, run in outcomes.items() if trial.cell.optimizer == optimizer]
        found[optimizer] = {
            "sensitive": state.sensitive.get(optimizer),
            "laws": {n: law._asdict() for n, law in state.laws.get(optimizer, {}).items()},
            "effort": _effort(runs),
        }
    return found


def _effort(runs: Sequence[Outcome]) -> dict[str, float]:
    return {
        "trials": len(runs),
        "tokens": math.fsum(run.tokens for run in runs),
        "flops": math.fsum(run.flops for run in runs),
        "seconds": math.fsum(run.seconds for run in runs),
    }


def edges(state: Settled) -> list[dict[str, Any]]:
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


def overturn(state: Settled) -> dict[str, Any] | None:
    """The run whose loss would have to fall least, in nats, for the search to move its centre."""
    if not finite(state.losses.get(state.centre, math.inf)):
        return None
    rule, nearest = state.problem.rule, None
    for point, loss in state.losses.items():
        if point == state.centre or not finite(loss):
            continue
        gain, seeds = state.gain(point, state.centre)
        margin = rule.threshold
        if rule.mode == "noise":
            tests = max(1, len(state.runs) - 1) * len(rule.looks)
            margin = state.noise.margin(rule.error_rate / tests, seeds)
        fall = margin - gain
        if finite(fall) and (nearest is None or fall < nearest["fall"]):
            nearest = {"changes": _change(point, state.centre), "fall": fall}
    return nearest


def _neighbour(state: Settled, point: Point, hashed: Callable[[Point], str]) -> dict[str, Any]:
    changed = _change(point, state.centre)
    (name, value), *_ = changed.items()
    base = {"hyperparameter": name, "value": value}
    if point in state.refused:
        return base | {
            "hash": None,
            "status": "refused",
            "loss": None,
            "reason": state.refused[point],
        }
    runs = state.runs.get(point)
    if not runs:
        return base | {"hash": hashed(point), "status": "missing", "loss": None}
    status = next((run.status for run in runs if run.status != "finished"), "finished")
    loss = state.losses[point]
    found = base | {"hash": hashed(point), "status": status, "loss": _number(loss)}
    if finite(loss) and finite(state.losses.get(state.centre, math.inf)):
        found["gain"], found["seeds"] = state.gain(point, state.centre)
    return found


def _change(point: Point, centre: Point) -> dict[str, Any]:
    base = dict(centre)
    return {name: value for name, value in point if value != base[name]}


def _noise(state: Settled, repeats: Sequence[tuple[int, Outcome]]) -> dict[str, Any]:
    """The noise the search used, and the spread of the winner's fresh seeds beside it."""
    fresh = [run.loss for _, run in repeats if finite(run.loss)]
    mean_loss = math.fsum(fresh) / len(fresh) if fresh else None
    spread = (
        math.sqrt(math.fsum((x - mean_loss) ** 2 for x in fresh) / (len(fresh) - 1))
        if len(fresh) > 1
        else None
    )
    used = state.noise
    return {
        "sd": used.sd if used and used.df else None,
        "df": used.df if used else 0,
        "fresh_sd": spread,
        "fresh_mean": mean_loss,
    }


def _regret(state: Settled, start: Point) -> float | None:
    """What the start lost against the best found; in Phase III, the regret of the prediction."""
    if state.best is None or not finite(state.losses.get(start, math.inf)):
        return None
    return state.losses[start] - state.losses[state.best]


def _number(loss: float) -> float | None:
    return loss if finite(loss) else None
