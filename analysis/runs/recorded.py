"""The recorded study (arXiv 2509.02046) as a `Study`, so that one report serves both."""

import json

import pandas as pd

from analysis import published
from analysis.runs.names import CELL, cell_name, reading_order
from analysis.runs.study import RUN_COLUMNS, Problem, Study, certificates, lost

NAME = "arXiv 2509.02046, as recorded"


def study() -> Study:
    """Recorded runs, the validation curves of the winners, and the published choice of each cell.

    The best losses are those the study plots, which need not be those of the published centres.
    """
    runs = _complete(published.runs(), "{:04d}".format)
    best = _complete(published.best(), None)
    centres = runs[(runs["role"] == "centre") & (runs["status"] == "finished")]
    centres = centres.sort_values("loss", kind="stable").drop_duplicates(CELL)
    table = best.merge(centres[[*CELL, "hash"]], on=CELL, how="left", suffixes=("", "_centre"))
    return Study(
        name=NAME,
        runs=runs,
        certificates=certificates(
            {
                **{name: row[name] for name in CELL},
                "centre_hash": row["hash_centre"],
                "best_hash": row["hash"],
                "best_loss": row["loss"],
                "edges": [{"hyperparameter": name} for name in edges],
                "repeats": [],
                "complete": True,
            }
            for row, edges in zip(table.to_dict("records"), _edges(best), strict=True)
        ),
        curves=_curves(),
        named=best.assign(status="finished", seed=0),
        problems=tuple(lost(runs)),
        settings={"rule": {"mode": "published", "threshold": 3e-3}},
        known_doubts=tuple(_doubts()),
    )


def _doubts():
    """What the records themselves show, and what they do not hold."""
    best, runs = published.best(), published.runs()
    other = int((best["loss"] < best["centre_loss"]).sum())
    most = (best["centre_loss"] - best["loss"]).max()
    yield Problem(
        "settings",
        other,
        f"{other} of {len(best)} reported settings are not the best run: the loss that the study"
        f" plots is the lowest of all runs of a cell, up to {most:.3f} nats below the published"
        " centre's.",
    )
    final = runs[(runs["source"] == "results_aug2025") & (runs["role"] == "ablation")]
    final = final[final["status"] == "finished"].merge(best[[*CELL, "centre_loss"]], on=CELL)
    better = final[final["loss"] < final["centre_loss"]]
    cells = better.groupby(CELL).ngroups
    yield Problem(
        "centres",
        len(better),
        f"{len(better)} neighbours in {cells} cells beat the centre that was reported for them (in"
        " the final results): these searches had not converged.",
    )
    without = [cell_name(row) for row in best[best["centre_loss"].isna()].itertuples()]
    yield Problem(
        "no centre",
        len(without),
        f"{len(without)} cells have no loss of their centre ({', '.join(without)}).",
    )
    absent = runs[runs["status"] == "missing"]
    cells = absent.groupby(CELL).ngroups
    sentence = f"{len(absent)} configured runs in {cells} cells have no recorded loss."
    yield Problem("missing", len(absent), sentence)
    unknown = int((best["config_kind"] == "unidentified").sum())
    yield Problem(
        "unrecorded",
        unknown,
        f"{len(runs):,} of the study's 4,636 runs are recorded, the centres and their one-parameter"
        f" deviations; the settings of {unknown} of the {len(best)} best losses are unknown.",
    )
    yield Problem(
        "no seeds",
        1,
        "No run was repeated with another seed: the noise comes from epsilon changes that cannot"
        " matter, with the same data order, and bounds the seed noise from below.",
    )
    single = "The 16x runs, and 1.2b but for AdamW at 1x, are single settings without a search."
    yield Problem("single settings", 1, single)
    sentence = "Times and optimizer memory were not recorded: nothing can be said about seconds."
    yield Problem("no times", 1, sentence)
    sentence = "Curves and downstream scores are those of the best runs as of May 2025."
    yield Problem("curves", 1, sentence)


def _complete(table, name):
    """The columns of `Study.runs`; a hash by row number, or of winners by cell."""
    hashes = [name(row) for row in range(len(table))] if name else _curve_name(table)
    params = table["model_size"].map(published.PARAMS)
    hyperparameters = sorted(column for column in table if column.startswith("hp_"))
    return table.assign(
        hash=hashes,
        batch_size=table["hp_batch_size"],
        non_embedding_params=params,
        corpus="DCLM baseline, StarCoder, ProofPile 2",
        flops=6.0 * params * table["tokens"],
    ).reindex(columns=[*RUN_COLUMNS, "role", "changed", *hyperparameters])


def downstream() -> pd.DataFrame:
    """One row of downstream scores per cell: the run with the lower loss where two are recorded."""
    table = published.downstream().sort_values("loss", kind="stable")
    return reading_order(table.drop_duplicates(CELL))


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


def _curve_name(table) -> list[str]:
    return [cell_name(row).replace(" ", "-") for row in table[CELL].itertuples()]


def _edges(table) -> list[list[str]]:
    """Hyper-parameters whose best value ends a grid of three numbers or more, per cell."""
    found = {}
    for row in published.grids().itertuples():
        values = json.loads(row.grid)
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) > 2:
            cell = (row.optimizer, row.model_size, row.chinchilla_ratio)
            found.setdefault(cell, {})[row.hyperparameter] = (min(numbers), max(numbers))
    return [
        [
            name
            for name, ends in found.get(tuple(row[key] for key in CELL), {}).items()
            if row.get(f"hp_{name}") in ends
        ]
        for row in table.to_dict("records")
    ]
