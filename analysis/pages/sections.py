"""The sections of a study's page, in the order of a reader's questions."""

import numpy as np
import pandas as pd

from analysis.pages import comparison, figures, page, verdicts
from analysis.pages.page import Raw
from analysis.pages.view import View
from analysis.runs import recorded
from analysis.runs.names import CELL, RACE, label, ordered, settings, size_order

DOUBTS = {  # kind of doubt: (how much it can undo, where the page shows it)
    "no noise": (0, "noise"),
    "no baseline": (0, "forest"),
    "unreadable": (1, ""),
    "unfinished": (1, "certificates"),
    "uncertified": (1, "certificates"),
    "missing": (2, "certificates"),
    "failed": (2, "certificates"),
    "settings": (2, ""),
    "edges": (2, "certificates"),
    "centres": (3, "certificates"),
    "effort": (3, "tuning_cost"),
    "no seeds": (3, ""),
    "noise": (4, "noise"),
    "law": (4, "losses"),
    "joint": (5, "speedups"),
    "ties": (6, "certificates"),
    "infeasible": (6, "certificates"),
}


class Figures:
    """Draws the figures of a page and keeps the data behind them."""

    def __init__(self):
        self.drawn = {}

    def __call__(self, draw, *arguments, **options) -> Raw:
        """A figure as HTML; one that has nothing to draw leaves nothing."""
        try:
            drawn = draw(*arguments, **options)
        except ValueError:
            return Raw("")
        self.drawn[drawn.name] = drawn
        return page.figure(drawn)


def head(f: View, show: Figures) -> Raw:
    """The answer: one sentence, one picture, and what the study could have told apart."""
    sentences = verdicts.verdicts(f)
    size, ratio = f.races[0].iloc[0][RACE]
    names = f.races[0]["optimizer"]
    gaps = [f.number("gap", "fair_losses", "nats_together", name, size, ratio) for name in names]
    halves = [(gap.high - gap.low) / 2 for gap in gaps if gap is not None]
    told = int(f.speedups["verdict"].isin(["faster", "slower"]).sum())
    rivals = int((f.speedups["verdict"] != "baseline").sum())
    least = []
    if f.noise:
        gap = f.of("noise", quantity="least_gap")["value"].iloc[0]
        least = [f"{told} of {rivals} cells from {f.base_label}'s, all claims together;"]
        least += [f"two single runs from {gap:.2g} nats on."]
    if halves:
        least += [f"Gaps of this race are known to ± {max(halves):.2g} nats."]
    others = [show(named_forest, f, race.iloc[0]["model_size"], race) for race in f.races[1:]]
    return Raw(
        f"<h1>{page.text(f.study.name)}: {len(f.study.runs)} runs of"
        f" {len(set(f.best['optimizer']))} optimizers</h1>"
        f'<p class="lead">{page.text(sentences[0])}</p>'
        + show(figures.forest, f)
        + page.paragraph(" ".join(["What this study could tell apart:", *least]) if least else
                         "No setting was run twice: nothing is known about the noise.", "note")
        + page.details("The other sizes, and the trend with size",
                       page.bullets(sentences[1:]) + "".join(others))
    )  # fmt: skip


def named_forest(f: View, name: str, race=None):
    """A forest plot under a name of its own, for pages with several."""
    drawn = figures.forest(f, race)
    drawn.name = f"forest_{name}"
    return drawn


def ranked_doubts(f: View) -> list[tuple[str, str]]:
    """(kind, sentence) of every doubt, by how much of the answer its kind can undo."""
    rows = [(row.quantity.rstrip(" 0123456789"), row.note) for row in f.of("doubt").itertuples()]
    return sorted(rows, key=lambda row: DOUBTS.get(row[0], (4, ""))[0])


def trust(f: View, show) -> str:
    """Doubts by how much they could move the answer; choices; certificates; noise."""
    card = f.headline_card
    moves = []
    if len(card):
        low, high = card["value"].min(), card["value"].max()
        cell = card.iloc[0]
        moves = [
            Raw(f"The headline speed-up of {page.text(label(cell['optimizer']))} at"
                f" {page.text(cell['model_size'])} is between {low:.2f} and {high:.2f}, whichever"
                ' way it is computed (<a href="#tornado">picture</a>).')
        ]  # fmt: skip
    items = moves + [_doubt(*row) for row in ranked_doubts(f)]
    return (
        (page.bullets(items, "doubts") if items else page.paragraph("No doubt was found."))
        + show(figures.tornado, f)
        + _certificates(f)
        + page.details("The searches in numbers", _searches(f))
        + (page.paragraph(f"Noise: {f.noise}.") if f.noise else "")
        + page.details("Runs that differ only in their seed", show(figures.noise, f))
    )


def _doubt(kind, sentence) -> Raw:
    place = DOUBTS.get(kind, (4, ""))[1]
    link = f' (<a href="#{place}">see</a>)' if place else ""
    return Raw(page.text(sentence) + link)


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
    heads = [
        "size",
        "budget",
        "optimizer",
        "trials",
        "lost by the start",
        "overturned by",
        "its certificate says",
    ]
    rows = []
    for cell in f.searches.to_dict("records"):
        where = _where(cell)
        words = [f"{n}: {cell[f'{n}_note']}" for n in admits if cell.get(n, 0) > 0]
        loses = [f.number("search", "certificate", n, *(cell[c] for c in CELL))
                 for n in ("start_regret", "overturn")]  # fmt: skip
        rows.append((where, [*_names(cell), cell["trials"], *loses, "; ".join(words)]))
    return page.table(heads, rows, search=True)


def _where(cell) -> dict:
    return dict(zip("osr", (cell[name] for name in CELL), strict=True))


def _names(cell) -> list:
    return [cell["model_size"], f"{cell['chinchilla_ratio']:g}×", label(cell["optimizer"])]


def explore(f: View, show) -> str:
    """Toggles; losses and speed-ups; curves; any two optimizers against each other."""
    sizes = {size: size for size in size_order(f.best)}
    ratios = {float(r): f"{r:g}×" for r in sorted(set(f.best["chinchilla_ratio"]))}
    bar = page.filters({n: label(n) for n in ordered(f.best["optimizer"])}, sizes, ratios)
    stops = [({}, [f"{100 * s.fraction:.0f} %", s.wrong_winner, s.wrong_pairs, s.regret])
             for s in f.early_stop.itertuples()]  # fmt: skip
    heads = ["share trained", "wrong winner", "wrong pairs", "loss given away"]
    return (
        page.paragraph("The toggles hold for the whole page; a double click leaves one.", "note")
        + bar.replace('class="filters"', 'class="filters" data-script hidden')
        + "<h3>Loss against budget and size</h3>"
        + show(figures.losses, f)
        + page.details("Against model size", show(figures.losses_by_size, f))
        + "<h3>Speed-up</h3>"
        + show(figures.speedups, f)
        + page.details("Against model size", show(figures.speedups_by_size, f))
        + "<h3>During training</h3>"
        + show(figures.lead, f)
        + page.details("Losses over training", show(figures.training, f))
        + page.details(
            "If the race were stopped early",
            show(figures.early_stop, f) + (page.table(heads, stops) if stops else ""),
        )
        + page.details("Norms of parameters and gradient", show(figures.norms, f))
        + comparison.compare(f)
    )


def tuning(f: View, show) -> str:
    """Valleys, borrowed settings, optima over scale, and what needs retuning."""
    swept = f.deviations["hyperparameter"].value_counts()
    names = [name for name in swept.index if name != "learning_rate"]
    race = [tuple(f.races[-1].iloc[0][RACE]), tuple(f.races[0].iloc[0][RACE])]
    richest = list(f.deviations.groupby(RACE).size().sort_values().index[-2:])
    races = [key for key in f.race_keys if key in (*race, *richest)]
    others = "".join(show(figures.valleys, f, name, races=races) for name in sorted(names))
    again = [(row, label(row.optimizer)) for row in f.of("sensitive", "robust").itertuples()]
    rows = [({"o": row.optimizer}, [name, row.quantity.replace("_", " "), row.note])
            for row, name in again if row.value]  # fmt: skip
    return (
        show(figures.valleys, f)
        + page.details("Every other hyper-parameter, where most was tried", others)
        + "<h3>With somebody else's settings</h3>"
        + show(figures.transfer, f)
        + "<h3>The optimum over scale</h3>"
        + show(figures.optima, f)
        + (page.details("What has to be tuned again at every scale", page.table(
            ["optimizer", "hyper-parameter", "why"], rows)) if rows else "")
    )  # fmt: skip


def use(f: View, show) -> str:
    """The winners with the command that runs each again; what it took to find them."""
    tuned = [f"hp_{name}" for name in f.study.tuned]
    heads = ["size", "budget", "optimizer", "loss", "settings", "again", "folder"]
    rows, headlines = ([], []), [tuple(race.iloc[0][RACE]) for race in f.races]
    for cell in f.best.to_dict("records"):
        where = tuple(cell[name] for name in CELL)
        loss = f.number("loss", "fair", "loss", *where)
        loss = loss or f.number("best", "sweep", "loss", *where)
        words = ", ".join(f"{n.removeprefix('hp_').replace('_', ' ')} {page.number(cell[n])}"
                          if isinstance(cell[n], float | int) else f"{n[3:]} {cell[n]}"
                          for n in tuned if not pd.isna(cell[n]))  # fmt: skip
        button = '<button type="button" data-copy data-script hidden>copy</button>'
        again = Raw(f"<details><summary>command</summary><code>{page.text(command(f, cell))}</code>"
                    f" {button}</details>")  # fmt: skip
        folder = Raw(f"<code>trials/{cell['hash']}</code>") if f.study.settings.get("name") else ""
        first = (cell["model_size"], cell["chinchilla_ratio"]) in headlines
        rows[not first].append((_where(cell), [*_names(cell), loss, words, again, folder]))
    spent = [
        ({"o": c.optimizer}, [label(c.optimizer), c.trials, c.diverged, float(c.tokens),
                              float(c.flops), c.seconds, c.compile_seconds])
        for c in f.cost.itertuples()
    ]  # fmt: skip
    costs = ["optimizer", "trials", "diverged", "tokens", "FLOPs", "device seconds", "compiling"]
    efficient = (show(figures.pareto, f, name) for name in ("seconds", "flops", "optimizer_bytes"))
    return (
        page.table(heads, rows[0], search=True)
        + page.details("Smaller budgets", rows[1] and page.table(heads, rows[1], search=True))
        + "<h3>What the search bought</h3>"
        + show(figures.best_so_far, f)
        + show(figures.tuning_cost, f)
        + page.details("The same as a table", page.table(costs, spent))
        + _around(f)
        + "<h3>Over all races</h3>"
        + show(figures.profile, f)
        + page.details("Loss against time, FLOPs and memory", "".join(efficient))
    )


def _around(f: View) -> str:
    """What of ours goes around each optimizer by import path, as its runs' configs say."""
    runs = f.study.runs
    if "hp_around" not in runs:
        return ""
    own = runs.dropna(subset="hp_around").drop_duplicates("optimizer")
    return page.bullets(
        f"Around {run.optimizer} goes, of ours: {run.hp_around.replace('+', ', ')}."
        for run in own.itertuples()
    )


def command(f: View, cell) -> str:
    """The command that trains a winner again."""
    name = f"{cell['model_size']},{cell['chinchilla_ratio']:g}x,{cell['optimizer']}"
    words = [f"python -m lm.train --config=configs/run.py:{name} --workdir=runs/again"]
    if f.study.name == recorded.NAME:  # configs/run.py starts from the recorded winners
        return words[0] + " --config.data.corpus=FOLDER"
    told = {f"optimizer.{n[3:]}": cell[n] for n in settings(f.best) if n != "hp_batch_size"}
    told |= {f"train.{n}": cell[n] for n in ("batch_size", "seed")}
    for part, names in (("data", ("corpus",)), ("eval", ("sequences", "points"))):
        known = f.study.settings.get(part, {})
        told |= {f"{part}.{n}": known.get(n) for n in names}
    for field, value in told.items():
        listed = isinstance(value, str) and value[:1] in "[{"
        if value is None or listed or (isinstance(value, float) and np.isnan(value)):
            continue
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        words.append(f"--config.{field}={value}")
    return " ".join(words)


def numbers(f: View, show) -> str:
    """What was raced and under which rule; all speed-ups; where the numbers come from."""
    runs, rule = f.study.runs, f.study.settings.get("rule", {})
    status = runs["status"].value_counts().items()
    facts = [
        ("budgets", "in multiples of 20 tokens per parameter outside the embedding"),
        ("search", rule.get("mode", "not recorded")),
        ("trials", ", ".join(f"{count} {name}" for name, count in status)),
    ]
    columns = ("corpus", "fingerprint", "seed", "commit", "device")
    for column in columns:
        values = sorted(runs[column].dropna().unique(), key=str)
        facts.append((column, ", ".join(map(str, values))))
    return (
        page.table(["", ""], [({}, list(fact)) for fact in facts])
        + page.paragraph(
            "Every number of this page is a row of numbers.csv beside it, with its interval and"
            " what it rests on; hover over a number or a marker for its line. table.csv holds"
            " losses and speed-ups without times.",
            "note",
        )
        + comparison.speedups(f)
    )


def downstream(f: View, show) -> str:
    """Accuracy on ten tasks against loss, and per cell."""
    scores = recorded.downstream()
    names = ordered(scores["optimizer"])
    wide = scores.pivot_table(index=RACE, columns="optimizer", values="average_pct", sort=False)
    rows = [({"s": size, "r": ratio}, [size, f"{ratio:g}×", *(float(row[n]) for n in names)])
            for (size, ratio), row in wide.iterrows()]  # fmt: skip
    return show(figures.downstream, scores) + page.details(
        "Per cell", page.table(["size", "budget", *map(label, names)], rows)
    )


STUDY = [
    ("Can I trust it?", trust),
    ("Explore", explore),
    ("Hyper-parameters", tuning),
    ("Use it", use),
    ("The numbers", numbers),
]
RECORDED = [
    *STUDY[:4],
    ("Three editions", comparison.editions),
    ("Downstream", downstream),
    STUDY[4],
]
