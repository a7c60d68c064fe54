"""The sections of a study's report, from question to verdict: each turns findings into HTML.

`show(name, caption, draw)` is the report's: it draws a figure, keeps it for the files and returns
its HTML.
"""

import numpy as np
import pandas as pd

from analysis import figures, page, style
from analysis.figures.panels import short
from analysis.findings import BASELINE, Findings

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
    return f'<div class="verdict">{page.bullets(verdicts(f))}</div>' + (
        "<h3>What to doubt</h3>" + page.bullets(f.lint) if f.lint else ""
    )


def verdicts(f: Findings) -> list[str]:
    """Who wins at the largest budget of each size, who cannot be told from the winner, by how
    much."""
    sentences = []
    for size, at_size in f.speedups.groupby("model_size", sort=False):
        race = at_size[at_size["chinchilla_ratio"] == at_size["chinchilla_ratio"].max()]
        sentences.append(f"{size}, {race['chinchilla_ratio'].iloc[0]:g}×: {_who(race)}")
    return sentences


def _who(race: pd.DataFrame) -> str:
    race = race.sort_values("loss")
    first = race.iloc[0]
    name = style.label(first["optimizer"])
    if len(race) == 1:
        return f"only {name} was raced, loss {first['loss']:.4f}."
    sentence = f"{name} has the lowest loss, {first['loss']:.4f}"
    error = first["gap_error"]
    behind = race["loss"] - first["loss"]
    if not np.isfinite(error):
        sentence += f", {behind.iloc[1]:.4f} below {style.label(race['optimizer'].iloc[1])}"
        sentence += "; without repeated runs it cannot be said whether that is noise."
    else:
        tied = [
            style.label(n)
            for n in race.loc[behind <= error, "optimizer"]
            if n != first["optimizer"]
        ]
        if tied:
            sentence += f", not resolvable from {', '.join(tied)} (within ±{error:.4f})."
        else:
            second = style.label(race["optimizer"].iloc[1])
            sentence += (
                f", {behind.iloc[1]:.4f} below {second} (noise of a difference ±{error:.4f})."
            )
    if first["optimizer"] != BASELINE and np.isfinite(first["speedup"]):
        interval = (
            f" ({first['low']:.2f} to {first['high']:.2f})" if np.isfinite(first["low"]) else ""
        )
        if first["verdict"] == "not resolvable":
            sentence += " Its speed-up over AdamW is not resolvable at this budget."
        else:
            sentence += f" AdamW would need {first['speedup']:.2f}{interval} times the tokens."
    return sentence


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
    """AdamW's data law and the speed-ups by the published formula."""
    laws = page.table(
        f.law_table,
        {"model_size": "size", "ratios": "points", "alpha": "α", "exponent": "B", "floor": "β",
         "freedom": "degrees of freedom", "rms": "rms residual", "note": "note"},
    )  # fmt: skip
    table = f.speedups.assign(optimizer=f.speedups["optimizer"].map(style.label))
    columns = {"model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer"}
    columns |= {"loss": "loss", "gap": "below AdamW (nats)", "gap_error": "± noise"}
    columns |= {
        "speedup": "speed-up",
        "low": "low",
        "high": "high",
        "verdict": "verdict",
        "note": "note",
    }
    decimals = {"loss": 4, "gap": 4, "gap_error": 4, "speedup": 2, "low": 2, "high": 2}
    return (
        page.paragraph(
            "Speed-up is the data AdamW would need for the same loss, divided by the data used"
            " (arXiv 2509.02046): AdamW's losses at one size are fitted by L(r) = α r^−B + β,"
            " and the law is solved for r at the other optimizer's loss. Step time is not in it;"
            " the cost section has that."
        )
        + laws
        + show(
            "speedup_against_ratio",
            "Speed-up over AdamW in tokens against the budget. Bars carry the measured noise of"
            " every loss through the formula (95 %, first order); they do not contain the error"
            " of the law's form.",
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
            "Verdicts compare the two losses of a cell with the noise of a difference (95 %); 'not"
            " resolvable' says that this study cannot tell the two optimizers apart there.",
            "note",
        )
    )


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
        f"{f.noise}. A difference of two runs is real (95 %) from"
        f" {f.speedups['gap_error'].iloc[0]:.4f} nats on."
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
