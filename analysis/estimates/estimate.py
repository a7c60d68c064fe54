"""From a study to its numbers: ONE function, runs in, one long table out.

Page, terminal, figures and CSV are views of this table (its columns are in `estimates.table`).
"""

import pandas as pd

from analysis.estimates.cards import put_cards
from analysis.estimates.comparisons import put_comparisons
from analysis.estimates.costs import put_costs
from analysis.estimates.curve_laws import put_laws
from analysis.estimates.doubts import put_doubts
from analysis.estimates.editions import put_editions
from analysis.estimates.hyperparameters import put_hyperparameters, tuning
from analysis.estimates.losses import cell_losses, put_losses
from analysis.estimates.reach import put_reach
from analysis.estimates.searches import put_searches
from analysis.estimates.speedups import put_cells, put_joint, put_published
from analysis.estimates.table import Rows
from analysis.fits.optima import with_tuning
from analysis.fits.speedup import widened
from analysis.runs import curves, recorded
from analysis.runs.names import CELL, at
from analysis.runs.repeats import measure
from analysis.runs.study import Study
from analysis.runs.winners import cost, winners
from analysis.stats.noise import APART, Levels

PARTS = ("total", "paired", "residual")  # of the noise, the widest first


def estimate(study: Study, *, noise: Levels | None = None, cards: bool = True) -> pd.DataFrame:
    """Every number of a study with at least one finished run.

    Args:
      noise: measured from the study where it is None. A study without repeats has gaps and the
        published formula, and nothing that needs an error.
      cards: also compute the sensitivity cards (most of the time).
    """
    rows, best = Rows(), winners(study)
    noise = noise or measure(study, best)
    for number, problem in enumerate(study.problems):
        again = any(problem.kind == before.kind for before in study.problems[:number])
        quantity = f"{problem.kind} {number + 1}" if again else problem.kind
        rows.put("input", "", quantity, problem.count, note=problem.sentence)
    _put_winners(rows, study, best)
    put_searches(rows, study)
    joint = wide = None
    if noise is not None:
        tuned, noise = tuning(study, best, noise)
    cells = cell_losses(study, best, noise)
    if noise is not None:
        put_losses(rows, cells, noise.total.quantile())
        fair, cells = cells, with_tuning(cells, tuned.found)
        wide = _put_noise(rows, cells, noise)
        put_comparisons(rows, wide[0], wide[1], study.baseline)
    else:
        put_comparisons(rows, cells, None, study.baseline)
    if study.name == recorded.NAME:
        put_editions(rows)
    put_published(rows, cells, study.baseline)
    if noise is not None:
        put_cells(rows, *wide, study.baseline)
        joint = put_joint(rows, cells, noise.least, study.baseline)
        put_costs(rows, study.finished, study.baseline)
        put_hyperparameters(rows, tuned)
        put_laws(rows, fair, noise.least, study.baseline)
        if cards:
            put_cards(rows, cells, noise.least, joint, study.baseline)
    _put_training(rows, study, best)
    put_doubts(rows, study, best, noise, joint)
    put_reach(rows, study, best, noise)
    return rows.frame()


def _put_winners(rows, study, best):
    """The winning runs as they are, and what the search for them took."""
    for row in best.to_dict("records"):
        for name in ("loss", "bits_per_byte", "rerun_loss", "reruns", "trials", "diverged"):
            rows.put("best", "sweep", name, row[name], **at(row))
        for name in ("tokens", "flops", "optimizer_bytes"):
            rows.put("best", "sweep", name, row[name], **at(row))
        for name in study.tuned:
            value = row[f"hp_{name}"]
            if not isinstance(value, str):
                rows.put("best", "hyperparameter", name, value, **at(row))
        for name in ("seconds", "compile_seconds"):
            rows.put("time", "best", name, row[name], **at(row))
    for row in cost(study).to_dict("records"):
        for name in ("trials", "finished", "diverged", "infeasible", "tokens", "flops"):
            rows.put("tuning", "all trials", name, row[name], optimizer=row["optimizer"])
        for name in ("seconds", "compile_seconds"):
            rows.put("time", "tuning", name, row[name], optimizer=row["optimizer"])


def _put_noise(rows, cells, noise):
    """The spreads of runs and of cells; returns the cells with both in their errors."""
    _put_spreads(rows, noise.source, noise, f"{noise.source}, {noise.groups} groups")
    note = "share of a seed's variance that two optimizers of a race have in common"
    rows.put("noise", noise.source, "carried", noise.carried, *noise.carries, note)
    note = "a difference of two single runs on one seed is real (95 %) from here on"
    apart = noise.paired.quantile() * 2**0.5 * noise.paired.sd
    rows.put("noise", noise.source, "least_gap", apart, note=note)
    _put_races(rows, noise)
    note = "median of cells; what their settings may still lose to the optimum"
    rows.put("noise", "optima", "tuning", cells.tuning.median(), note=note)
    wide, level, scatter = widened(cells, noise.least)
    if scatter is not None:
        note = f"of cells about their own curves, beyond noise; {scatter.curves} curves"
        rows.put("noise", "own curves", "scatter", scatter.tau, note=note)
    else:
        note = "fewer than 8 curves of 4 ratios: errors carry run noise, not tuning error"
        rows.put("input", "robust_cell", "no_scatter", 1, note=note)
    return wide, level


def _put_races(rows, noise):
    """Whether the noise is alike over sizes and ratios; each size's or race's where it is not."""
    for what, p in noise.alike.items():
        note = f"p-value of Bartlett's test; kept apart below {APART}"
        rows.put("noise", noise.source, f"p_{what}_alike", p, note=note)
    by_ratio = noise.alike.get("ratios", 1.0) < APART
    for (size, ratio), level in noise.races.items():
        if not by_ratio and any(r["procedure"] == "own" and r["model_size"] == size for r in rows):
            continue
        where = {"model_size": size, "chinchilla_ratio": ratio if by_ratio else None}
        _put_spreads(rows, "own", level, "", **where)


def _put_spreads(rows, procedure, level, note, **where):
    """The parts of the noise; one that was not told apart from the wider one is at most that."""
    wider = None
    for name in PARTS:
        sd, (low, high) = getattr(level, name).sd, getattr(level, name).interval()
        apart = sd != wider
        more = "" if apart else "; not measured apart"
        if name == "residual" and level.by_sweeps:
            more = "; of sweeps about their valleys, lack of fit included"
        words = f"{note}{more}".removeprefix("; ")
        bound = "" if apart else "upper"
        rows.put("noise", procedure, name, sd, low if apart else None, high, words, bound, **where)
        rows.put("noise", procedure, f"{name}_df", getattr(level, name).df, **where)
        wider = sd


def _put_training(rows, study, best):
    """Early stops and crossings of the winners' curves."""
    seen = curves.winner_curves(study, best)
    if seen.empty:
        return
    for row in curves.early_stop(seen).to_dict("records"):
        for name in ("races", "wrong_winner", "costly", "wrong_pairs", "regret"):
            rows.put("early_stop", f"at {row['fraction']:g}", name, row[name])
    crossings = curves.crossings(seen, study.baseline)
    for _, row in crossings.assign(n=crossings.groupby(CELL).cumcount() + 1).iterrows():
        quantity, note = f"fraction {row['n']}", f"{row['leader']} leads on"
        rows.put("crossing", "winners", quantity, row["fraction"], note=note, **at(row))
