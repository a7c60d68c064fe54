"""How far each kind of doubt could move the answer: the losses and speed-ups of headline races.

A number here is what the doubt could do at the most where that can be read off the study, not what
it did: a search that stopped at the edge of its grid gains no more by the next step than it gained
by the last one, as valleys are convex.
"""

import numpy as np
import pandas as pd

from analysis.estimates.comparisons import headline_races
from analysis.estimates.searches import best_so_far
from analysis.estimates.table import Rows, pick
from analysis.runs.names import CELL, RACE, at
from analysis.runs.study import Study
from analysis.runs.winners import deviations
from analysis.stats.noise import Levels

ENOUGH = 5  # trials of a search that is compared with a longer one
NOISE = ("noise", "no seeds")  # kinds of doubt (`estimates.doubts`), by what they could do
UNSEARCHED = ("single settings", "unrecorded", "no centre")
STOPPED = ("uncertified", "unfinished", "missing", "failed")
REPORTED = ("settings", "centres")
CARD = {  # groups of choices on the sensitivity card, and the one whose first they are held against
    "law": (("fit window", "leave one out", "loss function", "losses"), "fit window"),
    "joint": (
        ("joint without a cell", "joint without a size", "joint without a ratio"),
        "procedure",
    ),
}


def put_reach(rows: Rows, study: Study, best: pd.DataFrame, noise: Levels | None) -> None:
    """A row per kind of doubt and unit, `nats` or `speedup`: the most it could move a number of a
    headline race, and the cell where; zero where it touches none of them."""
    numbers = rows.frame()
    kinds = {name.rstrip(" 0123456789") for name in pick(numbers, "doubt")["quantity"]}
    fair = pick(numbers, "loss", "fair", "loss")[[*CELL, "value"]]
    cells = best.assign(loss=best[CELL].merge(fair, on=CELL, how="left")["value"].to_numpy())
    cells["loss"] = cells["loss"].fillna(best["loss"])
    cells = pd.concat(headline_races(cells))
    worth = _worth(numbers, study.baseline)
    for names, found in (
        (NOISE, _half_widths(numbers)),
        (("edges",), _last_steps(study, cells[cells["edges"] != ""])),
        (("effort",), _shorter_searches(study, best, cells)),
        (STOPPED, _whole_searches(numbers, cells[~cells["complete"]])),
        (REPORTED, _beaten_centres(study, cells)),
        (("ties",), _ties(numbers, cells, noise)),
        (UNSEARCHED, _tuning(numbers)),
    ):
        for kind in sorted(kinds & set(names)):
            _put(rows, kind, "nats", found, cells)
    card = pick(numbers, "card")
    for kind in sorted(kinds & set(CARD)) if len(card) else ():
        changes = _choices(card, *CARD[kind])
        _put(rows, kind, "speedup", changes, cells)
        nats = [
            row.value / row.reference * worth.get((row.model_size, row.chinchilla_ratio), np.nan)
            for row in changes.itertuples()
        ]
        _put(rows, kind, "nats", changes.assign(value=nats), cells)


def _put(rows, kind, unit, found, cells):
    """The largest of a table of CELL, value, note; nothing where it is not known of any."""
    found = found.merge(cells[CELL], on=CELL)
    if found.empty:
        rows.put("reach", kind, unit, 0.0, note="touches no headline race", bound="upper")
    elif found["value"].notna().any():
        row = found.loc[found["value"].idxmax()]
        value, words = float(f"{row['value']:.2g}"), {"note": row["note"], "bound": "upper"}
        rows.put("reach", kind, unit, value, **words, **at(row))


def _choices(card, groups, against):
    """How far the choices of some groups move a speed-up, beside what they are held against."""
    first = card[card["procedure"] == against].drop_duplicates(CELL)
    found = card[card["procedure"].isin(groups)]
    found = found.merge(first[[*CELL, "value"]].rename(columns={"value": "reference"}), on=CELL)
    note = found["procedure"] + ": " + found["quantity"]
    value = (found["value"] - found["reference"]).abs()
    return found[[*CELL, "reference"]].assign(value=value, note=note)


def _worth(numbers, baseline) -> dict:
    """Race -> nats that a log of tokens is worth there, by the baseline's law."""
    law = pick(numbers, "data_law", "published_formula")
    law = law.pivot_table(index="model_size", columns="quantity", values="value")
    if not {"alpha", "exponent"} <= set(law):
        return {}
    races = pick(numbers, "speedup")[RACE].drop_duplicates().itertuples(index=False, name=None)
    return {
        (size, r): law.alpha[size] * law.exponent[size] * r ** -law.exponent[size]
        for size, r in races
        if size in law.index
    }


def _half_widths(numbers):
    gaps = pick(numbers, "gap", "fair_losses", "nats_together")
    note = "half-width of a gap to the baseline, all rivals together"
    return gaps[CELL].assign(value=(gaps["high"] - gaps["low"]) / 2, note=note)


def _last_steps(study, cells):
    """What a winner at an edge gained over the value inside it."""
    swept, found = deviations(study), []
    for cell in cells.to_dict("records"):
        mine = swept[(swept[CELL] == [cell[name] for name in CELL]).all(axis=1)]
        for name in cell["edges"].split():
            line = mine[(mine["hyperparameter"] == name) & mine["delta"].notna()]
            centre = pd.to_numeric(line["centre_value"], errors="coerce")
            away = (pd.to_numeric(line["value"], errors="coerce") - centre).abs()
            inside = line.loc[away[away > 0].nsmallest(1).index, "delta"]
            gained = max(inside.iloc[0], 0.0) if len(inside) else np.nan
            note = f"what the last step of {name} gained; the next gains no more"
            found.append(at(cell) | {"value": gained, "note": note})
    return pd.DataFrame(found, columns=[*CELL, "value", "note"])


def _shorter_searches(study, best, cells):
    """What a longer search would have lost with as many trials as the shortest of its race.

    Trials are drawn in random order, so fewer than ENOUGH tell nothing of a search.
    """
    found = best_so_far(study, best).merge(cells[CELL], on=CELL)
    spent = found.groupby(CELL)["trials"].transform("max")
    ends = found[found["trials"] == spent].set_index(CELL)["above"]
    least = found.groupby(CELL)["trials"].max().groupby(level=RACE).min()
    least = least.rename("least").reset_index()
    short = found.merge(least, on=RACE)
    short = short[short["trials"] == short["least"]]
    note = "with " + short["least"].astype(str) + " trials, as few as a rival of its race"
    lost = short["above"].to_numpy() - ends.loc[pd.MultiIndex.from_frame(short[CELL])].to_numpy()
    lost = np.where(short["least"] >= ENOUGH, lost, np.nan)
    return short[CELL].assign(value=lost, note=note)


def _whole_searches(numbers, cells):
    """What the study's other searches gained, start to end: the most that an open one may lack."""
    gained = pick(numbers, "search", "certificate", "start_regret")["value"]
    note = "the most that a search of this study gained over its start"
    return cells[CELL].assign(value=gained.max() if len(gained) else np.nan, note=note)


def _beaten_centres(study, cells):
    swept = deviations(study).merge(cells[CELL], on=CELL)
    best = swept.groupby(CELL, sort=False)["delta"].min().reset_index()
    note = "how far a neighbour lies below the centre that was reported"
    return best[CELL].assign(value=np.maximum(-best["delta"], 0.0), note=note)


def _ties(numbers, cells, noise):
    tied = pick(numbers, "search", "certificate", "ties")
    tied = tied[tied["value"] > 0]
    note = "settings of one optimizer are not told apart below this"
    levels = [noise.at(*race).residual if noise else None for race in tied[RACE].to_numpy()]
    margins = [level.margin(0.025, 1) if level else np.nan for level in levels]
    return tied[CELL].assign(value=margins, note=note)


def _tuning(numbers):
    """In all races alike: what settings may lose to the optimum."""
    value = pick(numbers, "noise", "optima", "tuning")["value"]
    note = "what the settings of a searched cell may lose to the optimum (median)"
    cells = pick(numbers, "best", "sweep", "loss")[CELL]
    return cells.assign(value=value.iloc[0] if len(value) else np.nan, note=note)
