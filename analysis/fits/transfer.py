"""What a race of scaling rules says: lost loss, moved optima, leads by size, exponents of decay.

Winners of a base size were carried to the other sizes as they are ("constant") and by each rule
(`sweeps.plan.transfer`), on seeds that chose nothing. Where a size was tuned anew, its winner on
the same seeds is what could have been had.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.fits.optima import optima, told_by_sweeps
from analysis.runs.names import CELL, cell_name, same_setting, settings
from analysis.runs.repeats import measure
from analysis.runs.study import Study
from analysis.runs.winners import repeats_of, winners
from analysis.stats.noise import Levels

RULE = "hp_parametrization"
TUNED, CONSTANT = "tuned", "constant"
COLUMNS = (
    *("quantity", "optimizer", "model_size", "chinchilla_ratio", "rule"),
    *("estimate", "low", "high", "seeds", "note"),
)
DIVERGED = "a run of it did not finish"


def transfer(study: Study) -> pd.DataFrame:
    """The long table of a study with a `transfer` section, columns `COLUMNS`.

    loss      mean over the fresh seeds, nats
    regret    loss of a carried setting minus that of the size's own winner, paired by seed
    tokens    the same as a factor: of tokens, parameters growing with them as in the race
    lead      AdamW's loss minus this optimizer's, both by the same rule
    shift     octaves that an optimum moves per doubling of the width
    exponent  p of learning rate x weight decay ~ width^-p at the winners' learning rates

    Intervals are at 95 %, of the study's one noise for differences on common seeds. An end that the
    data do not give is empty.

    Raises:
      ValueError: the study carries nothing, or repeats too little to know its noise.
    """
    if not study.settings.get("transfer"):
        raise ValueError("this study has no `transfer` section: nothing was carried")
    best = winners(study)
    noise = measure(study, best)
    if noise is None:
        raise ValueError("too few repeated runs to know the noise")
    losses = carried(study, best)
    rows = [
        *_losses(losses, noise),
        *_regrets(study, losses, noise),
        *_leads(losses, noise, study.baseline),
        *_shifts(study, best, noise),
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def carried(study: Study, best: pd.DataFrame) -> pd.DataFrame:
    """Runs on fresh seeds: CELL, rule ("tuned", "constant" or a rule's name), seed, loss (NaN where
    a run did not finish).
    """
    given, rows = study.settings["transfer"], []
    known = best.assign(**{RULE: best.get(RULE, np.nan)})
    runs = study.runs.assign(**{RULE: study.runs.get(RULE, np.nan)})
    runs["loss"] = runs.loss.astype(float).where(runs.status == "finished")
    bases = {
        r["optimizer"]: r for r in known.to_dict("records") if r["model_size"] == given["base"]
    }
    tuned = {cell: c for cell, c in study.certificate_of.items() if c.get("phase") != "III"}
    for winner in known.to_dict("records"):
        cell = tuple(winner[name] for name in CELL)
        here = runs[(runs[CELL] == pd.Series(winner)[CELL]).all(axis=1)]
        groups = []
        if cell in tuned:
            again = repeats_of(here, winner, study.certificate_of.get(cell))
            groups.append((TUNED, again))
        base = bases.get(winner["optimizer"])
        if base is not None and winner["model_size"] != given["base"]:
            for rule in (CONSTANT, *given["rules"].get(winner["optimizer"], ())):
                setting = base | {RULE: np.nan if rule == CONSTANT else rule}
                again = here[same_setting(here, setting) & (here.seed != winner["seed"])]
                groups.append((rule, again))
        for rule, again in groups:
            place = dict(zip(CELL, cell, strict=True)) | {"rule": rule}
            rows += [place | {"seed": r.seed, "loss": r.loss} for r in again.itertuples()]
    return pd.DataFrame(rows, columns=[*CELL, "rule", "seed", "loss"])


def difference(a: pd.DataFrame, b: pd.DataFrame, noise: Levels) -> dict[str, Any] | None:
    """Mean of a - b over their common seeds with its interval; None without any."""
    both = a.merge(b, on="seed", suffixes=("_a", "_b"))
    if both.empty:
        return None
    apart = float((both.loss_a - both.loss_b).mean())
    if not math.isfinite(apart):
        return {"estimate": math.nan, "low": math.nan, "high": math.nan, "note": DIVERGED}
    half = noise.paired.quantile() * noise.paired.sd * math.sqrt(2 / len(both))
    return {"estimate": apart, "low": apart - half, "high": apart + half, "seeds": len(both)}


def _losses(losses, noise) -> Iterator[dict]:
    for place, runs in losses.groupby([*CELL, "rule"], sort=False):
        half = noise.total.quantile() * noise.total.sd / math.sqrt(len(runs))
        mean = runs.loss.mean(skipna=False)
        found = {"estimate": mean, "low": mean - half, "high": mean + half, "seeds": len(runs)}
        note = {} if math.isfinite(mean) else {"note": DIVERGED}
        yield {"quantity": "loss", **_place(place), **found, **note}


def _place(place) -> dict[str, Any]:
    return dict(zip((*CELL, "rule"), place, strict=True))


def _regrets(study, losses, noise) -> Iterator[dict]:
    """Nats lost in every size that was tuned too, and the tokens that they are worth."""
    base = study.settings["transfer"]["base"]
    groups = {key: runs for key, runs in losses.groupby([*CELL, "rule"], sort=False)}
    params = study.runs.groupby("model_size").non_embedding_params.first().astype(float)
    for place, runs in groups.items():
        optimizer, size, ratio, rule = place
        best, small = (groups.get((optimizer, s, ratio, TUNED)) for s in (size, base))
        if rule == TUNED or best is None:
            continue
        if (found := difference(runs, best, noise)) is None:
            continue
        yield {"quantity": "regret", **_place(place), **found}
        octaves = math.log2(params[size] / params[base])
        slope = (small.loss.mean() - best.loss.mean()) / octaves if small is not None else math.nan
        if slope > 0:
            ends = {n: 2 ** (found[n] / slope) for n in ("estimate", "low", "high")}
            note = f"{slope:.3f} nats per doubling of size and tokens"
            yield {"quantity": "tokens", **_place(place), **found, **ends, "note": note}


def _leads(losses, noise, baseline) -> Iterator[dict]:
    """Lead over the baseline where both are tuned, both constant, both by one rule."""
    groups = {key: runs for key, runs in losses.groupby([*CELL, "rule"], sort=False)}
    for place, runs in groups.items():
        optimizer, size, ratio, rule = place
        other = groups.get((baseline, size, ratio, rule))
        if optimizer == baseline or other is None:
            continue
        if (found := difference(other, runs, noise)) is not None:
            yield {"quantity": "lead", **_place(place), **found}


def _shifts(study, best, noise) -> Iterator[dict]:
    """How far the optima of a size that was tuned lie from the base's."""
    base = study.settings["transfer"]["base"]
    width = {name: given["hidden"] for name, given in study.settings["sizes"].items()}
    runs = study.finished
    runs = runs[runs[RULE].isna()] if RULE in runs else runs
    searched = runs.merge(best[[*CELL, "seed"]], on=[*CELL, "seed"])
    names = [name for name in settings(searched) if name != RULE]
    searched = searched[[*CELL, "loss", "non_embedding_params", *names]]
    found = optima(searched, told_by_sweeps(noise, searched).residual.sd)
    rates = {cell_name(row): row["hp_learning_rate"] for row in best.to_dict("records")}
    for (_, _, name), cells in found.groupby(["optimizer", "chinchilla_ratio", "hyperparameter"]):
        rows = {o.model_size: o for o in cells.itertuples()}
        if base not in rows:
            continue
        for size, o in rows.items():
            if size == base:
                continue
            octaves, start = math.log2(width[size] / width[base]), rows[base]
            place = _place((o.optimizer, size, o.chinchilla_ratio, TUNED))
            shift = _moved(start, o, octaves)
            yield {"quantity": f"shift of {name}", **place, **shift}
            if name == "weight_decay":
                ends = (cell_name(row._asdict()) for row in (o, start))
                rate = math.log2(rates[next(ends)] / rates[next(ends)]) / octaves
                swapped = {"estimate": "estimate", "low": "high", "high": "low"}
                power = {new: -(shift[old] + rate) for new, old in swapped.items()}
                yield {"quantity": "exponent", **place, **power, "note": shift["note"]}


def _moved(start, end, octaves: float) -> dict[str, Any]:
    """From one optimum to another per octave; squares of the distances to their ends add up."""
    middle = (end.x - start.x) / octaves
    down = math.hypot(end.x - end.x_low, start.x_high - start.x) / octaves
    up = math.hypot(end.x_high - end.x, start.x - start.x_low) / octaves
    edges = [f"{o.model_size} at the {o.edge} edge" for o in (start, end) if o.edge]
    return {"estimate": middle, "low": middle - down, "high": middle + up, "note": "; ".join(edges)}
