"""What a headline rests on: one speed-up under every choice that went into it, cell by cell.

A headline number is only as good as the least comfortable way of computing it. `card` computes it
in all the ways a referee would ask for and says which choice moves it most.
"""

import numpy as np
import pandas as pd

from analysis.estimates.comparisons import headline_races
from analysis.estimates.table import Rows
from analysis.fits.joint import fit_joint
from analysis.fits.loss_laws import fit_data_law, fit_law
from analysis.fits.speedup import robust_cell
from analysis.runs.names import BASELINE, at, cell_name
from analysis.stats import solver
from analysis.stats.noise import Noise

REACH = 4  # a law is not asked further beyond its largest budget than this factor


def put_cards(rows: Rows, cells, noise: Noise, joint, baseline: str) -> None:
    """The card of every rival in the headline races whose baseline curve exists."""
    without = None if joint is None else leave_out(joint)
    others = {"as observed, selection not undone": cells.assign(loss=cells.best_loss)}
    for race in headline_races(cells):
        base = cells[(cells.optimizer == baseline) & (cells.model_size == race.model_size.iloc[0])]
        if base.chinchilla_ratio.nunique() < 3:
            continue
        for cell in race[race.optimizer != baseline].itertuples():
            found = card(
                cells, noise, *at(cell).values(), others=others, joint=joint, without=without,
                baseline=baseline,
            )  # fmt: skip
            if not len(found):
                continue
            for c in found.itertuples():
                note = f"change {c.change:+.3f}"
                rows.put("card", c.group, c.choice, c.speedup, c.low, c.high, note, **at(cell))
            widest = found.loc[found.change.abs().idxmax()]
            note = f"{widest.group}: {widest.choice} gives {widest.speedup:.3f}"
            rows.put("card", "summary", "largest_change", abs(widest.change), note=note, **at(cell))


def card(
    cells,
    noise,
    optimizer,
    size,
    ratio,
    *,
    others=None,
    joint=None,
    without=None,
    baseline=BASELINE,
) -> pd.DataFrame:
    """The speed-up of one cell recomputed under every choice that went into it.

    Args:
      cells: one loss per cell, with non_embedding_params.
      noise: of one run.
      others: name -> another loss table of the same cells (an earlier edition, corrected losses).
      joint, without: the `joint.JointFit` of the cells and its `leave_out`, if at hand.

    Returns:
      group (fit window, leave one out, loss function, losses, noise, procedure, joint without a
      cell, size or ratio), choice, speedup, change (against the first row, or for the joint model's
      refits against the joint model), low, high (where that choice has an interval). A choice whose
      law would have to reach more than REACH times beyond the baseline's data has no row.
    """
    cells = cells[np.isfinite(cells.loss.astype(float))]
    here = (cells.optimizer == optimizer) & (cells.model_size == size)
    here &= cells.chinchilla_ratio == ratio
    if not here.any():
        raise ValueError(f"cells: no finished {optimizer} run at {size}, {ratio:g}x")
    loss = float(cells[here].loss.iloc[0])
    base = cells[(cells.optimizer == baseline) & (cells.model_size == size)]
    base = base.sort_values("chinchilla_ratio")
    r, y = base.chinchilla_ratio.to_numpy(float), base.loss.to_numpy(float)
    if len(r) < 3:
        raise ValueError(f"cells: {len(r)} {baseline} ratios at {size}; a law needs 3")
    rows = []

    def add(group, choice, speedup, low=np.nan, high=np.nan, against=None):
        if np.isfinite(speedup) and speedup * ratio <= REACH * r.max():
            against = against or (rows[0]["speedup"] if rows else speedup)
            row = {"group": group, "choice": choice, "speedup": float(speedup)}
            row["change"] = float(speedup - against)
            rows.append(row | {"low": float(low), "high": float(high)})

    def published(r, y, loss=loss):
        try:
            return float(fit_data_law(r, y).data_for(loss)) / ratio
        except RuntimeError:  # no law through these losses: this choice has no row
            return np.nan

    window = f"{baseline} {r.min():g}-{r.max():g}x"
    add("fit window", window, published(r, y))
    for largest in r[3:][::-1]:
        keep = r < largest
        add("fit window", f"{baseline} {r.min():g}-{r[keep].max():g}x", published(r[keep], y[keep]))
    if len(r) > 3:
        for i in range(len(r)):
            keep = np.arange(len(r)) != i
            add("leave one out", f"without {baseline} {r[i]:g}x", published(r[keep], y[keep]))
    for label, delta in (("Huber, 1 sigma", noise.sd), ("Huber, 3 sigma", 3 * noise.sd)):
        fit = fit_law(r, y, columns=("ratio",), delta=delta)
        add("loss function", label, _invert(fit, loss) / ratio)
    fit = fit_law(r, y, columns=("ratio",), logarithmic=True)
    add("loss function", "squares of log loss", _invert(fit, loss) / ratio)
    for name, table in (others or {}).items():
        there = table[np.isfinite(table.loss.astype(float))]
        theirs = there[(there.optimizer == baseline) & (there.model_size == size)]
        mine = there[(there.optimizer == optimizer) & (there.model_size == size)]
        mine = mine[mine.chinchilla_ratio == ratio]
        if len(theirs) >= 3 and len(mine):
            y_other, r_other = theirs.loss.to_numpy(float), theirs.chinchilla_ratio.to_numpy(float)
            add("losses", name, published(r_other, y_other, float(mine.loss.iloc[0])))
    few = cells[here | ((cells.optimizer == baseline) & (cells.model_size == size))]
    for factor in (0.5, 1.0, 2.0):
        scaled = Noise(noise.sd * factor, noise.df)
        alone = few.assign(se=scaled.sd, common_se=0.0)
        answer = robust_cell(alone, scaled, baseline=baseline, extrapolate=True).iloc[0]
        add("noise", f"sigma {scaled.sd:.2g}", answer.speedup, answer.low, answer.high)
    joint = joint or fit_joint(cells, noise.sd, noise_df=noise.df, baseline=baseline)
    params = float(cells[here].non_embedding_params.iloc[0])
    if optimizer in joint.columns and size in joint.sizes:
        value, (low, high) = joint.speedup(optimizer, params, ratio)
        add("procedure", "joint model", value, low, high)
        moved = influence(joint, optimizer, params, ratio, without=without)
        single = moved.left_out == "cell"
        for row in pd.concat([moved[single].head(3), moved[~single]]).itertuples():
            add(
                f"joint without a {row.left_out}",
                f"without {row.label}",
                row.speedup,
                against=value,
            )
    return pd.DataFrame(rows)


def _invert(fit, loss):
    """x at which a one-term law reaches `loss`; infinite at or below its floor."""
    law = fit.parameters()
    gap = loss - law["floor"]
    amplitude, exponent = (law[name] for name in fit.names[1:])
    return (gap / amplitude) ** (-1 / exponent) if gap > 0 else np.inf


def leave_out(joint) -> pd.DataFrame:
    """The joint fit without each cell, each size and the largest ratio: one refit a row.

    Returns:
      left_out ("cell", "size", "ratio"), label, theta (a vector). What did not converge is dropped.
    """
    cells = joint.cells
    sets = [
        ("cell", cell_name(cell), np.arange(len(cells)) == i)
        for i, cell in enumerate(cells.itertuples())
    ]
    if len(joint.sizes) > 1:
        sets += [("size", size, (cells.model_size == size).to_numpy()) for size in joint.sizes]
    largest = cells.chinchilla_ratio.max()
    sets.append(("ratio", f"{largest:g}x", (cells.chinchilla_ratio == largest).to_numpy()))
    weight = np.tile(joint.weight, (len(sets), 1))
    weight[:, : len(cells)] *= ~np.array([out for *_, out in sets])
    start = np.tile(joint.theta, (len(sets), 1))
    fits = solver.minimise(joint.model, start, joint.target, weight=weight, tolerance=1e-8)
    table = pd.DataFrame([names[:2] for names in sets], columns=["left_out", "label"])
    table["theta"] = list(fits.theta)
    return table[fits.converged]


def influence(joint, optimizer, params, ratio, *, without=None) -> pd.DataFrame:
    """How far one speed-up of the joint model moves without each cell, size and largest ratio.

    Args:
      without: `leave_out(joint)`, if it is at hand.

    Returns:
      left_out, label, speedup, change; the largest change first.
    """
    contrast = joint.contrast(optimizer, params, ratio)
    without = leave_out(joint) if without is None else without
    out = without[["left_out", "label"]].copy()
    out["speedup"] = np.exp(np.stack(without.theta.to_list()) @ contrast)
    out["change"] = out.speedup - np.exp(contrast @ joint.theta)
    return out.reindex(out.change.abs().sort_values(ascending=False, kind="stable").index)
