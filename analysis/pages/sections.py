"""The sections of a study's report, from question to verdict: each turns a view into HTML.

`show(name, caption, draw)` is the report's: it draws a figure, keeps it for the files and returns
its HTML.
"""

import pandas as pd

from analysis.pages import comparison, figures, page, verdicts
from analysis.pages.figures.panels import short
from analysis.pages.view import View
from analysis.runs import recorded
from analysis.runs.names import RACE, label, ordered


def question(f: View, show) -> str:
    """What was raced, on what, under which rule."""
    best, runs = f.best, f.study.runs
    names = [label(name) for name in ordered(best["optimizer"])]
    sizes = [
        f"{row.model_size} ({short(row.non_embedding_params)} non-embedding parameters)"
        for row in best.drop_duplicates("model_size").itertuples()
    ]
    ratios = ", ".join(f"{ratio:g}×" for ratio in sorted(best["chinchilla_ratio"].unique()))
    corpora = ", ".join(sorted(runs["corpus"].dropna().unique()))
    rule = f.study.settings.get("rule", {})
    threshold = f", threshold {rule['threshold']:g} nats" if rule.get("threshold") else ""
    rows = [
        ("optimizers", ", ".join(names)),
        ("model sizes", ", ".join(sizes)),
        ("budgets", f"{ratios} Chinchilla (1× is 20 tokens per non-embedding parameter)"),
        ("data", corpora),
        ("search", f"{rule.get('mode', 'not recorded')} rule{threshold}"),
        ("trials", _outcomes(runs)),
        ("noise", f.noise or "not measured: no repeated runs"),
    ]
    return page.paragraph(
        "Which optimizer reaches the lowest validation loss with the same model and the same"
        " data, when each is tuned by the same rule, and how much data would"
        f" {f.base_label} need to get there?"
    ) + page.table(pd.DataFrame(rows, columns=["what", "value"]), {"what": "", "value": ""})


def _outcomes(runs) -> str:
    return ", ".join(f"{count} {status}" for status, count in runs["status"].value_counts().items())


def verdict(f: View, show) -> str:
    """One sentence per size at its largest budget, and the doubts right below."""
    doubts = "<h3>What to doubt</h3>" + page.bullets(f.doubts) if f.doubts else ""
    return f'<div class="verdict">{page.bullets(verdicts.verdicts(f))}</div>{doubts}'


def losses(f: View, show) -> str:
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
            "Best validation loss of each tuned optimizer. The dotted line is"
            f" {f.base_label}'s data law.",
            lambda: figures.loss_against_ratio(f.best, f.laws, baseline=f.baseline),
        )
        + show(
            "matrix_against_scalar",
            "How far the best matrix method (Muon, Scion, Kron, SOAP) and the best scalar method"
            f" lie below {f.base_label}.",
            lambda: figures.matrix_against_scalar(f.best, baseline=f.baseline),
        )
        + "<h3>Best losses and tuned hyper-parameters</h3>"
        + page.table(
            f.best.assign(optimizer=f.best["optimizer"].map(label)),
            columns,
            formats=dict.fromkeys(["loss", "bits_per_byte", "rerun_loss"], page.digits(4)),
            group="chinchilla_ratio",
        )
    )


def search(f: View, show) -> str:
    """What each certificate admits about its cell's search."""
    if f.searches.empty:
        return ""
    columns = {"model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer"}
    columns |= {"trials": "trials", "start_regret": "lost by the start (nats)", "moves": "moves"}
    columns |= {"overturn": "overturned by (nats)", "overturn_note": "of"}
    columns |= {"ties": "ties", "ties_note": "not told apart", "edges": "edges"}
    columns |= {"edges_note": "at the end of what was tried"}
    for name in ("missing", "failed", "infeasible", "refused"):
        columns |= (
            {name: name, f"{name}_note": "which"}
            if f.searches.get(name, pd.Series([0])).any()
            else {}
        )
    return page.paragraph(
        "A cell's certificate names its centre and admits what would change it: how far the loss of"
        " another run would have to fall, which contenders were not told apart, which chosen values"
        " end what was tried, and which neighbours are missing or could not be run."
    ) + page.table(
        f.searches.assign(optimizer=f.searches["optimizer"].map(label)),
        columns,
        formats=dict.fromkeys(["start_regret", "overturn"], page.digits(4)),
        group="chinchilla_ratio",
    )


def tuning(f: View, show) -> str:
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
            f"{f.base_label}'s learning rate alone: final loss, and the share of its data that"
            " a wrong value still puts to use (0.5: tuning this number is worth a factor of two in"
            " data).",
            lambda: figures.learning_rate(f.deviations, f.laws, f.baseline),
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
            "Best learning rate by a local parabola, with its 95 % interval, against the budget;"
            " lines are a law over size and budget. An open interval means that the grid does"
            " not bound the optimum.",
            lambda: figures.optima_against_scale(f.optima, "learning_rate"),
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


def training(f: View, show) -> str:
    """Curves of the winners, crossings and what an early stop would have decided."""
    crossings = f.crossings.assign(
        optimizer=f.crossings["optimizer"].map(label),
        leader=f.crossings["leader"].map(label),
    )
    largest = f.best.iloc[-1][RACE] if len(f.best) else None
    last = f.curves[(f.curves[RACE] == largest).all(axis=1)]
    return (
        show(
            "training_curves",
            "Validation loss of the tuned winners over training, second half. A ring marks where an"
            f" optimizer and {f.base_label} change places.",
            lambda: figures.training_curves(f.curves, f.crossings),
        )
        + show(
            "lead_over_training",
            f"The same runs as a lead over {f.base_label} at the same point of training: a line"
            " through zero is a ranking that flips before the end.",
            lambda: figures.lead_over_training(f.curves, f.baseline),
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
            "costly": "by over 0.003 nats", "wrong_pairs": "pairs in the wrong order",
            "regret": "final loss given away (nats)",
        })
        + _wrapped(f"Crossings with {f.base_label}", crossings, {
            "model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer",
            "fraction": "at fraction", "leader": "ahead from there",
        })
        + show(
            "norms",
            "Norms of parameters and gradient (before clipping), in all and per role: winners of"
            " the largest race.",
            lambda: figures.norms(last),
        )
    )  # fmt: skip


def _wrapped(heading, data, columns) -> str:
    if data.empty:
        return ""
    return f"<h3>{page.text(heading)}</h3>" + page.table(data, columns)


def noise(f: View, show) -> str:
    """Spread over seeds."""
    if not f.noise:
        return page.paragraph(
            "No setting was run twice, so nothing is known about the noise. Repeating the"
            " winners with two more seeds is enough for a first estimate."
        )
    least = f.of("noise", quantity="least_gap")["value"].iloc[0]
    words = page.paragraph(
        f"The loss moves by {f.noise}. A difference of two single runs on one seed is real (95 %)"
        f" from {least:.4f} nats on."
    )
    if f.repeats.empty:
        return words
    return words + show(
        "noise", "Runs that differ only in their seed.", lambda: figures.noise(f.repeats)
    )


def cost(f: View, show) -> str:
    """What tuning cost, and loss against time, FLOPs and memory."""
    table = f.cost.assign(optimizer=f.cost["optimizer"].map(label))
    columns = {"optimizer": "optimizer", "trials": "trials", "finished": "finished"}
    columns |= {
        "diverged": "diverged",
        "infeasible": "infeasible",
        "tokens": "tokens",
        "flops": "FLOPs",
    }
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


def provenance(f: View, show) -> str:
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


def downstream(f: View, show) -> str:
    """Accuracy on ten tasks against loss, and per cell."""
    scores = recorded.downstream()
    cells = scores.pivot_table(
        index=RACE,
        columns="optimizer",
        values="average_pct",
        sort=False,
    ).reset_index()
    columns = {"model_size": "size", "chinchilla_ratio": "ratio"}
    columns |= {name: label(name) for name in ordered(scores["optimizer"])}
    return show(
        "downstream",
        "Average accuracy on ten tasks against the validation loss of the same run: loss decides,"
        " the optimizer adds little.",
        lambda: figures.downstream(scores),
    ) + page.table(cells, columns)


STUDY = [
    ("The question", question),
    ("The verdict", verdict),
    ("Losses", losses),
    ("Speed-up", comparison.speed),
    ("The search", search),
    ("Hyper-parameters", tuning),
    ("During training", training),
    ("Noise", noise),
    ("Cost", cost),
    ("Where the numbers come from", provenance),
]
RECORDED = [
    *STUDY[:4],
    ("Three editions", comparison.editions),
    *STUDY[4:8],
    ("Downstream", downstream),
    *STUDY[8:],
]
