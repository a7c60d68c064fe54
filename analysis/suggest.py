"""A starting point for a new run, with intervals, from the recorded study and one's own results.

    python -m analysis.suggest --optimizer=muon --params=350e6 --tokens=14e9 [--results=WORKDIR]

Numeric hyper-parameters that were swept over three values in three or more cells follow a law over
(N, r) and come with a 95 % prediction interval and the loss expected to be lost; the others keep
the value that was best most often in the cells nearest to the new one.
"""

import argparse

import numpy as np
import pandas as pd

from analysis import published
from analysis.fits import optima
from analysis.runs import reader, recorded
from analysis.runs.names import CELL, canonical, did_you_mean, settings
from analysis.runs.repeats import NULL_KEYS, null_groups
from analysis.stats import noise

SEQUENCE = 4096  # tokens, in the recorded study
RECORDED_SD = 0.0011  # nats, of a run: null changes of the recorded study (a lower bound)
NEAREST = 4  # cells consulted for a hyper-parameter without a law
# An epsilon may be anything small, and a block size is chosen for speed.
NO_LAW = (*(key.removeprefix("hp_") for key in NULL_KEYS), "block_size")
AT_MOST = {"decay": 1.0}
HOPELESS = 64  # a prediction interval wider than this factor says less than the nearest cells do


def recorded_runs() -> pd.DataFrame:
    """The recorded finished runs with parameter counts; batch size in tokens."""
    return _in_tokens(recorded.study().finished, SEQUENCE * published.runs().hp_batch_size)


def own_runs(workdir) -> pd.DataFrame:
    """Finished runs of a results folder; batch size in tokens, so that sequence lengths may differ.

    Raises:
      reader.NothingToReport: the folder holds no finished run.
    """
    runs = reader.load(workdir).finished
    return _in_tokens(runs, (runs.tokens / runs.steps).round())


def _in_tokens(runs, batch):
    runs = runs[[*CELL, "seed", "loss", "non_embedding_params", *settings(runs)]]
    return runs.drop(columns="hp_batch_size").assign(hp_batch_tokens=batch)


def suggest(runs: pd.DataFrame, optimizer, params, tokens, *, sigma=None) -> pd.DataFrame:
    """Suggested value of every hyper-parameter of one optimizer.

    Args:
      runs: finished runs: CELL, loss, non_embedding_params, `hp_*`.
      params: non-embedding parameters; tokens: of the planned run.
      sigma: noise of one run (nats); measured from `runs` where it is None.

    Returns:
      hyperparameter, value, low, high (blank without a law), rounded (to the x2 grid of the runs),
      regret (nats expected to be lost by `rounded`), source, note.

    Raises:
      ValueError: an optimizer without runs (with the nearest name), or a count not positive.
    """
    for name, value in (("params", params), ("tokens", tokens)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}: must be positive and finite, got {value}")
    optimizer = canonical(optimizer)
    known = sorted(set(runs.optimizer))
    if optimizer not in known:
        hint = did_you_mean(optimizer, known)
        raise ValueError(
            f"optimizer: no runs of {optimizer!r}{hint} (there are {', '.join(known)})"
        )
    if sigma is None:
        measured = noise.null_spread(null_groups(runs))
        sigma = measured.sd if measured.df >= noise.ENOUGH else RECORDED_SD
    ratio = tokens / params / published.TOKENS_PER_PARAM
    runs = runs[(runs.optimizer == optimizer) & np.isfinite(runs.loss.astype(float))]
    runs = runs.dropna(axis=1, how="all")
    found = optima.optima(runs, sigma)
    sizes = runs.groupby("model_size").non_embedding_params.first()
    winners = runs.loc[runs.groupby(CELL).loss.idxmin()]
    steps = np.hypot(
        np.log2(winners.non_embedding_params / params), np.log2(winners.chinchilla_ratio / ratio)
    )
    winners = winners.assign(distance=steps).sort_values("distance", kind="stable")
    rows = []
    for column in settings(runs):
        name = column.removeprefix("hp_")
        mine = found[found.hyperparameter == name] if len(found) else found
        law = None
        if len(mine) and (mine.points >= 3).sum() >= 3 and name not in NO_LAW:
            law = optima.fit_transfer(
                name, mine.x, mine.x_low, mine.x_high, mine.model_size.map(sizes),
                mine.chinchilla_ratio, mine.curvature,
            )  # fmt: skip
        common = winners[column].dropna().head(NEAREST)
        value, low, high, _ = law.predict(params, ratio) if law else (np.nan,) * 4
        wide = name not in optima.MEMORY and high > HOPELESS * low
        wide = wide or (name in optima.MEMORY and low < 0)
        if law is None or wide:
            if len(common):
                note = "its law is too wide to use here" if wide else ""
                rows.append(_kept(name, common, runs[column], note))
            continue
        value, high = (min(v, AT_MOST.get(name, np.inf)) for v in (value, high))
        tried = pd.to_numeric(runs[column], errors="coerce").dropna().unique()
        rounded = min(_on_grid(name, value, tried), AT_MOST.get(name, np.inf))
        note = law.extrapolates(params, ratio)
        rows.append(
            {
                "hyperparameter": name,
                "value": value,
                "low": low,
                "high": high,
                "rounded": rounded,
                "regret": law.regret(rounded, params, ratio),
                "source": f"law over {len(mine)} cells",
                "note": note,
            }
        )
    return pd.DataFrame(rows)


def _kept(name, common, column, note):
    """The value that was best most often nearby; ties go to the nearest cell."""
    counts = common.value_counts(sort=False)
    best = next(v for v in common if counts[v] == counts.max())
    swept = column.nunique() > 1
    return {
        "hyperparameter": name,
        "value": best,
        "low": np.nan,
        "high": np.nan,
        "rounded": best,
        "regret": np.nan,
        "source": f"best in {counts.max()} of the {len(common)} nearest cells",
        "note": note if swept else "never varied",
    }


def _on_grid(name, value, tried):
    """The nearest point of the x2 grid the runs are on, in the hyper-parameter's own coordinate."""
    usable = tried[tried > 0]
    x, grid = optima.to_log2(name, value), optima.to_log2(name, usable)
    anchor = grid[np.abs(grid - x).argmin()]
    if name in optima.MEMORY:
        return float(optima.from_log2(name, anchor))
    return float(optima.from_log2(name, anchor + np.round(x - anchor)))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", required=True)
    parser.add_argument("--params", required=True, type=float, help="non-embedding parameters")
    parser.add_argument("--tokens", required=True, type=float)
    parser.add_argument("--results", help="a results folder whose runs are used as well")
    parser.add_argument("--only", choices=("recorded", "own"), help="use one source only")
    arguments = parser.parse_args(argv)
    tables = [] if arguments.only == "own" else [recorded_runs()]
    try:
        if arguments.results:
            tables.append(own_runs(arguments.results))
        if not tables:
            raise ValueError("--only=own needs --results")
        runs = pd.concat(tables, ignore_index=True)
        table = suggest(runs, arguments.optimizer, arguments.params, arguments.tokens)
    except (OSError, ValueError, reader.NothingToReport) as error:
        parser.exit(2, f"{error}\n")
    ratio = arguments.tokens / arguments.params / published.TOKENS_PER_PARAM
    print(f"{arguments.optimizer}: {arguments.params:.3g} parameters, {ratio:.3g}x Chinchilla")
    print(table.to_string(index=False, na_rep="", float_format="{:.4g}".format))
    print(
        "low-high: 95 % prediction interval of the best value; regret: nats expected to be lost.\n"
        "batch_tokens: tokens per step; warmup: steps.\n"
        "A law from another tokenizer, data set or code base carries over as a starting point only."
    )


if __name__ == "__main__":
    main()
