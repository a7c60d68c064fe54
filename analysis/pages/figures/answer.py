"""The answer and what it rests on: forest plot, tornado of choices, spread over seeds."""

import numpy as np

from analysis.pages.svg import Figure, Panel, Scale
from analysis.pages.view import View
from analysis.runs.names import CELL, RACE, label, ordered

ROW = 23  # pixels
LAW = "the law beyond"  # in the note of a speed-up that the baseline's data do not reach


def forest(f: View, race=None) -> Figure:
    """Every optimizer of a race: loss below the baseline, and speed-up, with intervals.

    Args:
      race: one of `View.races`; that of the largest size by default.

    Bars hold together over the race's rivals. A band marks who cannot be told from the best. A
    hollow marker is a law's value beyond the baseline's data.
    """
    race = f.races[0] if race is None else race
    names, (size, ratio) = list(race["optimizer"]), race.iloc[0][RACE]
    tied = set(race["optimizer"][race["behind_low"] <= 0]) if len(race) > 1 else set()
    below, needs = f"loss below {f.base_label} (nats per token)", f"tokens {f.base_label} needs for"
    axes = [  # what no difference is, words, numbers
        (0.0, below, "gap"),
        (1.0, f"{needs} the same loss, multiples", "speedup"),
        (0.0, "loss above the best other's (nats)", "behind"),
    ]
    panels, beyond = [], False
    for null, words, what in axes[: None if f.baseline not in names else 2]:
        found = f.headline(what, race)
        if any(found.values()):
            panels.append(_rows(f, found, tied, null, words))
            beyond |= any(n and LAW in n.source for n in found.values())
    if not panels:
        raise ValueError(f"{size}, {ratio:g}×: nobody to compare with")
    columns = [*CELL, "fair_loss", "gap", "gap_low", "gap_high", "speedup", "low", "high"]
    caption = f"{size}, {ratio:g}×, best first. Bars: 95 %, rivals of this race together."
    if len(tied) > 1:
        caption += " Shaded: cannot be told from the best."
    caption += _undecided(f, race)
    if beyond:
        caption += f" Hollow: by the law, beyond {f.base_label}'s largest budget."
    return Figure("forest", caption, race[[*columns, "verdict"]], panels)


def _undecided(f, race) -> str:
    """Why some are not told from the baseline although their bars are clear of it."""
    gaps, every = f.headline("gap", race), f.of("gap", "fair_losses", "p_together")
    open_ = race[(race["verdict"] == "not resolvable") & race["together"].notna()]
    clear = [r for r in open_.itertuples() if gaps[r.optimizer].low * gaps[r.optimizer].high > 0]
    listed = ", ".join(f"{label(r.optimizer)} p = {r.together:.2g}" for r in clear)
    if not clear:
        return ""
    return f" Verdicts hold for all {len(every)} gaps of the report together (Holm: {listed})."


def _rows(f, found, tied, null, words) -> Panel:
    """A row per optimizer: marker and interval."""
    shown = [n for n in found.values() if n is not None]
    ends = [x for n in shown for x in (n.value, n.low, n.high) if np.isfinite(x)]
    spread = max(abs(n.value - null) for n in shown) or abs(null) or 1.0
    x = Scale([null, *np.clip(ends, null - 3 * spread, null + 3 * spread)])
    y = Scale([0, len(found) - 1], ticks={}, pad=0.5 / max(len(found) - 1, 1))
    height = ROW * len(found) + 44
    panel = Panel("", x, y, width=470, height=height, left=88, top=6, x_title=words)
    for place, name in enumerate(found):
        row = len(found) - 1 - place
        if name in tied:
            top = panel.py(row) - ROW / 2
            panel.rectangle(panel.box[0], top, panel.box[2] - panel.box[0], ROW + 1, "tied")
    panel.vertical(null)
    for place, (name, number) in enumerate(found.items()):
        row = len(found) - 1 - place
        panel.text(panel.box[0] - 8, panel.py(row) + 4, label(name), "end")
        with panel.of(name):
            if name == f.baseline:
                panel.marker(name, null, row, f"{label(name)}: the baseline")
            elif number is not None:
                panel.whisker(row, number.low, number.high, across=True)
                hollow = LAW in number.source
                panel.marker(name, number.value, row, number.tip, hollow=hollow)
    return panel


def tornado(f: View) -> Figure:
    """One headline speed-up under every choice that went into it, widest choice first."""
    card = f.headline_card
    if card.empty:
        raise ValueError("no speed-up of a headline race has a sensitivity card")
    cell = card.iloc[0][CELL]
    reference = card["value"][card["procedure"] == "procedure"]
    reference = float(reference.iloc[0] if len(reference) else card["value"].iloc[0])
    groups = [(name, group) for name, group in card.groupby("procedure") if name != "procedure"]
    reach = {name: abs(group["value"] - reference).max() for name, group in groups}
    groups.sort(key=lambda pair: (-reach[pair[0]], pair[0]))
    x = Scale([1.0, reference, *card["value"]])
    y = Scale([0, len(groups) - 1], ticks={}, pad=0.5 / max(len(groups) - 1, 1))
    words = f"speed-up of {label(cell['optimizer'])} at {cell['model_size']},"
    panel = Panel("", x, y, width=620, height=ROW * len(groups) + 44, left=170, top=6,
                  x_title=f"{words} {cell['chinchilla_ratio']:g}×; line: joint model")  # fmt: skip
    panel.vertical(1.0, "grid")
    with panel.of(cell["optimizer"]):
        for place, (name, group) in enumerate(groups):
            row = len(groups) - 1 - place
            low, high = min(group["value"].min(), reference), max(group["value"].max(), reference)
            panel.text(panel.box[0] - 8, panel.py(row) + 4, name, "end")
            choices = "; ".join(
                f"{r.quantity} {r.value:.3f} (line {r.Index + 2})" for r in group.itertuples()
            )
            at, width = panel.px(low), max(panel.px(high) - panel.px(low), 1.5)
            panel.rectangle(at, panel.py(row) - 7, width, 14, "bar", choices)
        panel.vertical(reference)
    caption = "How far each kind of choice moves the headline speed-up; hover for every choice and"
    caption += " its line of numbers.csv."
    columns = [*CELL, "procedure", "quantity", "value", "low", "high"]
    return Figure("tornado", caption, card[columns], [panel])


def noise(f: View) -> Figure:
    """Loss of runs that differ only in their seed, about the mean of their setting."""
    table = f.repeats.assign(setting=f.repeats["setting"].astype(str))
    if table.empty:
        raise ValueError("no setting was run twice")
    means = table.groupby("setting")["loss"].transform("mean")
    table = table.assign(above=table["loss"] - means)
    races = list(table.groupby(RACE, sort=False).groups)
    names = ordered(table["optimizer"])
    ticks = {i: f"{size} {ratio:g}×" for i, (size, ratio) in enumerate(races)}
    x = Scale([-0.45, len(races) - 0.55], ticks=ticks, pad=0)
    width = max(330, min(70 * len(races) + 60, 940))
    panel = Panel("", x, Scale(table["above"]), width=width, left=56, top=8,
                  y_title="loss − mean of its seeds (nats)")  # fmt: skip
    panel.horizontal(0)
    for number, name in enumerate(names):
        shift = 0.7 * ((number + 0.5) / len(names) - 0.5)
        with panel.of(name):
            for run in table[table["optimizer"] == name].itertuples():
                at = races.index((run.model_size, run.chinchilla_ratio)) + shift
                tip = f"{label(name)} {run.model_size} {run.chinchilla_ratio:g}×, seed {run.seed}"
                tip += f": {run.loss:.4f}; run {run.hash}"
                panel.marker(name, at, run.above, tip, radius=3)
    caption = "Runs that differ only in their seed."
    return Figure("noise", caption, table[[*CELL, "hash", "seed", "loss", "above"]], [panel], names)
