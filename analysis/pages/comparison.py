"""Any two optimizers, or any two settings, against each other: four menus and what they show."""

import numpy as np
from scipy import stats

from analysis.estimates.comparisons import CHANCE
from analysis.pages import page
from analysis.pages.page import Raw
from analysis.pages.view import View
from analysis.runs.names import CELL, RACE, label, ordered, reading_order, settings

HEADS = (
    *("size", "budget", "A's loss below B's (nats)", "95 %", "at equal FLOPs", "at equal seconds"),
    *("memory A / B", "tokens: A | B", "seeds"),
)
PARTS = ("residual", "paired", "total")  # of the noise, by what two runs have in common


def compare(f: View) -> Raw:
    """Menus of optimizers and of their settings, and a table that the page's script fills."""
    names = ordered(f.best["optimizer"])
    if len(f.study.finished) < 2:
        return Raw("")
    best = f.races[0]["optimizer"].iloc[0]
    second = f.baseline if f.baseline in names and best != f.baseline else names[-1]
    menus = []
    for key, chosen in (("a", best), ("b", second)):
        options = "".join(
            f'<option value="{page.text(n)}"{" selected" * (n == chosen)}>{page.text(label(n))}'
            "</option>"
            for n in names
        )
        menus.append(
            f'<p><label>{key.upper()} <select id="optimizer-{key}">{options}</select></label>'
            f' <label>with <select id="setting-{key}"></select></label></p>'
        )
    head = "".join(page.heading(name) for name in HEADS)
    base = page.text(f.base_label)
    return Raw(
        '<div data-script hidden><h3 id="compare">Compare A with B</h3><p class="note">Tuned'
        " winners are compared by their fair losses, settings by their runs, on the seeds that both"
        " have where there are any; this pair alone. At equal FLOPs or seconds: the cheaper one has"
        f" that many more tokens, worth what {base}'s curve says; costs are an optimizer's medians."
        f" Tokens: how many times those {base} needs for the same loss.</p>"
        f'{"".join(menus)}<div class="table"><div class="scroll"><table><thead><tr>{head}</tr>'
        '</thead><tbody id="compared"></tbody></table></div></div></div>'
    )


def data(f: View) -> dict:
    """What the script compares with: pairs of winners, runs of every setting, noise and costs."""
    race = {key: place for place, key in enumerate(f.race_keys)}
    pairs, speed, rows = {}, {}, f.of("pair")
    for row in rows.itertuples():
        key = (row.optimizer, row.quantity.removeprefix("below_"), race[row[4:6]])
        ends = (round(x, 6) for x in (row.value, row.low, row.high))
        pairs["|".join(map(str, key))] = [*ends, row.note, f"numbers.csv line {row.Index + 2}"]
    for cell in f.speedups[CELL].itertuples(index=False, name=None):
        found = f.number("speedup", "robust_joint", "ratio", *cell)
        speed[f"{cell[0]}|{race[cell[1:]]}"] = "1" if cell[0] == f.baseline else str(found or "")
    costs = {f"{r.optimizer}|{r.model_size}|{r.quantity}": round(r.value, 5)
             for r in f.of("cost").itertuples()}  # fmt: skip
    return {
        "baseline": f.baseline,
        "costs": costs,
        "pairs": pairs,
        "power": round(float(stats.norm.ppf(CHANCE)), 6),
        "races": [[size, f"{ratio:g}", *_scales(f, size, ratio)] for size, ratio in f.race_keys],
        "settings": {name: _settings(f, name, race) for name in ordered(f.best["optimizer"])},
        "speed": speed,
    }


def _scales(f, size, ratio):
    """Nats that a log of tokens is worth by the baseline's law (or None); parts of the noise."""
    law, spreads = f.laws.get(size), {}
    for part in PARTS:
        noise = f.spread(part, size, ratio)
        if noise is not None and np.isfinite(noise.quantile()):
            spreads[part] = [float(f"{x:.6g}") for x in (noise.sd, noise.quantile())]
    worth = law and float(f"{law.alpha * law.exponent * ratio**-law.exponent:.6g}")
    return worth, spreads


def _settings(f, optimizer, race) -> dict:
    """An optimizer's settings in words, its finished runs, and which setting won each race.

    runs: race, setting, seed, loss, hash. won: race -> setting, seed that it was chosen on.
    """
    runs = f.study.finished[f.study.finished["optimizer"] == optimizer]
    names = [n for n in settings(runs) if runs[n].astype(str).nunique() > 1]
    names.sort(key="hp_learning_rate".__ne__)  # it comes first
    runs = runs.assign(words=[page.setting(row, names) for row in runs.to_dict("records")])
    each = runs.drop_duplicates("words").assign(model_size="", chinchilla_ratio=0.0)
    at = {words: place for place, words in enumerate(reading_order(each, then=names)["words"])}
    won = {}
    for best in f.best[f.best["optimizer"] == optimizer].to_dict("records"):
        words = page.setting(best, names)
        if words in at:
            won[race[_race(best)]] = [at[words], int(best["seed"])]
    found = [
        [race[_race(run)], at[run["words"]], int(run["seed"]), round(run["loss"], 6), run["hash"]]
        for run in runs.to_dict("records")
        if _race(run) in race
    ]
    return {"words": list(at), "runs": found, "won": won}


def _race(run) -> tuple:
    return tuple(run[name] for name in RACE)
