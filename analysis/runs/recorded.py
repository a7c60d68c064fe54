"""The recorded study (arXiv 2509.02046) in the shape of a results folder, so that one report serves
both."""

import json

import pandas as pd

from analysis import published
from analysis.estimates import tables
from analysis.runs.reader import CELL, RUN_COLUMNS, Study

NAME = "arXiv 2509.02046, as recorded"
DOUBTS = (
    "No run was repeated with another seed: the noise comes from epsilon changes that cannot"
    " matter, with the same data order, and bounds the seed noise from below.",
    "2,141 of the study's 4,636 runs are recorded, the centres and their one-parameter deviations;"
    " the settings of 12 of the 150 best losses are unknown.",
    "The 16x runs, and 1.2b but for AdamW at 1x, are single settings without a search.",
    "Times and optimizer memory were not recorded: nothing can be said about seconds or bytes.",
    "Curves and downstream scores are those of the best runs as of May 2025.",
)


def study() -> Study:
    """Recorded runs, the validation curves of the winners, and no certificates."""
    runs = published.runs()
    runs = runs.assign(
        hash=[f"{row:04d}" for row in range(len(runs))],
        batch_size=runs["hp_batch_size"],
        non_embedding_params=runs["model_size"].map(published.PARAMS),
        corpus="DCLM baseline, StarCoder, ProofPile 2",
    )
    runs["flops"] = 6.0 * runs["non_embedding_params"] * runs["tokens"]
    settings = sorted(name for name in runs if name.startswith("hp_"))
    return Study(
        name=NAME,
        runs=runs.reindex(columns=[*RUN_COLUMNS, "role", "changed", "value", *settings]),
        curves=_curves(),
        cells=pd.DataFrame(columns=[*CELL, "centre_hash"]),
        settings={"rule": {"mode": "published", "threshold": 3e-3}},
    )


def best() -> pd.DataFrame:
    """The best loss of every cell as published, with the columns of `tables.best`."""
    table = published.best()
    runs = published.runs()
    groups = runs[runs["status"] != "missing"].groupby(CELL)
    keys = pd.MultiIndex.from_frame(table[CELL])
    diverged = groups["status"].agg(lambda status: int((status == "diverged").sum()))
    return tables.reading_order(
        table.assign(
            hash=_curve_name(table),
            status="finished",
            bits_per_byte=float("nan"),
            trials=groups.size().reindex(keys, fill_value=1).to_numpy(),
            diverged=diverged.reindex(keys, fill_value=0).to_numpy(),
            complete=True,
            edges=_edges(table),
            reruns=0,
            rerun_loss=float("nan"),
            flops=6.0 * table["non_embedding_params"] * table["tokens"],
            **dict.fromkeys(["seconds", "compile_seconds", "optimizer_bytes"], float("nan")),
        )
    )


def deviations() -> pd.DataFrame:
    """The recorded one-parameter deviations from each centre (columns of `tables.deviations`)."""
    runs = study().runs
    centres = runs[(runs["role"] == "centre") & (runs["status"] == "finished")]
    centres = centres.sort_values("loss", kind="stable").drop_duplicates(CELL).set_index(CELL)
    rows = []
    for run in runs[runs["role"] == "ablation"].to_dict("records"):
        cell, name = tuple(run[key] for key in CELL), run["changed"]
        if cell in centres.index and f"hp_{name}" in centres:
            centre = centres.loc[cell]
            rows.append(tables.deviation(cell, f"hp_{name}", run, centre))
    swept = dict.fromkeys((tuple(row[key] for key in CELL), row["hyperparameter"]) for row in rows)
    rows += [
        tables.deviation(cell, f"hp_{name}", centres.loc[cell], centres.loc[cell])
        for cell, name in swept
    ]
    table = pd.DataFrame(rows).drop_duplicates([*CELL, "hyperparameter", "value", "loss"])
    return tables.reading_order(table, then=["hyperparameter", "value"])


def downstream() -> pd.DataFrame:
    """One row of downstream scores per cell: the run with the lower loss where two are recorded."""
    table = published.downstream().sort_values("loss", kind="stable")
    return tables.reading_order(table.drop_duplicates(CELL))


def _curves():
    """One curve per cell; of two variants the one that ends lower."""
    curves = published.curves()
    last = curves.groupby([*CELL, "variant"])["step"].transform("max")
    ends = curves[curves["step"] == last].sort_values("loss", kind="stable").drop_duplicates(CELL)
    curves = curves.merge(ends[[*CELL, "variant"]], on=[*CELL, "variant"])
    end = curves.groupby(CELL)["step"].transform("max")
    empty = ["train_loss", "bits_per_byte", "grad_norm", "param_norm", "learning_rate"]
    return curves.assign(
        hash=_curve_name(curves),
        fraction=(curves["step"] + 1) / (end + 1),
        validation_loss=curves["loss"],
        non_embedding_params=curves["model_size"].map(published.PARAMS),
        seed=0,
        status="finished",
        **dict.fromkeys(empty, float("nan")),
    )


def _curve_name(table):
    ratio = table["chinchilla_ratio"].map("{:g}x".format)
    return table["optimizer"] + "-" + table["model_size"] + "-" + ratio


def _edges(table):
    """Hyper-parameters whose best value ends a grid of three numbers or more, per cell."""
    grids = published.grids()
    found = {}
    for row in grids.itertuples():
        values = json.loads(row.grid)
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) > 2:
            cell = (row.optimizer, row.model_size, row.chinchilla_ratio)
            found.setdefault(cell, {})[row.hyperparameter] = (min(numbers), max(numbers))
    return [
        " ".join(
            sorted(
                name
                for name, ends in found.get(tuple(row[key] for key in CELL), {}).items()
                if row.get(f"hp_{name}") in ends
            )
        )
        for row in table.to_dict("records")
    ]
