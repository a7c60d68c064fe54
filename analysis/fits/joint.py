"""One law for all optimizers: AdamW's curve, run through faster or slower.

    L_o(N, r) = L_AdamW(N, rho r),   L_AdamW(N, r) = level_N + slope_N ((r/r0)^-B - 1) / B
    log rho = u_o + v_o log2(N/N0) + w_o log2(r/r0)

Speed-up rho is modelled directly (AdamW has rho = 1), the exponent B is shared, the level and slope
(so the floor, level - slope / B) belong to a size. Written this way the curve stays regular as B
goes to zero and every parameter is identified in the middle of the data. The idea of shared
exponents with a data-efficiency per optimizer is that of arXiv 2602.07712.

What a seed does to every optimizer of a race alike is one more parameter per race, known to be
about zero: a row of its own holds it there. Speed-ups are so compared on common seeds.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.runs.names import BASELINE, RACE
from analysis.stats import intervals, solver
from analysis.stats.intervals import Interval


@dataclass(frozen=True)
class EquivalentData:
    """The batched model. theta = (level_S, log slope_S, exponent_E, gamma_Q, race_R), log rho = X
    gamma. With races there are R more points after the n, one for each race effect.
    """

    size_n: np.ndarray  # index of each point's size
    exponent_n: np.ndarray  # index of each point's exponent (all 0: shared)
    logr_n: np.ndarray  # log(r / r0)
    X_nQ: np.ndarray
    race_n: np.ndarray | None = None  # index of each point's race

    @property
    def shape(self):
        return self.size_n.max() + 1, self.exponent_n.max() + 1, self.X_nQ.shape[1]

    @property
    def races(self) -> int:
        return 0 if self.race_n is None else self.race_n.max() + 1

    def __call__(self, theta):
        S, E, Q = self.shape
        level = theta[:, :S][:, self.size_n]
        slope = np.exp(np.clip(theta[:, S : 2 * S], -50, 50))[:, self.size_n]
        B = theta[:, 2 * S : 2 * S + E][:, self.exponent_n]
        race = 2 * S + E + Q
        z = self.logr_n + theta[:, 2 * S + E : race] @ self.X_nQ.T
        Bz = np.clip(B * z, -50, 50)
        flat = np.abs(Bz) < 1e-6
        safe = np.where(flat, 1.0, B)
        falling = np.where(flat, -z * (1 - Bz / 2), np.expm1(-Bz) / safe)
        power = np.exp(-Bz)
        d_exponent = np.where(flat, z**2 / 2, (-z * power - falling) / safe)
        points = np.arange(len(self.size_n))
        jacobian = np.zeros((*z.shape, theta.shape[1]))
        jacobian[:, points, self.size_n] = 1
        jacobian[:, points, S + self.size_n] = slope * falling
        jacobian[:, points, 2 * S + self.exponent_n] = slope * d_exponent
        jacobian[..., 2 * S + E : race] = (-slope * power)[..., None] * self.X_nQ
        loss = level + slope * falling
        if not self.races:
            return loss, jacobian
        jacobian[:, points, race + self.race_n] = 1
        held = np.zeros((len(theta), self.races, theta.shape[1]))
        held[:, :, race:] = np.eye(self.races)
        loss = np.concatenate([loss + theta[:, race:][:, self.race_n], theta[:, race:]], axis=1)
        return loss, np.concatenate([jacobian, held], axis=1)

    def starts(self, loss, baseline_n, exponents=(0.1, 0.3, 0.5, 0.8)):
        """For each exponent the baseline's levels and slopes by least squares; rho starts at 1."""
        S, E, Q = self.shape
        theta = np.zeros((len(exponents), 2 * S + E + Q + self.races))
        for row, B in zip(theta, exponents, strict=True):
            row[2 * S : 2 * S + E] = B
            for s in range(S):
                at = baseline_n & (self.size_n == s)
                falling = np.expm1(-B * self.logr_n[at]) / B
                design = np.column_stack([np.ones(at.sum()), falling])
                level, slope = np.linalg.lstsq(design, loss[at], rcond=None)[0]
                row[s], row[S + s] = level, np.log(max(slope, 1e-4))
        return theta


@dataclass(frozen=True)
class JointFit:
    """The fitted joint model; every quantity is a contrast of theta with a profile interval."""

    cells: pd.DataFrame = field(repr=False)
    model: EquivalentData = field(repr=False)
    target: np.ndarray = field(repr=False)  # the cells' losses, and a zero per race effect
    theta: np.ndarray = field(repr=False)
    columns: dict = field(repr=False)  # optimizer -> {"u": index, "v": index, "w": index}
    sizes: tuple[str, ...]
    params0: float
    ratio0: float
    weight: np.ndarray = field(repr=False)
    noise: float  # nats, of one run
    noise_df: float
    scatter: float  # nats, of a cell beyond its noise: tuning that stopped short, and misfit
    rms: float  # unweighted residual, nats, with n - p
    df: float
    agreement: float
    converged: bool
    condition: float
    baseline: str = BASELINE
    notes: tuple[str, ...] = ()

    @property
    def variance(self):
        """Of a cell of unit weight: weights carry each cell's own error and the scatter.

        With 30 degrees of freedom the residuals themselves say how large it is.
        """
        measured = (
            float((self.weight * self.residuals**2).sum() / self.df) if self.df >= 30 else 0.0
        )
        return measured or self.noise**2

    @property
    def interval_df(self):
        return self.df if self.scatter > 0 or self.df >= 30 else self.noise_df

    def contrast(self, optimizer, params, ratio) -> np.ndarray:
        """The direction in theta that gives log rho of `optimizer` at (params, ratio)."""
        direction = np.zeros(len(self.theta))
        at = self.columns.get(optimizer, {})
        if "u" in at:
            direction[at["u"]] = 1
        if "v" in at:
            direction[at["v"]] = np.log2(params / self.params0)
        if "w" in at:
            direction[at["w"]] = np.log2(ratio / self.ratio0)
        return direction

    def interval(self, contrast, level=0.95) -> tuple[float, Interval]:
        """Value and profile-likelihood interval of a contrast."""
        return float(contrast @ self.theta), intervals.profile(
            self.model, self.theta, contrast, target=self.target, variance=self.variance,
            df=self.interval_df, weight=self.weight, level=level,
        )  # fmt: skip

    def speedup(self, optimizer, params, ratio, level=0.95) -> tuple[float, Interval]:
        """rho and its interval; 1 exactly for the baseline."""
        if optimizer not in self.columns:
            return 1.0, Interval(1.0, 1.0)
        value, (low, high) = self.interval(self.contrast(optimizer, params, ratio), level)
        return float(np.exp(value)), Interval(float(np.exp(low)), float(np.exp(high)))

    def decline(self, optimizer) -> tuple[float, Interval, float] | None:
        """Factor of rho per doubling of N, its interval, and the p-value of "no trend"."""
        at = self.columns.get(optimizer, {}).get("v")
        if at is None:
            return None
        value, (low, high) = self.interval(np.eye(len(self.theta))[at])
        p = self._likelihood_ratio([at])
        return float(np.exp(value)), Interval(float(np.exp(low)), float(np.exp(high))), p

    def decline_test(self) -> float | None:
        """p-value of "no optimizer's speed-up changes with size" (likelihood ratio, F)."""
        at = [index["v"] for index in self.columns.values() if "v" in index]
        return self._likelihood_ratio(at) if at else None

    def shared_exponent_test(self) -> float | None:
        """p-value of "one exponent serves all sizes" against one exponent per size."""
        S, E, _ = self.model.shape
        if S < 2 or E > 1 or self.df <= S - 1:
            return None
        wide = replace(self.model, exponent_n=self.model.size_n)
        exponents = np.full(S, self.theta[2 * S])
        start = np.concatenate([self.theta[: 2 * S], exponents, self.theta[2 * S + 1 :]])
        free = solver.minimise(wide, start[None], self.target, weight=self.weight).objective[0]
        return self._p_value(self._objective, free, S - 1, self.df - (S - 1))

    def faster(self, a, b, params, ratio) -> float:
        """P(rho_a > rho_b) at (params, ratio): normal likelihood, flat prior, Student's t."""
        difference = self.contrast(a, params, ratio) - self.contrast(b, params, ratio)
        if not difference.any():
            return 0.5
        spread = np.sqrt(difference @ self.covariance @ difference)
        return float(stats.t.cdf(difference @ self.theta / spread, self.interval_df))

    @property
    def covariance(self):
        return intervals.covariance(
            self.model, self.theta, target=self.target, variance=self.variance, weight=self.weight
        )

    @property
    def residuals(self):
        return self.target - self.model(self.theta[None])[0][0]

    @property
    def _objective(self):
        return (self.weight * self.residuals**2).sum() / 2

    def _likelihood_ratio(self, indices):
        theta = self.theta.copy()
        theta[indices] = 0
        free = ~np.isin(np.arange(len(theta)), indices)
        restricted = solver.minimise(
            self.model, theta[None], self.target, weight=self.weight, free=free
        ).objective[0]
        return self._p_value(restricted, self._objective, len(indices), self.df)

    def _p_value(self, restricted, full, q, df):
        statistic = max(2 * (restricted - full), 0) / self.variance / q
        if np.isfinite(self.interval_df):
            return float(stats.f.sf(statistic, q, df))
        return float(stats.chi2.sf(statistic * q, q))


def fit_joint(cells: pd.DataFrame, noise: float, *, noise_df=np.inf, baseline=BASELINE) -> JointFit:
    """Fits the joint model to one loss per cell.

    Args:
      cells: optimizer, model_size, chinchilla_ratio, loss, non_embedding_params and, optionally,
        `se` (nats; points are weighted by noise^2 / (se^2 + scatter^2), the scatter estimated),
        `common_se` (nats, of what a race has in common) and `tuning` (nats, of `se`, what no seed
        takes away).
      noise: standard deviation of one run in nats, from `noise_df` degrees of freedom.

    Raises:
      ValueError: no size has three baseline ratios (two points do not bend).
    """
    cells = cells[np.isfinite(cells.loss.astype(float))]
    has = cells[cells.optimizer == baseline].groupby("model_size").chinchilla_ratio.nunique()
    usable = has[has >= 3].index
    notes = [
        f"{size}: left out, fewer than 3 {baseline} ratios"
        for size in cells.model_size.unique()
        if size not in usable
    ]
    cells = cells[cells.model_size.isin(usable)].reset_index(drop=True)
    if not len(cells):
        raise ValueError(f"cells: no size has 3 {baseline} ratios; the curve is not identified")
    by_size = cells.groupby("model_size").non_embedding_params.first().sort_values()
    sizes = tuple(by_size.index)
    params0 = float(np.exp(np.log(by_size).mean()))
    ratio0 = float(np.exp(np.log(cells.chinchilla_ratio.astype(float).unique()).mean()))
    size_n = cells.model_size.map({size: i for i, size in enumerate(sizes)}).to_numpy()
    logN = np.log2(cells.non_embedding_params.to_numpy(float) / params0)
    logr = np.log2(cells.chinchilla_ratio.to_numpy(float) / ratio0)

    X, columns, first = [], {}, 2 * len(sizes) + 1
    for name in sorted(set(cells.optimizer) - {baseline}):
        at = (cells.optimizer == name).to_numpy()
        columns[name] = {}
        terms = {"u": np.ones(len(cells)), "v": logN, "w": logr}
        for key, values in terms.items():
            design = np.column_stack([*[terms[k][at] for k in columns[name]], values[at]])
            if np.linalg.matrix_rank(design, tol=1e-9) < design.shape[1]:
                what = {"v": "size", "w": "ratio"}[key]
                notes.append(f"{name}: no trend in {what}, its cells do not separate one")
                continue
            columns[name][key] = first + len(X)
            X.append(np.where(at, values, 0.0))
    X_nQ = np.column_stack(X) if X else np.zeros((len(cells), 0))
    se2 = np.full(len(cells), noise**2) if "se" not in cells else cells.se.to_numpy(float) ** 2
    race_n, common2 = races(cells)
    model = EquivalentData(size_n, 0 * size_n, logr * np.log(2), X_nQ, race_n)
    loss = cells.loss.to_numpy(float)
    target = np.concatenate([loss, np.zeros(len(common2))])
    starts = model.starts(loss, (cells.optimizer == baseline).to_numpy())
    df, tau2 = len(target) - starts.shape[1], 0.0
    for _ in range(4):  # the scatter changes the weights and these the fit: settles at once
        weight = noise**2 / np.concatenate([se2 + tau2, common2])
        solution = solver.minimise(model, starts, target, weight=weight)
        (theta,), _, (agreement,) = solver.best_of_starts(solution, len(starts))
        residual = target - model(theta[None])[0][0]
        before, tau2 = tau2, _scatter(residual, se2, common2, df)
        if abs(tau2 - before) <= 0.01 * noise**2:
            break
    jacobian = model(theta[None])[1][0] * np.sqrt(weight)[:, None]
    norm = np.linalg.norm(jacobian, axis=0)
    rms = np.sqrt((residual[: len(loss)] ** 2).sum() / df) if df > 0 else np.nan
    return JointFit(
        cells, model, target, theta, columns, sizes, params0, ratio0, weight, float(noise),
        float(noise_df), float(np.sqrt(before)), float(rms), float(df), float(agreement),
        bool(solution.converged[solution.objective.argmin()]),
        float(np.linalg.cond(jacobian / np.maximum(norm, 1e-300)) ** 2), baseline, tuple(notes),
    )  # fmt: skip


def races(cells: pd.DataFrame) -> tuple[np.ndarray | None, np.ndarray]:
    """Each cell's race, and the variance of each race's common effect; none where it is zero."""
    if "common_se" not in cells or not (cells.common_se > 0).any():
        return None, np.zeros(0)
    groups = cells.groupby(RACE, sort=False)
    return groups.ngroup().to_numpy(), groups.common_se.median().to_numpy(float) ** 2


def _scatter(residual, se2, common2, df):
    """Paule and Mandel's variance between cells: chi-square equals its degrees of freedom."""
    square, n = residual**2, len(se2)
    df = df - (square[n:] / common2).sum()
    square = square[:n]
    if df <= 0 or (square / se2).sum() <= df:
        return 0.0
    low, high = 0.0, float(square.sum())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (square / (se2 + middle)).sum() > df else (low, middle)
    return middle
