"""The sections of a study's report, from question to verdict: each turns findings into HTML.

`show(name, caption, draw)` is the report's: it draws a figure, keeps it for the files and returns
its HTML.
"""

import numpy as np
import pandas as pd

from analysis import figures, page, races, recorded, style
from analysis.editions import EDITIONS, edition
from analysis.figures.panels import short
from analysis.findings import BASELINE, Findings
from analysis.races import largest_races
from analysis.records import CELL

RACE = ["model_size", "chinchilla_ratio"]


def question(f: Findings, show) -> str:
    """What was raced, on what, under which rule."""
    best, runs = f.best, f.study.runs
    names = [style.label(name) for name in style.ordered(best["optimizer"])]
    sizes = [
        f"{row.model_size} ({short(row.non_embedding_params)} non-embedding parameters)"
        for row in best.drop_duplicates("model_size").itertuples()
    ]
    ratios = ", ".join(f"{ratio:g}×" for ratio in sorted(best["chinchilla_ratio"].unique()))
    corpora = ", ".join(sorted(runs["corpus"].dropna().unique()))
    rule = f.study.settings.get("rule", {})
    threshold = f", threshold {rule['threshold']:g} nats" if "threshold" in rule else ""
    rows = [
        ("optimizers", ", ".join(names)),
        ("model sizes", ", ".join(sizes)),
        ("budgets", f"{ratios} Chinchilla (1× is 20 tokens per non-embedding parameter)"),
        ("data", corpora),
        ("search", f"{rule.get('mode', 'not recorded')} rule{threshold}"),
        ("trials", _outcomes(runs)),
        ("noise", f"{f.noise}" if f.noise else "not measured: no repeated runs"),
    ]
    return page.paragraph(
        "Which optimizer reaches the lowest validation loss with the same model and the same"
        " data, when each is tuned by the same rule, and how much data would AdamW need to get"
        " there?"
    ) + page.table(pd.DataFrame(rows, columns=["what", "value"]), {"what": "", "value": ""})


def _outcomes(runs) -> str:
    counts = runs["status"].value_counts()
    return ", ".join(f"{counts[s]} {s}" for s in ("finished", "diverged", "failed") if s in counts)


def verdict(f: Findings, show) -> str:
    """One sentence per size at its largest budget, and the doubts right below."""
    doubts = "<h3>What to doubt</h3>" + page.bullets(f.doubts) if f.doubts else ""
    return f'<div class="verdict">{page.bullets(verdicts(f))}</div>{doubts}'


def verdicts(f: Findings) -> list[str]:
    """Who wins at the largest budget of each size, who cannot be told from it, and the trend."""
    sentences = []
    for race in largest_races(f.speedups):
        first = race.iloc[0]
        name = f"{first['model_size']}, {first['chinchilla_ratio']:g}×: "
        sentences.append(name + _who_wins(race, f.noise) + _how_much(first))
    p = f.joint.decline_test() if f.joint and len(f.joint.sizes) > 1 else None
    if p is not None and len(f.trends):
        factors = ", ".join(
            f"{style.label(row.optimizer)} ×{row.factor:.3f} ({row.low:.3f} to {row.high:.3f})"
            for row in f.trends.itertuples()
        )
        change = "changes" if p < 0.05 else "cannot be shown to change"
        sentences.append(
            f"The speed-up over AdamW {change} with model size (joint model, p = {p:.2g}); factor"
            f" per doubling of the parameters: {factors}."
        )
    return sentences


def _who_wins(race: pd.DataFrame, level) -> str:
    first = race.iloc[0]
    name = style.label(first["optimizer"])
    if len(race) == 1:
        return f"only {name} was raced, loss {first['loss']:.4f}."
    behind = race["fair_loss"] - first["fair_loss"]
    second = style.label(race["optimizer"].iloc[1])
    sentence = f"{name} has the lowest loss, {first['fair_loss']:.4f}"
    if level is None:
        sentence += f", {behind.iloc[1]:.4f} below {second}"
        return sentence + "; without repeated runs nobody can say whether that is noise."
    error = races.quantile(level) * np.hypot(race["se"], first["se"])
    tied = race["optimizer"][(behind <= error) & (race["optimizer"] != first["optimizer"])]
    if len(tied):
        names = ", ".join(style.label(optimizer) for optimizer in tied)
        return f"{sentence}, not resolvable from {names} at this budget (±{error.iloc[1]:.4f})."
    return f"{sentence}, {behind.iloc[1]:.4f} below {second} (±{error.iloc[1]:.4f})."


def _how_much(row: pd.Series) -> str:
    if row["optimizer"] == BASELINE or not np.isfinite(row["speedup"]):
        return ""
    if row["verdict"] == "not resolvable":
        return " Its speed-up over AdamW is not resolvable at this budget."
    sentence = ""
    if np.isfinite(row["joint"]):
        sentence += f" AdamW would need {row['joint']:.2f} times the tokens by the joint model"
        sentence += f" ({row['joint_low']:.2f} to {row['joint_high']:.2f}"
        sentence += f"; {row['joint_note']})" if row["joint_note"] else ")"
        sentence += ","
    if row["bound"] == "lower":
        sentence += f" at least {row['robust']:.2f} by its own runs,"
    elif np.isfinite(row["robust"]):
        sentence += f" {row['robust']:.2f} ({row['robust_low']:.2f} to {row['robust_high']:.2f})"
        sentence += " by its own curve,"
    if np.isfinite(row["published"]):
        sentence += f" {row['published']:.2f} by the published formula,"
    return sentence.rstrip(",") + "."


def losses(f: Findings, show) -> str:
    """Best losses with the tuned settings."""
    names = [f"hp_{name}" for name in f.study.tuned]
    columns = {"model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer"}
    columns |= {
        "loss": "loss (nats/token)",
        "bits_per_byte": "bits/byte",
        "rerun_loss": "repeats' mean",
        "reruns": "repeats",
    }
    columns |= {"trials": "trials", "diverged": "diverged"} | {
        n: n.removeprefix("hp_").replace("_", " ") for n in names
    }
    columns |= {"edges": "at grid edge"}
    return (
        show(
            "loss_against_ratio",
            "Best validation loss of each tuned optimizer. The dotted line is AdamW's data law,"
            " fitted to the black points of its panel.",
            lambda: figures.loss_against_ratio(f.best, f.laws),
        )
        + show(
            "matrix_against_scalar",
            "How far the best matrix method (Muon, Scion, Kron, SOAP) and the best scalar method"
            " lie below AdamW.",
            lambda: figures.matrix_against_scalar(f.best),
        )
        + "<h3>Best losses and tuned hyper-parameters</h3>"
        + page.table(
            f.best.assign(optimizer=f.best["optimizer"].map(style.label)),
            columns,
            formats=dict.fromkeys(["loss", "bits_per_byte", "rerun_loss"], page.digits(4)),
            group="chinchilla_ratio",
        )
    )


def speed(f: Findings, show) -> str:
    """AdamW's data law and the speed-ups by three procedures."""
    laws = {"model_size": "size", "ratios": "points", "alpha": "α", "exponent": "B", "floor": "β"}
    laws |= {"freedom": "degrees of freedom", "rms": "rms residual", "note": "note"}
    columns = {"model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer"}
    columns |= {"fair_loss": "fair loss", "gap": "below AdamW (nats)", "gap_error": "±"}
    columns |= {"verdict": "verdict", "published": "published formula", "robust": "own curve"}
    columns |= {"robust_interval": "95 %", "joint": "joint model", "joint_interval": "95 %"}
    columns |= {"remark": "remark"}
    table = f.speedups[f.speedups["optimizer"] != BASELINE]
    table = table.assign(
        optimizer=table["optimizer"].map(style.label),
        robust_interval=_ends(table, "robust"),
        joint_interval=_ends(table, "joint"),
        remark=table["robust_note"].where(table["robust_note"] != "", table["published_note"]),
    )
    decimals = {"fair_loss": 4, "gap": 4, "gap_error": 4, "published": 2, "robust": 2, "joint": 2}
    return (
        page.paragraph(
            "Speed-up is the data AdamW would need for the same loss, divided by the data used. The"
            " published formula (arXiv 2509.02046) fits AdamW's losses at one size by"
            " L(r) = α r^−B + β and solves the law for r at the other optimizer's loss:"
        )
        + page.table(f.law_table, laws)
        + page.paragraph(
            "Two robust procedures stand beside it. 'Own curve' uses the same AdamW runs,"
            " carries the noise of every run, and gives a lower bound instead of extrapolating."
            " The 'joint model' lets all optimizers share one curve per size, with log speed-up"
            " linear in log size and log budget. Both use fair losses: the mean of the winner's"
            " repeats, or the best loss with the luck of being the best taken out. Step time is"
            " not in a speed-up; see Cost."
        )
        + show(
            "speedup_against_ratio",
            "Speed-up over AdamW in tokens against the budget. Lines and bands: joint model, 95 %."
            " Markers and bars: own curve, 95 %; an arrow is a lower bound. Dashes: published"
            " formula.",
            lambda: figures.speedup_against_ratio(f.speedups),
        )
        + show(
            "speedup_against_size",
            "The same speed-ups against model size.",
            lambda: figures.speedup_against_size(f.speedups),
        )
        + page.table(
            table,
            columns,
            formats={name: page.digits(count) for name, count in decimals.items()},
            group="chinchilla_ratio",
        )
        + page.paragraph(
            "Verdicts compare the fair losses of a cell with the noise of their difference (95 %);"
            " 'not resolvable' says that this study cannot tell the two optimizers apart there.",
            "note",
        )
        + _faster(f)
        + _cards(f)
    )


def _ends(table, name) -> list[str]:
    """`1.20 to 1.43`; open ends as infinity."""
    low, high = table[f"{name}_low"], table[f"{name}_high"]
    return [
        "" if np.isnan(a) else f"{a:.2f} to {'∞' if np.isinf(b) else format(b, '.2f')}"
        for a, b in zip(low, high, strict=True)
    ]


def _faster(f: Findings) -> str:
    """P(row is faster than column) at the largest race the joint model covers."""
    if f.joint is None or len(f.joint.columns) < 2:
        return ""
    race = f.speedups[f.speedups["joint"].notna()].iloc[-1]
    at = race["non_embedding_params"], race["chinchilla_ratio"]
    names = style.ordered([BASELINE, *f.joint.columns])
    rows = [
        {
            "than": style.label(a),
            **{b: f.joint.faster(a, b, *at) if a != b else None for b in names},
        }
        for a in names
    ]
    columns = {"than": "faster than →"} | {name: style.label(name) for name in names}
    heading = f"Who is faster at {race['model_size']}, {race['chinchilla_ratio']:g}×"
    formats = dict.fromkeys(names, page.digits(2))
    return (
        f"<h3>{page.text(heading)}</h3>"
        + page.paragraph(
            "Probability that the row is faster than the column (joint model).", "note"
        )
        + page.table(pd.DataFrame(rows), columns, formats=formats)
    )


def _cards(f: Findings) -> str:
    """How each headline moves with the choices behind it."""
    parts = []
    columns = {"group": "what is varied", "choice": "choice", "speedup": "speed-up"}
    columns |= {"change": "change", "low": "low", "high": "high"}
    formats = dict.fromkeys(["speedup", "low", "high"], page.digits(2))
    formats["change"] = lambda value: f"{value:+.2f}"
    for (optimizer, size, ratio), card in f.cards.items():
        heading = f"Sensitivity card: {style.label(optimizer)}, {size}, {ratio:g}×"
        largest = card["change"].abs().max()
        parts.append(
            f"<h3>{page.text(heading)}</h3>"
            + page.paragraph(
                f"One changed choice moves this headline by up to {largest:.2f}.", "note"
            )
            + page.table(card, columns, formats=formats, group="group")
        )
    return "".join(parts)


def tuning(f: Findings, show) -> str:
    """What each hyper-parameter does around the centre."""
    parts = []
    for size, ratio in _richest_cells(f.deviations):
        race = f.deviations[
            (f.deviations["model_size"] == size) & (f.deviations["chinchilla_ratio"] == ratio)
        ]
        parts.append(
            show(
                f"sensitivity_{size}_{ratio:g}x",
                f"{size}, {ratio:g}×: loss above the tuned centre when one hyper-parameter is"
                " changed. A triangle lies above the panel; a cross diverged.",
                lambda race=race: figures.sensitivity(race),
            )
        )
    parts.append(
        show(
            "learning_rate",
            "AdamW's learning rate alone: final loss, and the share of its data that a wrong"
            " value still puts to use (0.5: tuning this number is worth a factor of two in"
            " data).",
            lambda: figures.learning_rate(f.deviations, f.laws),
        )
    )
    parts.append(
        show(
            "weight_decay",
            "Final loss against weight decay.",
            lambda: figures.weight_decay(f.deviations),
        )
    )
    parts.append(
        show(
            "deviation_histogram",
            "How costly one wrong hyper-parameter is: share of all one-parameter deviations at"
            " least that far above the centre (number of deviations in brackets; diverged runs"
            " count as infinitely far).",
            lambda: figures.deviation_histogram(f.deviations),
        )
    )
    parts.append(
        show(
            "optimal_learning_rate",
            "Tuned learning rate against the budget in tokens. Grids are coarse: one step is a"
            " factor of two.",
            lambda: figures.optima_against_scale(f.best, "learning_rate"),
        )
    )
    return "".join(parts)


def _richest_cells(deviations, count=4):
    """The (size, ratio) races with most swept runs: largest budget first among equals."""
    if deviations.empty:
        return []
    swept = deviations.groupby(RACE, sort=False).size().rename("runs").reset_index()
    return list(
        swept.nlargest(count, "runs", keep="first")[RACE].itertuples(index=False, name=None)
    )


def training(f: Findings, show) -> str:
    """Curves of the winners, crossings and what an early stop would have decided."""
    crossings = f.crossings.assign(
        optimizer=f.crossings["optimizer"].map(style.label),
        leader=f.crossings["leader"].map(style.label),
    )
    largest = f.best.iloc[-1][RACE] if len(f.best) else None
    last = f.curves[(f.curves[RACE] == largest).all(axis=1)]
    return (
        show(
            "training_curves",
            "Validation loss of the tuned winners over training, second half. A ring marks where an"
            " optimizer and AdamW change places.",
            lambda: figures.training_curves(f.curves, f.crossings),
        )
        + show(
            "early_stop",
            "Left: how often the race at a fraction of training has another winner, or a pair"
            " another order, than at the end. Right: the final loss given away by trusting the"
            " early leader.",
            lambda: figures.early_stop(f.early_stop),
        )
        + _wrapped("Early stops", f.early_stop, {
            "fraction": "fraction trained", "races": "races", "wrong_winner": "wrong winner",
            "wrong_pairs": "pairs in the wrong order", "regret": "final loss given away (nats)",
        })
        + _wrapped("Crossings with AdamW", crossings, {
            "model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer",
            "fraction": "at fraction", "leader": "ahead from there",
        })
        + show(
            "norms",
            "Parameter norm, gradient norm and learning rate of the winners of the largest race.",
            lambda: figures.norms(last),
        )
    )  # fmt: skip


def _wrapped(heading, data, columns) -> str:
    if data.empty:
        return ""
    return f"<h3>{page.text(heading)}</h3>" + page.table(data, columns)


def noise(f: Findings, show) -> str:
    """Spread over seeds."""
    if f.noise is None:
        return page.paragraph(
            "No setting was run twice, so nothing is known about the noise. Repeating the"
            " winners with two more seeds is enough for a first estimate."
        )
    return page.paragraph(
        f"{f.noise}. A difference of two single runs is real (95 %) from"
        f" {races.quantile(f.noise) * np.sqrt(2) * f.noise.sigma:.4f} nats on."
    ) + show("noise", "Runs that differ only in their seed.", lambda: figures.noise(f.repeats))


def cost(f: Findings, show) -> str:
    """What tuning cost, and loss against time, FLOPs and memory."""
    table = f.cost.assign(optimizer=f.cost["optimizer"].map(style.label))
    columns = {"optimizer": "optimizer", "trials": "trials", "finished": "finished"}
    columns |= {"diverged": "diverged", "failed": "failed", "tokens": "tokens", "flops": "FLOPs"}
    columns |= {"seconds": "device seconds", "compile_seconds": "compile seconds"}
    formats = {"tokens": short, "seconds": page.digits(0), "compile_seconds": page.digits(0)}
    captions = {
        "seconds": "Loss against device seconds of the tuned run: here step time counts.",
        "flops": "Loss against model FLOPs of the tuned run.",
        "optimizer_bytes": "Loss against the memory of the optimizer's state.",
    }
    return (
        page.table(table, columns, formats=formats)
        + show(
            "tuning_cost", "What tuning each optimizer cost.", lambda: figures.tuning_cost(f.cost)
        )
        + "".join(
            show(
                f"pareto_{resource}",
                caption + " The grey staircase joins the efficient runs.",
                lambda resource=resource: figures.pareto(f.best, resource),
            )
            for resource, caption in captions.items()
        )
    )


def provenance(f: Findings, show) -> str:
    """Where the numbers come from."""
    runs = f.study.runs
    rows = [
        (name, ", ".join(str(value) for value in sorted(runs[column].dropna().unique(), key=str)))
        for name, column in (
            ("commits", "commit"),
            ("devices", "device"),
            ("corpus fingerprints", "fingerprint"),
            ("seeds", "seed"),
        )
    ]
    return page.table(pd.DataFrame(rows, columns=["what", "value"]), {"what": "", "value": ""}) + (
        page.paragraph(
            "Every figure lies beside this page as SVG, PNG and the CSV it was drawn from; the"
            " hash in its corner begins the SHA-256 of that CSV. numbers.csv holds every number"
            " in long form, table.csv the losses and speed-ups without times.",
            "note",
        )
    )


def editions(f: Findings, show) -> str:
    """The three published editions of the speed-ups beside the robust procedures."""
    table = f.speedups[f.speedups["optimizer"] != BASELINE].copy()
    for name in EDITIONS:
        values = edition(name)[[*CELL, "speedup"]].rename(columns={"speedup": name})
        table = table.merge(values, on=CELL, how="left")
    table["spread"] = table[list(EDITIONS)].max(axis=1) - table[list(EDITIONS)].min(axis=1)
    table["joint_interval"] = _ends(table, "joint")
    widest = table.loc[table["spread"].idxmax()]
    columns = {"model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer"}
    columns |= {"published_may_4pt": "May, 1–8×", "published_may_16x": "May, 1–16×"}
    columns |= {"published_final": "final, 1–16×", "spread": "spread", "joint": "joint model"}
    columns |= {"joint_interval": "95 %"}
    formats = dict.fromkeys([*EDITIONS, "spread", "joint"], page.digits(3))
    cell = f"{widest['model_size']}, {widest['chinchilla_ratio']:g}×"
    return page.paragraph(
        "The study's figures exist in three editions: losses of May 2025 with AdamW's law"
        " fitted on budgets 1–8×, the same losses with 16× added where it was run, and the"
        " final losses with 16×. Same formula, same optimizers; what differs is one more"
        " AdamW point in the fit and a few better runs. The largest spread is"
        f" {widest['spread']:.2f}, for {style.label(widest['optimizer'])} at {cell}."
    ) + page.table(
        table.assign(optimizer=table["optimizer"].map(style.label)),
        columns,
        formats=formats,
        group="chinchilla_ratio",
    )


def downstream(f: Findings, show) -> str:
    """Accuracy on ten tasks against loss."""
    return show(
        "downstream",
        "Average accuracy on ten tasks against the validation loss of the same run: loss decides,"
        " the optimizer adds little.",
        lambda: figures.downstream(recorded.downstream()),
    )


STUDY = [
    ("The question", question),
    ("The verdict", verdict),
    ("Losses", losses),
    ("Speed-up over AdamW", speed),
    ("Hyper-parameters", tuning),
    ("During training", training),
    ("Noise", noise),
    ("Cost", cost),
    ("Where the numbers come from", provenance),
]
RECORDED = [
    *STUDY[:4],
    ("Three editions", editions),
    *STUDY[4:7],
    ("Downstream", downstream),
    *STUDY[7:],
]
