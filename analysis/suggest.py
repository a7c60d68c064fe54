"""A starting point for a new run, with intervals, from the recorded study and one's own results.

    python -m analysis.suggest --optimizer=muon --params=350e6 --tokens=14e9 [--results=WORKDIR]

Numeric hyper-parameters whose optimum enough cells bracket follow a law over (N, r) and come with a
95 % prediction interval and the loss expected to be lost; the others, and those whose law would
reach too far, keep the value that was best most often in the cells nearest to the new one.
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
from analysis.stats.hyper_laws import MEMORY, REACH, from_log2, to_log2

SEQUENCE = 4096  # tokens, in the recorded study
RECORDED_SD = 0.0011  # nats, of a run: null changes of the recorded study (a lower bound)
NEAREST = 4  # cells consulted for a hyper-parameter without a law
# An epsilon may be anything small, and a block size is chosen for speed.
NO_LAW = (*(key.removeprefix("hp_") for key in NULL_KEYS), "block_size")
AT_MOST = {"decay": 1.0}
HOPELESS = 3  # factors of two: a wider half interval says less than the nearest cells do


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
      runs: finished runs: CELL, seed, loss, non_embedding_params, `hp_*`.
      params: non-embedding parameters; tokens: of the planned run.
      sigma: noise of one run (nats); measured from null changes in `runs` where it is None.

    Returns:
      hyperparameter, value, low, high (blank without a law), rounded (to the x2 grid of the runs),
      regret (nats expected to be lost by `rounded`), source, note.

    Raises:
      ValueError: an optimizer without runs (with the nearest name), or counts that cannot be meant.
    """
    check_counts(params, tokens)
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
    winners = runs.loc[runs.groupby(CELL).loss.idxmin()]
    # points are compared on the seed that their cell's winner was found with
    searched = runs.merge(winners[[*CELL, "seed"]], on=[*CELL, "seed"])
    found = optima.optima(searched, sigma)
    sizes = runs.groupby("model_size").non_embedding_params.first()
    octaves = np.log2([winners.non_embedding_params / params, winners.chinchilla_ratio / ratio])
    winners = winners.assign(distance=np.hypot(*octaves)).sort_values("distance", kind="stable")
    rows = []
    for column in settings(runs):
        name = column.removeprefix("hp_")
        mine = found[found.hyperparameter == name]
        law = None if name in NO_LAW else optima.law(mine, mine.model_size.map(sizes))
        common = winners[column].dropna().head(NEAREST)
        row = _by_law(name, law, mine, params, ratio, runs[column]) if law else "no law"
        if isinstance(row, dict):
            rows.append(row)
        elif len(common):
            rows.append(_kept(name, common, runs[column], row if law else ""))
    return pd.DataFrame(rows)


def check_counts(params, tokens) -> None:
    """Refuses counts that cannot be meant, such as 350 for 350 million."""
    for name, value, least in (("params", params, 1e4), ("tokens", tokens, 1e5)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}: must be positive and finite, got {value}")
        if value < least:
            hint = f"{value:g}e6" if value * 1e6 >= least else f"{value:g}e9"
            raise ValueError(f"{name}: {value:g} is fewer than {least:g}; did you mean {hint}?")
    if not 0.05 <= tokens / params <= 1e5:
        raise ValueError(
            f"tokens: {tokens / params:.3g} for every parameter cannot be meant (0.05 to 100000)"
        )


def _by_law(name, law, optima_, params, ratio, column) -> dict | str:
    """A row of `suggest` by a law, or why the law does not say."""
    outside = law.outside(params, ratio)
    if outside > REACH:
        return f"its law would reach {2**outside:.2g} times beyond its cells"
    x, variance = law.predict(params, ratio)
    half = law.half_width(variance)
    if half > HOPELESS:
        return "its law is too wide to use here"
    most = AT_MOST.get(name, np.inf)
    value, low, high = from_log2(name, np.array([x, x - half, x + half]))
    rounded = min(_on_grid(name, min(value, most), _numbers(column)), most)
    curvature = float(np.nanmedian(optima_.curvature))
    offset = float(to_log2(name, rounded)) - x
    return {
        "hyperparameter": name,
        "value": min(value, most),
        "low": low,
        "high": min(high, most),
        "rounded": rounded,
        "regret": curvature * (offset**2 + variance),
        "source": f"law over {int(optima_.side.notna().sum())} cells",
        "note": f"extrapolates {2**outside:.2g} times beyond its cells" if outside > 0.01 else "",
    }


def _numbers(column):
    return pd.to_numeric(column, errors="coerce").dropna().unique()


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
    x, grid = to_log2(name, value), to_log2(name, usable)
    anchor = grid[np.abs(grid - x).argmin()]
    if name in MEMORY:
        return float(from_log2(name, anchor))
    return float(from_log2(name, anchor + np.round(x - anchor)))


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
