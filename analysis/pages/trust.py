"""What to doubt: how far each doubt could move the answer, how every search ended, the noise."""

from typing import NamedTuple

from analysis.pages import figures, page
from analysis.pages.page import Raw
from analysis.pages.view import Number, View
from analysis.runs.names import CELL, label, ordered

# what leaves no answer at all, or another one
UNDO = ("no noise", "no baseline", "unreadable", "corpora", "kinds of device")
SHOWN = {  # kind of doubt: what shows it on the page, the first that is there
    "no noise": ("noise",),
    "no baseline": ("forest",),
    "one size": ("speedups_by_size",),
    "settings": ("valley_learning_rate",),
    "centres": ("valley_learning_rate",),
    "edges": ("valley_learning_rate",),
    "effort": ("best_so_far", "tuning_cost"),
    "noise": ("noise", "forest"),
    "no seeds": ("forest",),
    "law": ("losses",),
    "joint": ("tornado", "speedups"),
    **dict.fromkeys(
        ("unfinished", "uncertified", "missing", "failed", "no centre", "ties", "infeasible"),
        ("certificates",),
    ),
}


class Doubt(NamedTuple):
    """A doubt, and the most that it could move a loss or a speed-up of a headline race."""

    kind: str
    sentence: str
    nats: Number | None
    speedup: Number | None


def ranked_doubts(f: View) -> list[Doubt]:
    """What could undo the whole answer, then by what could move a loss the most, then the rest."""
    found = []
    for row in f.of("doubt").itertuples():
        kind = row.quantity.rstrip(" 0123456789")
        numbers = []
        for unit in ("nats", "speedup"):
            reach = f.of("reach", kind, unit)
            keys = [tuple(r) for r in reach[CELL].itertuples(index=False)]
            numbers.append(f.number("reach", kind, unit, *keys[0]) if keys else None)
        found.append(Doubt(kind, row.note, *numbers))
    return sorted(found, key=_rank)


def _rank(doubt) -> tuple:
    if doubt.nats is None:
        return (0 if doubt.kind in UNDO else 2, 0.0)
    return (1, -doubt.nats.value)


def trust(f: View, show) -> str:
    """Doubts by how much they could move the answer; choices; certificates; noise."""
    return (
        _doubts(f, show)
        + show(figures.tornado, f)
        + _certificates(f)
        + page.details("The searches in numbers", _searches(f))
        + (page.paragraph(f"Noise: {f.noise}.") if f.noise else "")
        + page.details("Runs that differ only in their seed", show(figures.noise, f))
    )


def _doubts(f, show) -> Raw:
    found, words = ranked_doubts(f), []
    best = f.races[0].iloc[0]
    behind = f.number("race", "fair_losses", "behind_best", *best[CELL])
    if behind is not None:
        lead = behind._replace(value=-behind.value, low=-behind.high, high=-behind.low)
        words.append(
            Raw(f"{page.text(label(best['optimizer']))} leads the race of"
                f" {page.text(best['model_size'])}, {best['chinchilla_ratio']:g}×, by {lead} nats:"
                " a doubt that could move a loss by more could undo that.")
        )  # fmt: skip
    card = f.headline_card
    if len(card):
        low, high, cell = card["value"].min(), card["value"].max(), card.iloc[0]
        words.append(
            Raw(f"Whichever way it is computed, the speed-up of"
                f" {page.text(label(cell['optimizer']))} at {page.text(cell['model_size'])} is"
                f' between {low:.2f} and {high:.2f} (<a href="#tornado">picture</a>).')
        )  # fmt: skip
    if not found:
        words.append("No doubt was found.")
    else:
        words.append("Below, how much each doubt could move a loss, or a speed-up, at the most.")
    rows = [({}, [d.nats, d.speedup, _linked(d, show)]) for d in found]
    table = page.table(["nats", "speed-up", "doubt"], rows, css="doubts") if rows else ""
    return Raw(page.paragraph(Raw(" ".join(words))) + table)


def _linked(doubt, show) -> Raw:
    """The sentence, with a link to the first picture of the doubt that the page has."""
    there = {"certificates", *show.drawn}
    place = next((name for name in SHOWN.get(doubt.kind, ()) if name in there), None)
    link = f' <a href="#{place}">see</a>' if place else ""
    return Raw(page.text(doubt.sentence) + link)


SIGNS = {
    "done": "●", "tie": "≈", "edge": "⊣", "missing": "○", "failed": "✕", "open": "…", "none": "",
}  # fmt: skip


def _certificates(f: View) -> Raw:
    """A grid of races and optimizers: how each search ended."""
    searches = {tuple(row[n] for n in CELL): row for row in f.searches.to_dict("records")}
    cells = {tuple(row[n] for n in CELL): row for row in f.best.to_dict("records")}
    names, keys = ordered(f.best["optimizer"]), f.race_keys
    rows = []
    for name in names:
        signs = [_sign(cells.get((name, *k)), searches.get((name, *k), {})) for k in keys]
        rows.append(f'<tr data-o="{page.text(name)}"><th scope="row">{page.text(label(name))}</th>'
                    f"{''.join(signs)}</tr>")  # fmt: skip
    heads = "".join(f'<th scope="col">{page.text(s)}<br>{r:g}×</th>' for s, r in keys)
    words = {"●": "done", "≈": "tie", "⊣": "optimum may lie outside", "○": "neighbours missing",
             "✕": "a trial failed", "…": "no certificate"}  # fmt: skip
    key = " ".join(f"{sign} {what}" for sign, what in words.items())
    return Raw(
        f'<h3 id="certificates">How each search ended</h3><p class="note">{key}</p>'
        f'<div class="scroll"><table class="cells"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _sign(cell, search) -> str:
    if cell is None:
        return "<td></td>"
    listed = {"failed": "failed", "missing": "missing", "edge": "edges", "tie": "ties"}
    kind = next((k for k, n in listed.items() if search.get(n, 0) > 0), "done")
    if kind == "done" and cell["edges"]:
        kind = "edge"
    kind = "open" if not cell["complete"] and kind not in ("failed", "missing") else kind
    words = [f"{search[n]:.0f} {n} ({search[f'{n}_note']})" for n in listed.values()
             if search.get(n, 0) > 0]  # fmt: skip
    tip = f"{label(cell['optimizer'])} {cell['model_size']} {cell['chinchilla_ratio']:g}×:"
    tip += f" {cell['trials']} trials, run {cell['hash']}. {'; '.join(words) or 'at rest'}"
    bad = "" if kind in ("done", "tie") else ' class="bad"'
    return f'<td{bad} title="{page.text(tip)}">{SIGNS[kind]}</td>'


def _searches(f: View) -> Raw:
    if f.searches.empty:
        return Raw("")
    admits = ("ties", "edges", "missing", "failed", "infeasible", "refused", "sensitive", "laws")
    heads = ["size", "budget", "optimizer", "trials", "lost by the start", "overturned by"]
    rows = []
    for cell in f.searches.to_dict("records"):
        here = tuple(cell[name] for name in CELL)
        words = [f"{n}: {cell[f'{n}_note']}" for n in admits if cell.get(n, 0) > 0]
        found = [f.number("best", "sweep", "trials", *here)]
        found += [f.number("search", "certificate", n, *here) for n in ("start_regret", "overturn")]
        rows.append((page.where(cell), [*page.names(cell), *found, "; ".join(words)]))
    return page.table([*heads, "its certificate says"], rows, search=True)
