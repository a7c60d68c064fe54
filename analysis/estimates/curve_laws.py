"""The baseline's loss laws as rows of the long table, with what they fail to predict."""

import numpy as np
import pandas as pd

from analysis.estimates.table import Rows
from analysis.fits import lint
from analysis.fits.loss_laws import fit_law, leave_out
from analysis.stats import intervals
from analysis.stats.noise import Noise


def put_laws(rows: Rows, cells: pd.DataFrame, noise: Noise, baseline: str) -> None:
    """The baseline's power laws with a floor: in the ratio at each size, in N at each ratio."""
    base = cells[cells.optimizer == baseline]
    for by, x in (("model_size", "chinchilla_ratio"), ("chinchilla_ratio", "non_embedding_params")):
        for key, group in base.groupby(by, sort=False):
            if group[x].nunique() < 3:
                continue
            se = np.hypot(group.se, group.common_se).to_numpy(float)
            weight = (noise.sd / se) ** 2
            fit = fit_law(group[x], group.loss, columns=(x,), weight=weight)
            where = {"optimizer": baseline, by: key}
            found = "; ".join([f"in {x}; intervals carry run noise only", *lint.law(fit)])
            for j, name in enumerate(fit.names):
                ends = (None, None)
                if not name.startswith("amplitude"):
                    ends = intervals.profile(
                        fit.form, fit.theta, np.eye(3)[j], target=fit.target,
                        variance=noise.sd**2, df=noise.df, weight=weight,
                    )  # fmt: skip
                    ends = np.exp(ends) if name == "floor" else ends
                value = fit.parameters()[name]
                rows.put("data_law", "robust", name.split("_")[0], value, *ends, found, **where)
    _put_holdout(rows, base, noise, baseline)


def _put_holdout(rows, base, noise, baseline):
    """The additive law in N and D, asked for the largest size and the largest ratio unseen."""
    N, r = base.non_embedding_params.to_numpy(float), base.chinchilla_ratio.to_numpy(float)
    if len(np.unique(N)) < 4 or len(np.unique(r)) < 4:
        return
    x = np.column_stack([N, r * N])
    fit = fit_law(x, base.loss.to_numpy(float), columns=("params", "tokens"))
    rms = float(np.sqrt((fit.residuals**2).sum() / fit.degrees))
    note = f"run noise is {noise.sd:.2g}"
    note += ": the additive form is misspecified" if rms > 3 * noise.sd else ""
    rows.put("holdout", "additive_law", "rms", rms, note=note, optimizer=baseline)
    for what, values in (("largest size", N), ("largest ratio", r)):
        held = leave_out(fit, np.where(values == values.max(), "out", "in")).set_index("group")
        note = f"{held.n['out']} cells predicted from the rest"
        quantity, error = f"mean_abs_error, {what}", held.mean_abs_error["out"]
        rows.put("holdout", "additive_law", quantity, error, note=note, optimizer=baseline)
