"""Do the 95 % intervals contain the truth 95 % of the time? Measured on synthetic studies.

    python -m analysis.coverage --studies=1000 --out=docs/coverage.csv

Every study draws its own noise (5e-4 to 3e-3 nats, log-uniform), speed-ups, exponent and tuning
error, and is analysed from the measured noise and the best of k trials, as a real one is.
"""

import argparse
import time

import numpy as np
import pandas as pd

from analysis import published
from analysis.fits import simulate
from analysis.fits.joint import fit_joint
from analysis.fits.ridge import decides, ridge
from analysis.fits.speedup import robust_cell, widened
from analysis.fits.valley import ASYMMETRY, optimum, valley
from analysis.runs.names import BASELINE
from analysis.stats import intervals

BINS = ((5e-4, 1e-3), (1e-3, 1.8e-3), (1.8e-3, 3e-3))
SIGMA = (5e-4, 3e-3)
CURVATURE = 0.0145  # nats per (factor of two)^2, of the recorded learning-rate sweeps


def one_study(seed, *, tuning=5e-4, some=24, bootstrap=False) -> list[dict]:
    """Draws one study and checks its intervals.

    Args:
      some: how many of the cells (chosen at random) get the slower intervals checked.
      bootstrap: also check both bootstraps of one speed-up (200 replicates).

    Returns:
      one record per checked interval: quantity, study, sigma, covered, width (of the log), and of
      losses bias (over sigma).
    """
    rng = np.random.default_rng(seed)
    sigma = float(np.exp(rng.uniform(*np.log(SIGMA))))
    truth = simulate.draw_truth(rng, sigma=sigma, tuning=tuning)
    noise = simulate.draw_noise(rng, truth)
    cells = simulate.draw_cells(rng, truth, noise)
    records = []

    def check(quantity, true, low, high):
        records.append(
            {
                "quantity": quantity,
                "study": seed,
                "sigma": sigma,
                "covered": bool(low <= true <= high),
                "width": float(np.log(high / low)) if low > 0 and np.isfinite(high) else np.nan,
            }
        )

    check("noise", sigma, *noise.total.interval())
    for cell in cells[cells.trials > 1].itertuples():  # the best of many, without fresh seeds
        for name, loss, se in (
            ("loss of the best run, as observed", cell.best_loss, noise.residual.sd),
            ("loss of the best run, its luck taken out", cell.loss, cell.se),
        ):
            half = noise.residual.quantile() * se
            check(name, cell.expected, loss - half, loss + half)
            records[-1]["bias"] = (loss - cell.expected) / sigma
    others = cells[cells.optimizer != BASELINE]
    keep = others.sample(some, random_state=int(rng.integers(2**31)))
    wide, level, _ = widened(cells, noise.paired)
    for answer in robust_cell(wide, level, only=keep.index).itertuples():
        params = published.PARAMS[answer.model_size]
        true = truth.speedup(answer.optimizer, params, answer.chinchilla_ratio)
        kind = "speedup, robust_cell" + (" (lower bounds)" if answer.bound else "")
        check(kind, true, answer.low, answer.high)
    fit = fit_joint(cells, noise.paired.sd, noise_df=noise.paired.df)
    check("joint fit converged", True, fit.converged, True)
    for cell in keep.iloc[: some // 2].itertuples():
        params = published.PARAMS[cell.model_size]
        _, (low, high) = fit.speedup(cell.optimizer, params, cell.chinchilla_ratio)
        true = truth.speedup(cell.optimizer, params, cell.chinchilla_ratio)
        check("speedup, robust_joint", true, low, high)
        _, (low, high) = fit.speedup(cell.optimizer, params, fit.ratio0)
        true = truth.speedup(cell.optimizer, params, fit.ratio0)
        check("speedup at a size, robust_joint", true, low, high)
    for name in list(fit.columns)[:: max(1, len(fit.columns) // 4)]:
        _, (low, high), _ = fit.decline(name)
        check("decline per doubling, robust_joint", np.exp(truth.log_rho[name][1]), low, high)
    at = np.eye(len(fit.theta))[2 * len(fit.sizes)]
    _, (low, high) = fit.interval(at)
    check("exponent, robust_joint", truth.exponent, low, high)
    for _ in range(some):
        for quantity, true, low, high in one_valley(rng, sigma):
            check(quantity, true, low, high)
    for quantity, true, low, high in one_ridge(rng, sigma):
        check(quantity, true, low, high)
    if bootstrap:
        params = published.PARAMS["520m"]
        true = truth.speedup("muon", params, fit.ratio0)
        three = bootstrap_check(fit, "muon", params, fit.ratio0, replicates=200)
        for row in three[three.interval != "profile"].itertuples():
            check(f"speedup at a size, {row.interval}", true, row.low, row.high)
    return records


def bootstrap_check(joint, optimizer, params, ratio, *, replicates=1000, seed=0) -> pd.DataFrame:
    """The same interval three ways: profile likelihood, noise bootstrap, bootstrap by cell.

    The bootstrap by cell draws (optimizer, size, ratio) cells with exponential weights, so that no
    size loses the few baseline points its curve stands on, and stretches what it finds by
    sqrt(n / (n - p)): a fit with p parameters leaves its residuals that much too small.
    """
    rng = np.random.default_rng(seed)
    contrast = joint.contrast(optimizer, params, ratio)
    value, profile = joint.speedup(optimizer, params, ratio)
    rows = [{"interval": "profile", "speedup": value, "low": profile.low, "high": profile.high}]
    fitted = joint.model(joint.theta[None])[0][0]
    sd = np.sqrt(joint.variance / joint.weight)
    n = len(fitted)
    draws = {
        "noise bootstrap": {
            "target": fitted + sd * rng.standard_normal((replicates, n)),
            "weight": joint.weight,
        },
        "bootstrap by cell": {
            "target": joint.target,
            "weight": joint.weight * rng.exponential(size=(replicates, n)),
        },
    }
    baseline_n = ~joint.model.X_nQ.any(1)
    starts = joint.model.starts(joint.target, baseline_n, exponents=(0.2, 0.7))
    for name, arguments in draws.items():
        theta, dropped = intervals.bootstrap(joint.model, joint.theta, starts=starts, **arguments)
        stretch = np.sqrt(n / max(joint.df, 1)) if name == "bootstrap by cell" else 1.0
        found = np.exp(contrast @ joint.theta + stretch * (theta - joint.theta) @ contrast)
        low, high = intervals.percentile(found)
        median = float(np.median(found))
        rows.append({"interval": name, "speedup": median, "low": low, "high": high})
        rows[-1]["note"] = f"{len(theta)} refits" + (f", {dropped} dropped" if dropped else "")
    return pd.DataFrame(rows).fillna({"note": ""})


def one_valley(rng, sigma) -> list[tuple[str, float, float, float]]:
    """The optimum of one learning-rate sweep whose valley rises faster on one side.

    Returns (quantity, truth, low, high) where the sweep brackets its optimum; a one-sided bound is
    checked as such.
    """
    points = int(rng.integers(3, 6))
    k, true = rng.normal(0, ASYMMETRY), rng.uniform(-0.5, 0.5)
    x = np.arange(points) - (points - 1) // 2
    loss = CURVATURE * valley(k, x - true) + sigma * rng.standard_normal(points)
    found = optimum(x.astype(float), loss, sigma)
    if found is None or np.isnan(found.side):
        return []
    kind = "optimum" if found.side == 0 else "optimum (one-sided)"
    return [(kind, true, found.low, found.high)]


def one_ridge(rng, sigma) -> list[tuple[str, float, float, float]]:
    """The joint optimum of learning rate and batch size, and the slope of the ridge between them,
    from a square of nine runs around it: (quantity, truth, low, high) as of `one_valley`.
    """
    slope, floor = rng.uniform(0, 1), CURVATURE * np.exp(rng.uniform(np.log(0.05), 0))
    rate, batch = rng.uniform(-0.5, 0.5, 2)
    x, y = (a.ravel() for a in np.meshgrid((-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0)))
    across, along = rng.normal(0, ASYMMETRY / 2, 2)
    loss = CURVATURE * valley(across, x - rate - slope * (y - batch))
    loss += floor * valley(along, y - batch) + sigma * rng.standard_normal(len(x))
    if not decides(x, y, loss):
        return []
    (of_x, (_, *ends)), (of_y, _) = ridge(x, y, loss, sigma)
    found = [("slope of a ridge", slope, *ends)]
    for true, one in ((rate, of_x), (batch, of_y)):
        if not np.isnan(one.side):
            kind = "joint optimum" + " (one-sided)" * (one.side != 0)
            found.append((kind, true, one.low, one.high))
    return found


def coverage(studies, *, tuning=5e-4, first=0, bootstrap_every=10) -> pd.DataFrame:
    """Share of intervals that contain the truth, by quantity and noise bin.

    Returns:
      quantity, sigma_low, sigma_high, coverage, error (standard error over studies), intervals,
      median_width (of the log), bias (mean error of losses, in standard deviations of a run),
      tuning, studies.
    """
    records = []
    for seed in range(first, first + studies):
        bootstrap = bool(bootstrap_every) and seed % bootstrap_every == 0
        records += one_study(seed, tuning=tuning, bootstrap=bootstrap)
    return summary(pd.DataFrame(records)).assign(tuning=tuning)


def summary(table) -> pd.DataFrame:
    """Records of `one_study` by quantity and noise bin; see `coverage`."""
    rows = []
    for quantity, group in table.groupby("quantity", sort=False):
        for low, high in ((SIGMA), *BINS):
            inside = group[(group.sigma >= low) & (group.sigma < high)]
            if not len(inside):
                continue
            per_study = inside.groupby("study").covered.agg(["mean", "size"])
            share = float(inside.covered.mean())
            spread = np.sqrt((per_study["size"] ** 2 * (per_study["mean"] - share) ** 2).sum())
            rows.append(
                {
                    "quantity": quantity,
                    "sigma_low": low,
                    "sigma_high": high,
                    "coverage": share,
                    "error": float(spread / len(inside)),
                    "intervals": len(inside),
                    "median_width": float(inside.width.median()),
                    "bias": float(inside.bias.mean()),
                    "studies": len(per_study),
                }
            )
    return pd.DataFrame(rows)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--tuning", type=float, default=5e-4, help="mean tuning error, nats")
    parser.add_argument("--first", type=int, default=0, help="seed of the first study")
    parser.add_argument("--out", default="docs/coverage.csv")
    arguments = parser.parse_args(argv)
    began = time.time()
    table = coverage(arguments.studies, tuning=arguments.tuning, first=arguments.first)
    table.to_csv(arguments.out, index=False, float_format="%.6g", lineterminator="\n")
    print(table.to_string(index=False))
    print(f"{arguments.studies} studies in {time.time() - began:.0f} s -> {arguments.out}")


if __name__ == "__main__":
    main()
