"""The Qwen3-style ladder re-analysed: optima with edges, gaps with intervals, confounds, costs.

One seed per setting: the noise is the scatter of a sweep's losses about a quadratic in log2 of the
learning rate, so it holds lack of fit as well. Runs of other dates differ by more (`repeats`).
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.published import qwen3_ladder
from analysis.published.qwen3_ladder import ARCHIVE, SIZES
from analysis.records.rows import Rows
from analysis.stats import compare, power, trend
from analysis.stats.noise import Noise

CONFOUNDS = (  # settings that differ between optimizers beside the rule itself
    *("hybrid_norm", "schedule", "warmup", "decay", "weight_decay", "momentum", "adam_lr_ratio"),
)
GAPS = (  # (worse, better) where a reader will look, and what stands between them
    ("muonc", "muonh", "architecture, schedule and decay differ: not the gain of the hyperball"),
    ("adamc", "adamh", "architecture and decay differ: not the gain of the hyperball"),
    ("adamc", "muonc", "schedule differs; MuonC is not plain Muon"),
    ("adamh", "muonh", "same architecture and schedule: the rule (and its momentum) alone"),
    ("muonc", "prism_berkeley", "same settings: the rule alone"),
    ("muonc", "muonremez", "same settings: the rule alone"),
)
REPEATS = (  # nearly equal settings at different dates: size, learning rate, (ladder, optimizer)
    ("130m", 0.016, (("qwen3_2025", "muon"), (ARCHIVE, "muonc"), ("error_feedback_2026-07", "muon"),
                     ("rmnp_2026-09", "muon"))),
    ("520m", 0.01, (("qwen3_2025", "muonh"), (ARCHIVE, "muonh"))),
)  # fmt: skip
TITLE = "A Qwen3-style ladder: 238 runs, one seed each"
NATS_PER_BPB = 3.2493  # loss over bits per byte of the archived runs, equal to 1e-4 at all sizes


class Sweep(NamedTuple):
    """A learning-rate sweep and the quadratic through it.

    best, rate: the best run. vertex: the fitted best rate, NaN where the grid does not hold it.
    loss: fitted at the vertex, or else at the best rate; leverage: its variance over a run's.
    edge: "top" or "bottom" where the best run is the last of the grid, so the optimum is open.
    squares, df: of the residuals.
    """

    best: float
    rate: float
    vertex: float
    loss: float
    leverage: float
    edge: str
    squares: float
    df: int


def sweep(rate, loss) -> Sweep:
    """Quadratic in log2(learning rate) through a sweep of at least four rates."""
    x, y = np.log2(np.asarray(rate, float)), np.asarray(loss, float)
    order = np.argsort(x)
    x, y = x[order], y[order]
    centre = x.mean()
    design = np.vander(x - centre, 3)
    a, b, c = np.linalg.lstsq(design, y, rcond=None)[0]
    squares = float(((design @ [a, b, c] - y) ** 2).sum())
    i = int(y.argmin())
    vertex = centre - b / (2 * a) if a > 0 else math.nan
    inside = x[0] <= vertex <= x[-1]
    at = np.vander([(vertex if inside else x[i]) - centre], 3)[0]
    leverage = float(at @ np.linalg.inv(design.T @ design) @ at)
    edge = "bottom" if i == 0 else "top" if i == len(x) - 1 else ""
    peak = float(2**vertex) if inside else math.nan
    return Sweep(
        float(y[i]), float(2 ** x[i]), peak, float(at @ [a, b, c]), leverage, edge, squares,
        len(x) - 3,
    )  # fmt: skip


def numbers() -> pd.DataFrame:
    """Every estimate as a long table: table, subject, quantity, value, low, high, note."""
    runs, rows = qwen3_ladder.runs(), Rows()
    _sizes(rows)
    dates = _repeats(rows, runs)
    archive = runs[runs.ladder == ARCHIVE]
    cells = {key: cell for key, cell in archive.groupby(["optimizer", "model_size"])}
    sweeps = {
        (name, size): sweep(cells[name, size].hp_learning_rate, cells[name, size].loss)
        for name in sorted(archive.optimizer.unique())
        for size in SIZES
    }
    noise = _noise(rows, sweeps)
    _optima(rows, sweeps, noise)
    _gaps(rows, sweeps, noise)
    _confounds(rows)
    _across(rows, runs, dates)
    _feedback(rows, runs)
    _settle(rows, sweeps, dates)
    return rows.frame()


def sentences(found: pd.DataFrame) -> list[str]:
    """What the record cannot carry, what it can, and what would settle the rest, of `numbers()`."""
    at = found.set_index(["table", "subject", "quantity"]).to_dict("index")

    def known(table, subject, quantity="loss", places=3):
        row = at[table, subject, quantity]
        value, low, high = (f"{row[name]:.{places}f}" for name in ("value", "low", "high"))
        return f"{value} nats ({low} to {high})"

    def edges(name):
        notes = {size: at["optimum", f"{name} {size}", "best_loss"]["note"] for size in SIZES}
        return ", ".join(size for size, note in notes.items() if "open" in note)

    settle = found[found.table == "settle"]
    flops = settle.note.str.extract(r"(\S+) FLOPs", expand=False).astype(float)
    settle = settle.loc[flops.sort_values(kind="stable").index].head(3)
    dates = at["repeats", "muon 130m at 0.016", "range"]["value"]
    small = at["size", "130m", "non_embedding_params"]["value"] / 1e6
    return [
        f"AdamC's optimum is open at {edges('adamc')}: its best run has the highest rate tried.",
        f"So is MuonRemez' at {edges('muonremez')} and PRISM's at {edges('prism_berkeley')}.",
        "MuonH and AdamH ran with other norms, another schedule and another decay than MuonC and"
        f" AdamC: the gap MuonC - MuonH, {known('gap', 'muonc - muonh 130m', places=4)} at 130m and"
        f" {known('gap', 'muonc - muonh 1.2b')} at 1.2b, is the hyperball's alone at no size.",
        "MuonC is not plain Muon: at 520m it is"
        f" {known('muonc', 'muonc - muon of 2025 520m')} worse.",
        f"Nearly equal settings run at different dates differ by up to {dates:.4f} nats, and no"
        " seed was repeated: no smaller gap between dates is settled.",
        f'"130m" has {small:.0f}M parameters without embeddings.',
        "What it can carry: with equal norms and schedule AdamH is behind MuonH by"
        f" {known('gap', 'adamh - muonh 130m')} at 130m and {known('gap', 'adamh - muonh 1.2b')}"
        f" at 1.2b; per doubling of size {known('gap', 'adamh - muonh', 'per_doubling', 4)}.",
        "The cheapest runs that would settle an open point: "
        + "; ".join(f"{row.subject} ({row.note})" for row in settle.itertuples()) + ".",
    ]  # fmt: skip


def _cells():
    table = qwen3_ladder.settings()
    return table[table.ladder == ARCHIVE].set_index(["optimizer", "model_size"])


def _sizes(rows):
    for size in SIZES:
        cell = _cells().loc[("muonc", size)]
        note = f"parameters without embeddings; {cell.total_params / 1e6:.0f}M in all, one name for both"  # noqa: E501
        rows.add("size", size, "non_embedding_params", cell.non_embedding_params, note=note)
        note = "trained tokens per parameter, embeddings included"
        rows.add("size", size, "tokens_per_param", cell.tokens / cell.total_params, note=note)


def _repeats(rows, runs) -> Noise:
    """Nearly equal settings at different dates: how far apart, in nats."""
    groups = []
    for size, rate, members in REPEATS:
        found = [
            runs[(runs.ladder == ladder) & (runs.optimizer == name) & (runs.model_size == size)
                 & np.isclose(runs.hp_learning_rate, rate)].bits_per_byte.iloc[0] * NATS_PER_BPB
            for ladder, name in members
        ]  # fmt: skip
        groups.append(found)
        subject = f"{members[-1][1]} {size} at {rate:g}"
        note = f"nats between {len(found)} dates: Nesterov or the decay rule differ, little else"
        rows.add("repeats", subject, "range", np.ptp(found), note=note)
    noise = compare.pooled(groups)[0]
    low, high = noise.interval()
    note = (
        f"of one run between dates, nats; {noise.df:.0f} degrees of freedom, no seed was repeated"
    )
    rows.add("repeats", "all", "sd", noise.sd, low, high, note)
    return noise


def _noise(rows, sweeps) -> dict[str, Noise]:
    """Scatter about the quadratic, pooled per optimizer over its sizes."""
    found = {}
    for name in sorted({name for name, _ in sweeps}):
        mine = [s for (other, _), s in sweeps.items() if other == name]
        df = sum(s.df for s in mine)
        found[name] = Noise(math.sqrt(sum(s.squares for s in mine) / df), df)
        ends = found[name].interval()
        note = "about a quadratic in log2(learning rate), nats; lack of fit included"
        rows.add("noise", name, "sd", found[name].sd, *ends, note)
    return found


def _optima(rows, sweeps, noise):
    for name, size in sweeps:
        s, subject = sweeps[name, size], f"{name} {size}"
        where = f"at learning rate {s.rate:g}"
        if s.edge:
            where += f", the {s.edge} of its grid: open"
        rows.add("optimum", subject, "best_loss", s.best, note=where)
        half = stats.t.ppf(0.975, noise[name].df) * noise[name].sd * math.sqrt(s.leverage)
        if s.edge:
            note = "fitted at the edge: an upper bound of what tuning would reach"
            rows.add("optimum", subject, "loss", s.loss, -math.inf, s.loss + half, note)
            continue
        flat = math.isnan(s.vertex)
        note = "fitted at the best rate: the vertex lies beyond the grid" if flat else "fitted"
        rows.add("optimum", subject, "loss", s.loss, s.loss - half, s.loss + half, note)
        if not flat:
            rows.add("optimum", subject, "learning_rate", s.vertex, note="vertex of the quadratic")
    for name in {name: None for name, _ in sweeps}:
        inside = [sweeps[name, size].vertex for size in SIZES if not sweeps[name, size].edge]
        inside = [v for v in inside if v == v]
        if len(inside) > 1:
            note = f"largest over smallest best rate, {len(inside)} of 4 sizes; tokens grow along"
            rows.add("optimum", name, "rate_drift", max(inside) / min(inside), note=note)


def _gaps(rows, sweeps, noise):
    params = _cells().non_embedding_params
    for worse, better, why in GAPS:
        points, found = [], []
        for size in SIZES:
            a, b = sweeps[worse, size], sweeps[better, size]
            subject = f"{worse} - {better} {size}"
            rows.add("gap", subject, "best_runs", a.best - b.best, note="of the best single runs")
            parts = [(noise[n], s.leverage) for n, s in ((worse, a), (better, b))]
            shares = [one.sd**2 * leverage for one, leverage in parts]
            variance = sum(shares)
            df = variance**2 / sum(v * v / n.df for v, (n, _) in zip(shares, parts, strict=True))
            gap, half = a.loss - b.loss, stats.t.ppf(0.975, df) * math.sqrt(variance)
            low = (
                -math.inf if a.edge else gap - half
            )  # a rival that was not tuned out may be better
            high = math.inf if b.edge else gap + half
            still = " and ".join(n for n, s in ((worse, a), (better, b)) if s.edge)
            note = f"the optimum of {still} is open" if still else "fitted minima"
            rows.add("gap", subject, "loss", gap, low, high, f"{note}; {why}")
            if still:
                continue
            found.append(size)
            points.append((math.log2(params[worse, size]), gap, math.sqrt(variance)))
        if len(points) > 2:
            x, gaps, errors = np.array(points).T
            line = trend.line(x, gaps, errors).per_unit()
            note = f"nats per doubling of parameters, straight line through {len(points)} sizes"
            rows.add("gap", f"{worse} - {better}", "per_doubling", *line, note)
            value, half = gaps[-1] - gaps[0], 1.96 * math.hypot(errors[0], errors[-1])
            sign = "falls" if value + half < 0 else "rises" if value > half else "cannot be told"
            note = f"from {found[0]} to {found[-1]}: {sign}; {why}"
            rows.add(
                "gap", f"{worse} - {better}", "change", value, value - half, value + half, note
            )


def _confounds(rows):
    cells = _cells()
    for worse, better, _ in GAPS:
        differ = [
            name for name in CONFOUNDS
            if any(str(cells[name][worse, s]) != str(cells[name][better, s]) for s in SIZES)
        ]  # fmt: skip
        note = ", ".join(differ) or "none recorded"
        rows.add(
            "confound", f"{worse} and {better}", "settings_that_differ", len(differ), note=note
        )


def _across(rows, runs, dates):
    """MuonC against plain Muon of 2025, at equal or near rates; the dates' scatter is the error."""
    half = stats.t.ppf(0.975, dates.df) * dates.sd * math.sqrt(2)
    for size in SIZES:
        at = runs[runs.model_size == size]
        old = at[(at.ladder == "qwen3_2025") & (at.optimizer == "muon")].bits_per_byte.min()
        new = at[(at.ladder == ARCHIVE) & (at.optimizer == "muonc")].bits_per_byte.min()
        gap = (new - old) * NATS_PER_BPB
        note = "MuonC is Muon with decay that follows the rate; best runs, nats from bits per byte"
        rows.add("muonc", f"muonc - muon of 2025 {size}", "loss", gap, gap - half, gap + half, note)


def _feedback(rows, runs):
    """The July 2026 variants against Muon of the same ladder, corrected for their number."""
    ladder = runs[runs.ladder == "error_feedback_2026-07"]
    tried = ladder[ladder.variant != "muon"].groupby(["variant", "model_size"]).ngroups
    for size in ("130m", "300m"):
        groups = ladder[ladder.model_size == size].groupby("variant")
        sweeps = {name: sweep(g.hp_learning_rate, g.loss) for name, g in groups}
        df = sum(s.df for s in sweeps.values())
        sd = math.sqrt(sum(s.squares for s in sweeps.values()) / df)
        base = sweeps.pop("muon")
        for name, s in sweeps.items():
            gap = base.best - s.best
            half = stats.t.ppf(1 - 0.025 / tried, df) * sd * math.sqrt(2)
            note = f"nats below Muon, best runs; corrected for {tried} comparisons"
            note += "; open" * bool(s.edge) + "; Muon's optimum is open" * bool(base.edge)
            rows.add("error_feedback", f"{name} {size}", "gain", gap, gap - half, gap + half, note)


def _settle(rows, sweeps, dates):
    """The cheapest runs that would settle what is open, in runs and FLOPs."""
    design = power.Design(dates.sd, known=True)

    def add(subject, size, runs, what):
        cell = _cells().loc[("muonc", size)]
        # 6 N D with the head and without the embedding, which multiplies nothing
        flops = 3.0 * (cell.total_params + cell.non_embedding_params) * cell.tokens * runs
        rows.add("settle", f"{subject} {size}", "runs", runs, note=f"{what}; {flops:.2g} FLOPs")

    for (name, size), s in sweeps.items():
        if s.edge:
            lower = s.edge == "bottom"
            ends = " and ".join(f"{s.rate * f:g}" for f in ((0.5, 0.7) if lower else (1.5, 2.0)))
            add(f"open optimum of {name}", size, 2, f"learning rates {ends}")
    gap = sweeps["muonc", "520m"].best - sweeps["muonh", "520m"].best
    seeds = power.seeds_needed(gap / 2, design)
    half = f"{seeds} seeds tell half the gap of {gap:.4f} from none"
    add("hyperball or norms", "520m", 3 * seeds, f"MuonC with hybrid_norm, three rates; {half}")
    add(
        "hyperball or schedule",
        "520m",
        3 * seeds,
        f"MuonC, cosine with warm-up, three rates; {half}",
    )
    add("MuonC or Muon", "520m", seeds, f"plain Muon at 0.008 in the code of the archive; {half}")
    add("noise", "130m", 6, "three seeds of MuonC and MuonH at their best rate")
