"""Who is faster, cell by cell: fair losses, gaps to AdamW and speed-ups by three procedures.

The published formula takes the best losses as they are. The robust procedures take fair losses (the
winner's repeats, and the minimum with its luck taken out) and carry the measured noise.
"""

import warnings

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimates import joint
from analysis.estimates.joint import JointFit
from analysis.estimates.loss_laws import DataLaw, fit_data_law
from analysis.estimates.noise import Noise
from analysis.estimates.speedup import BASELINE, own_curve_scatter, published_speedup, robust_cell
from analysis.pages import style
from analysis.runs import cells
from analysis.runs.reader import CELL


def quantile(level: Noise) -> float:
    """Half-width of a 95 % interval in standard errors, wider while the noise itself is
    uncertain."""
    return float(stats.t.ppf(0.975, level.df))


def fair_losses(best: pd.DataFrame, runs: pd.DataFrame, level: Noise | None) -> pd.DataFrame:
    """`best` with `fair_loss`, what the winner would give again, and its standard error `se`
    (nats).

    See `cells.cell_losses`; while the noise is unknown the fair loss is the observed one, se is
    NaN.
    """
    if level is None:
        return best.assign(fair_loss=best["loss"], se=np.nan)
    usable, _ = cells.clean(runs)
    fair = cells.cell_losses(usable, level, best=best[[*CELL, "non_embedding_params", "loss"]])
    fair = fair.rename(columns={"loss": "fair_loss"})[[*CELL, "fair_loss", "se"]]
    return best.merge(fair, on=CELL, how="left")


def data_laws(best: pd.DataFrame, baseline: str = BASELINE) -> tuple[dict, pd.DataFrame]:
    """The baseline's data law of every size by the study's fit, and how far to trust it.

    Returns the laws that may be used, and a table model_size, ratios, alpha, exponent, floor,
    freedom (points minus parameters), rms (nats), note. A fit that failed, or that is no decreasing
    law, has a note, no numbers and no law.
    """
    laws, rows = {}, []
    for size, runs in best[best["optimizer"] == baseline].groupby("model_size", sort=False):
        row = {"model_size": size, "ratios": len(runs), "note": ""}
        rows.append(row)
        if len(runs) < 3:
            budgets = f"{len(runs)} budget{'s' * (len(runs) > 1)}"
            row["note"] = f"{budgets}, and a law of three parameters needs three"
            continue
        law = _fit(runs)
        if law is None or not (law.alpha > 0 and law.exponent > 0):
            row["note"] = "the losses do not follow a decreasing power law"
            continue
        laws[size] = law
        residual = runs["loss"] - law.loss(runs["chinchilla_ratio"])
        row |= {"alpha": law.alpha, "exponent": law.exponent, "floor": law.floor}
        row |= {"freedom": len(runs) - 3, "rms": float(np.sqrt((residual**2).mean()))}
        if len(runs) == 3:
            row["note"] = "no degrees of freedom: the law passes through its three points"
    columns = ["model_size", "ratios", "alpha", "exponent", "floor", "freedom", "rms", "note"]
    return laws, pd.DataFrame(rows).reindex(columns=columns)


def _fit(runs) -> DataLaw | None:
    with warnings.catch_warnings():
        # no covariance with as many points as parameters; `freedom` says so
        warnings.simplefilter("ignore")
        try:
            return fit_data_law(runs["chinchilla_ratio"], runs["loss"])
        except RuntimeError:  # did not converge
            return None


def joint_fit(fair: pd.DataFrame, level: Noise | None) -> JointFit | None:
    """The joint model over all optimizers, or None where the data do not determine one."""
    if level is None:
        return None
    try:
        fit = joint.fit_joint(_fair_cells(fair), level.sigma)
    except ValueError:  # no size with three budgets of the baseline
        return None
    return fit if fit.converged else None


def speedups(
    fair: pd.DataFrame, laws: dict, level: Noise | None, fit: JointFit | None
) -> pd.DataFrame:
    """Gap to AdamW and speed-up over it, each with what the noise allows to say.

    The noise is that of runs, and of tuning that stopped short where the cells show it.

    Returns CELL, non_embedding_params, loss, fair_loss, se, error (its 95 % half-width), gap (the
    baseline's fair loss minus this one, nats) and its 95 % half-width gap_error, then three
    speed-ups: published (NaN without a law), robust with robust_low, robust_high and bound, joint
    with joint_low and joint_high; the headline speedup, low, high and its `procedure`; and verdict,
    one of faster, slower, not resolvable, noise unknown, no baseline, baseline.
    """
    columns = [*CELL, "non_embedding_params", "loss", "fair_loss", "se"]
    table = fair[columns].copy()
    base = fair[fair["optimizer"] == BASELINE].set_index(["model_size", "chinchilla_ratio"])
    keys = pd.MultiIndex.from_frame(table[["model_size", "chinchilla_ratio"]])
    base = base[["fair_loss", "se"]].reindex(keys).reset_index(drop=True)
    factor, tuning = (quantile(level), _tuning_error(fair)) if level else (np.nan, np.nan)
    table["error"] = factor * np.hypot(table["se"], tuning)
    table["gap"] = base["fair_loss"] - table["fair_loss"]
    table["gap_error"] = np.hypot(table["error"], factor * np.hypot(base["se"], tuning))
    for part in (_published(fair, laws), _robust(fair, level), _joint(fair, fit)):
        table = table.merge(part, on=CELL, how="left")
    words = ["published_note", "bound", "robust_note", "joint_note"]
    numbers = [
        *("published", "robust", "robust_low", "robust_high"),
        "joint",
        "joint_low",
        "joint_high",
    ]
    table[words] = table[words].fillna("").astype(str)
    table[numbers] = table[numbers].astype(float)
    table = table.join(table.apply(_headline, axis=1, result_type="expand"))
    table["verdict"] = [_verdict(row) for row in table.itertuples()]
    return table


def _tuning_error(fair) -> float:
    """Scatter of cells about their own smooth curves, nats, where enough curves show it; else 0."""
    scatter = own_curve_scatter(_fair_cells(fair))
    return scatter.tau if scatter is not None else 0.0


def _published(fair, laws):
    parts = []
    for size in laws:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts.append(published_speedup(fair[fair["model_size"] == size]))
    table = pd.concat(parts) if parts else pd.DataFrame(columns=[*CELL, "speedup", "note"])
    table = table.rename(columns={"speedup": "published", "note": "published_note"})
    table.loc[table["optimizer"] == BASELINE, "published_note"] = ""
    return table[[*CELL, "published", "published_note"]]


def _robust(fair, level):
    columns = [*CELL, "robust", "robust_low", "robust_high", "bound", "robust_note"]
    if level is None:
        return pd.DataFrame(columns=columns)
    table = robust_cell(_fair_cells(fair), level)
    table = table.rename(columns={"speedup": "robust", "note": "robust_note"})
    return table.rename(columns={"low": "robust_low", "high": "robust_high"})[columns]


def _joint(fair, fit):
    rows = []
    for cell in fair.itertuples():
        if fit and cell.optimizer in fit.columns and cell.model_size in fit.sizes:
            value, ends = fit.speedup(
                cell.optimizer, cell.non_embedding_params, cell.chinchilla_ratio
            )
            at_size = (fit.cells["model_size"] == cell.model_size) & (
                fit.cells["optimizer"] == BASELINE
            )
            largest = fit.cells.loc[at_size, "chinchilla_ratio"].max()
            beyond = value * cell.chinchilla_ratio > 1.01 * largest
            note = f"extrapolates {style.label(BASELINE)} beyond {largest:g}x" if beyond else ""
            name = (cell.optimizer, cell.model_size, cell.chinchilla_ratio)
            rows.append((*name, value, *ends, note))
    return pd.DataFrame(rows, columns=[*CELL, "joint", "joint_low", "joint_high", "joint_note"])


def _fair_cells(fair):
    columns = [*CELL, "non_embedding_params", "se"]
    return fair[columns].assign(loss=fair["fair_loss"])


def _headline(row) -> dict:
    """The joint model where there is one, else the cell's own curve, else the bare formula."""
    if np.isfinite(row["joint"]):
        ends = row["joint_low"], row["joint_high"]
        return {"speedup": row["joint"], "low": ends[0], "high": ends[1], "procedure": "joint"}
    if np.isfinite(row["robust"]):
        ends = row["robust_low"], row["robust_high"]
        return {"speedup": row["robust"], "low": ends[0], "high": ends[1], "procedure": "robust"}
    procedure = "published" if np.isfinite(row["published"]) else ""
    return {"speedup": row["published"], "low": np.nan, "high": np.nan, "procedure": procedure}


def _verdict(row) -> str:
    if row.optimizer == BASELINE:
        return "baseline"
    if not np.isfinite(row.gap):
        return "no baseline"
    if not np.isfinite(row.gap_error):
        return "noise unknown"
    if abs(row.gap) <= row.gap_error:
        return "not resolvable"
    return "faster" if row.gap > 0 else "slower"


def trends(fit: JointFit | None) -> pd.DataFrame:
    """How the speed-up changes with size: factor per doubling of the parameters and its p-value.

    Returns optimizer, factor, low, high, p_value; no rows where no trend is determined.
    """
    rows = []
    for optimizer in fit.columns if fit else ():
        found = fit.decline(optimizer)
        if found is not None:
            factor, ends, p = found
            rows.append((optimizer, factor, *ends, p))
    return pd.DataFrame(rows, columns=["optimizer", "factor", "low", "high", "p_value"])


def largest_races(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Where headlines come from: at each size the largest budget that at least half as many
    optimizers ran as any budget of that size; best fair loss first."""
    races = []
    for _, at_size in table.groupby("model_size", sort=False):
        count = at_size.groupby("chinchilla_ratio")["optimizer"].nunique()
        ratio = count.index[count >= count.max() / 2].max()
        race = at_size[at_size["chinchilla_ratio"] == ratio]
        races.append(race.sort_values("fair_loss", kind="stable"))
    return races
