"""The sections of a study's page, in the order of a reader's questions."""

import numpy as np

from analysis.pages import comparison, figures, page, speedups, trust, verdicts
from analysis.pages.page import Raw
from analysis.pages.view import Number, View
from analysis.runs import recorded
from analysis.runs.names import CELL, RACE, label, ordered, settings, size_order


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


def explore(f: View, show) -> str:
    """Toggles; losses and speed-ups; curves; any two optimizers against each other."""
    sizes = {size: size for size in size_order(f.best)}
    ratios = {float(r): f"{r:g}×" for r in sorted(set(f.best["chinchilla_ratio"]))}
    bar = page.filters({n: label(n) for n in ordered(f.best["optimizer"])}, sizes, ratios)
    stops = [({}, [f"{100 * at:.0f} %", *(f.number("early_stop", f"at {at:g}", name)
                                          for name in ("wrong_winner", "wrong_pairs", "regret"))])
             for at in f.early_stop["fraction"]]  # fmt: skip
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
        words = page.setting(cell, tuned)
        button = '<button type="button" data-copy data-script hidden>copy</button>'
        again = Raw(f"<details><summary>command</summary><code>{page.text(command(f, cell))}</code>"
                    f" {button}</details>")  # fmt: skip
        folder = Raw(f"<code>trials/{cell['hash']}</code>") if f.study.settings.get("name") else ""
        first = (cell["model_size"], cell["chinchilla_ratio"]) in headlines
        rows[not first].append((page.where(cell), [*page.names(cell), loss, words, again, folder]))
    spent = []
    for name in f.cost["optimizer"]:
        counts = ("trials", "diverged", "tokens", "flops")
        found = [f.number("tuning", "all trials", n, name) for n in counts]
        found += [f.number("time", "tuning", n, name) for n in ("seconds", "compile_seconds")]
        spent.append(({"o": name}, [label(name), *found]))
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
        page.table(["what", "value"], [({}, list(fact)) for fact in facts])
        + page.paragraph(
            "Every number of this page is a row of numbers.csv beside it, with its interval and"
            " what it rests on; hover over a number or a marker for its line. table.csv holds"
            " losses and speed-ups without times.",
            "note",
        )
        + speedups.speedups(f)
    )


def downstream(f: View, show) -> str:
    """Accuracy on ten tasks against loss, and per cell."""
    scores = recorded.downstream()
    names = ordered(scores["optimizer"])
    wide = scores.pivot_table(index=RACE, columns="optimizer", values="average_pct", sort=False)
    source = ("", "best run as of May 2025", "average accuracy")
    rows = [({"s": size, "r": ratio},
             [size, f"{ratio:g}×", *(Number(row[n], np.nan, np.nan, *source) for n in names)])
            for (size, ratio), row in wide.iterrows()]  # fmt: skip
    return show(figures.downstream, scores) + page.details(
        "Per cell", page.table(["size", "budget", *map(label, names)], rows)
    )


STUDY = [
    ("Can I trust it?", trust.trust),
    ("Explore", explore),
    ("Hyper-parameters", tuning),
    ("Use it", use),
    ("The numbers", numbers),
]
RECORDED = [
    *STUDY[:4],
    ("Three editions", speedups.editions),
    ("Downstream", downstream),
    STUDY[4],
]
