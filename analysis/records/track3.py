"""Track 3 of modded-nanogpt re-analysed: noise, seeds, exchange rate, the board with intervals.

A result's time is the step at which its mean loss is 3.28: its accepted step less what the margin
below 3.28 is worth at the exchange rate. One sigma, pooled over all results, serves for all.
"""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import special, stats

from analysis.claims import tables
from analysis.claims.judge import Question
from analysis.claims.rules import RULES
from analysis.claims.target import reached
from analysis.published import track3
from analysis.records.rows import Rows
from analysis.stats import compare, exchange
from analysis.stats.noise import Noise

TITLE = "Track 3 of modded-nanogpt: 581 runs"
BOARD = RULES["track3"]
SHORTENED = "exchange-rate runs: setting of #12 shortened by 200 steps"
BASELINE = (1, 3, 6, 12, 36)  # Muon, tuned by several people; nothing else changed
PAIRED = 8  # common seeds that a correlation needs to be listed
# results that were built on another one: a lineage of settings that share most of their code
PREDECESSOR = {
    11: 9, 14: 11, 16: 14, 17: 11, 20: 16, 29: 20, 30: 29, 34: 30, 38: 30, 40: 30, 41: 40, 42: 40,
    43: 41, 45: 44, 46: 45, 13: 8, 24: 11, 31: 23, 32: 20, 25: 19, 37: 5, 39: 12, 36: 12, 12: 6,
}  # fmt: skip


def evidence() -> pd.DataFrame:
    """The runs that count for the board: result_number, seed, loss at the accepted step, ..."""
    runs = track3.runs()
    runs = runs[runs.role == track3.EVIDENCE].astype({"result_number": int})
    return runs.rename(columns={"loss_at_accepted_step": "loss"})


def numbers() -> pd.DataFrame:
    """Every estimate as a long table: table, subject, quantity, value, low, high, note."""
    runs, rows = evidence(), Rows()
    arms = {n: tables.arm(str(n), tables.read(f"track3:{n}")) for n in runs.result_number.unique()}
    noise = _noise(rows, runs)
    rate = _exchange(rows, noise, arms)
    _seeds(rows, runs)
    times = _board(rows, runs, noise, rate)
    _ties(rows, times)
    _predecessors(rows, runs, times, rate, noise)
    _stopping(rows, noise, arms)
    _tuning(rows, times)
    return rows.frame()


def sentences(found: pd.DataFrame) -> list[str]:
    """What the record can carry and what it cannot, of `numbers()`."""
    at = found.set_index(["table", "subject", "quantity"]).to_dict("index")

    def known(table, subject, quantity, places=0):
        row = at[table, subject, quantity]
        return f"{row['value']:.{places}f} ({row['low']:.{places}f} to {row['high']:.{places}f})"

    ranks = {s: r for (_, s, quantity), r in at.items() if quantity == "rank"}
    first = [s for s, rank in ranks.items() if rank["low"] == 1]
    built = [r["note"] for (table, *_), r in at.items() if table == "predecessor"]
    gained = [note for note in built if "gains" in note]
    return [
        f"One run scatters by {known('noise', 'all', 'sd', 5)} nats, and one sigma fits all"
        " results; the board assumes 0.0013.",
        f"Results {' and '.join(first)} share first place: any order of theirs fits, all results"
        " held together.",
        f"{len(gained)} of {len(built)} results gain on the one they were built on;"
        f" {sum('fails' in note for note in gained)} of them fail the board's own rule against it.",
        f"100 steps are worth {known('exchange', '12', 'rate_per_100_steps', 4)} nats.",
        f"Tuning alone took {known('tuning', 'Muon, all tuning', 'steps_gained')} steps off Muon's"
        " baseline; MuonH over Muon, both tuned alike, gains"
        f" {known('tuning', 'MuonH over Muon, both tuned alike', 'steps_gained')}.",
        "It cannot carry wall time (machines differ), nor transfer (one size, one batch, one data"
        " set); results of a single run have no scatter of their own.",
    ]


def _noise(rows, runs) -> Noise:
    groups = [g.loss.to_numpy() for _, g in runs.groupby("result_number") if len(g) >= 4]
    others = track3.runs().query("role != @track3.EVIDENCE")
    folder = others.file.str.rpartition("/")[0].where(others.seed.notna(), others.role)
    for _, group in others.groupby(["role", folder]):
        if len(group) >= 4 and not group.seed.dropna().duplicated().any():  # one setting
            groups.append(group.final_val_loss.to_numpy())
    noise, p = compare.pooled(groups)
    low, high = noise.interval()
    note = f"nats, {len(groups)} groups of four or more seeds, {noise.df:.0f} degrees of freedom"
    rows.add("noise", "all", "sd", noise.sd, low, high, note)
    note = f"Bartlett's test: one sigma {'fits' if p > 0.05 else 'does not fit'} all"
    rows.add("noise", "all", "equal_sd_p", p, note=note)
    sds = [g.std(ddof=1) for g in groups]
    rows.add("noise", "all", "sd_smallest_group", min(sds), note="what single groups show")
    rows.add("noise", "all", "sd_largest_group", max(sds), note="what single groups show")
    p = float(special.ndtr(-BOARD.threshold / noise.sd))
    note = f"the board assumes sigma {BOARD.sigma}, p {BOARD.p_value(BOARD.threshold):.2g}"
    rows.add("noise", "board", "p_at_threshold", p, note=note)
    return noise


def _exchange(rows, noise, arms) -> exchange.Rate:
    """Result 12 against the same setting shortened by 200 steps, both at their ends."""
    runs = track3.runs()
    long = runs[(runs.result_number == 12) & (runs.role == track3.EVIDENCE)]
    short = runs[runs.role == SHORTENED]
    both = pd.concat([long, short])
    rate = exchange.from_lengths(both.last_step, both.final_val_loss)
    ends = 100 * np.array([rate.value, *_interval(rate.value, rate.se, rate.df)])
    note = f"nats per 100 steps, {rate.how}, like with like; the board takes 0.0045"
    rows.add("exchange", "12", "rate_per_100_steps", *ends, note)
    steps = noise.sd / rate.value
    rows.add("exchange", "all", "sd_in_steps", steps, note=f"{steps / 3250:.1%} of 3,250 steps")
    slopes = []
    for arm in arms.values():
        try:
            slope = exchange.from_curves(arm.curves("step"))
        except ValueError:
            continue
        slopes.append(slope.value * arm.last.step.mean() / (rate.value * 3250))
    low, middle, high = np.quantile(slopes, [0.1, 0.5, 0.9])
    note = f"last 5 % of a curve over that rate, {len(slopes)} results, 10th to 90th percentile"
    rows.add("exchange", "all", "slope_within_runs_over_rate", middle, low, high, note)
    return rate


def _interval(value, se, df, level=0.95):
    half = stats.t.ppf(0.5 + level / 2, df) * se
    return value - half, value + half


def _seeds(rows, runs):
    """How far same-seed losses go together, inside lineages and elsewhere."""
    wide = runs.pivot_table(index="seed", columns="result_number", values="loss")
    inside, elsewhere = [], []
    for a in wide:
        for b in wide:
            pair = wide[[a, b]].dropna() if a < b else ()
            if len(pair) < PAIRED:
                continue
            r = float(np.corrcoef(pair.T)[0, 1])
            near = PREDECESSOR.get(b) == a
            (inside if near else elsewhere).append((r, len(pair)))
            if near:
                ends = compare.fisher([r], [len(pair)])[1:]
                rows.add("seeds", f"{b} after {a}", "correlation", r, *ends, f"{len(pair)} seeds")
    r, low, high = compare.fisher(*zip(*inside, strict=True))
    note = f"{len(inside)} pairs of a result and the one it was built on"
    rows.add("seeds", "inside lineages", "correlation", r, low, high, note)
    note = "share of the runs that a paired test needs"
    rows.add("seeds", "inside lineages", "runs_needed_share", 1 - r, 1 - high, 1 - low, note)
    values = [r for r, _ in elsewhere]
    note = f"median of {len(values)} other pairs, quartiles"
    quartiles = np.quantile(values, [0.25, 0.75])
    rows.add("seeds", "elsewhere", "correlation", np.median(values), *quartiles, note)


def _board(rows, runs, noise, rate) -> pd.DataFrame:
    """Mean loss and time of every result."""
    found = []
    for number, group in runs.groupby("result_number"):
        n, mean, step = len(group), group.loss.mean(), int(group.accepted_step.iloc[0])
        se = noise.sd / math.sqrt(n)
        rows.add("board", number, "loss", mean, *_interval(mean, se, noise.df), f"{n} runs")
        # the rate is per step near 3,300 steps; elsewhere a share of the run is worth the same
        local = rate.value * 3250 / step
        margin = track3.TARGET - mean
        time = step - margin / local
        error = math.hypot(se / local, margin / local * rate.se / rate.value)
        note = f"{group.method.iloc[0]}; accepted at {step}"
        rows.add("board", number, "time", time, *_interval(time, error, noise.df), note)
        found.append((number, group.method.iloc[0], step, n, mean, time, error))
    columns = ["number", "method", "step", "n", "loss", "time", "error"]
    return pd.DataFrame(found, columns=columns).set_index("number").sort_values("time")


def _ties(rows, times):
    """Rank intervals that hold for all results at once (Bonferroni over all pairs)."""
    k = len(times)
    bar = float(special.ndtri(1 - 0.05 / (k * (k - 1))))
    time, error = times.time.to_numpy(), times.error.to_numpy()
    gap = (time[:, None] - time) / np.hypot(error[:, None], error)
    for i, number in enumerate(times.index):
        low, high = 1 + int((gap[i] > bar).sum()), k - int((gap[i] < -bar).sum())
        note = f"of {k}; any rank in this range fits, all results at once"
        rows.add("board", number, "rank", i + 1, low, high, note)


def _predecessors(rows, runs, times, rate, noise):
    """Every result against the one it was built on: steps gained, paired by seed where it helps."""
    seeds = runs.seed.where(~runs.duplicated(["result_number", "seed"]))
    seeds = seeds.astype(object).where(seeds.notna(), runs.run_id)  # a run without one pairs none
    keyed = {
        n: dict(zip(seeds[g.index], g.loss, strict=True)) for n, g in runs.groupby("result_number")
    }
    for new, old in sorted(PREDECESSOR.items()):
        found = compare.difference(keyed[new], keyed[old], noise=noise)
        steps = times.step[old] - times.step[new]
        value = found.value / rate.value + steps
        error = math.hypot(found.se / rate.value, found.value / rate.value * rate.se / rate.value)
        low, high = _interval(value, error, found.df)
        said = "gains" if low > 0 else "loses" if high < 0 else "cannot be told from it"
        how = "paired by seed" if found.paired else "unpaired"
        board = BOARD.beats((times.loss[old], times.n[old], times.step[old]),
                            (times.loss[new], times.n[new], times.step[new]))  # fmt: skip
        rule = f"board's rule {board:.4f}: {'passes' if BOARD.passes(board) else 'fails'}"
        note = f"steps; {said}; {how}; {rule}"
        rows.add("predecessor", f"{new} after {old}", "gain", value, low, high, note)


def _stopping(rows, noise, arms):
    """The earliest step at the board's own error rate, with stopping corrected, beside its own."""
    error, moved = 2 * BOARD.p_value(BOARD.threshold), 0
    ask = Question(level=1 - error, noise=noise)
    for number, arm in arms.items():
        if len(arm.looks().columns) < 3:
            continue
        earliest = BOARD.stopping_step(arm)
        _, _, sure, note = reached(arm, track3.TARGET, ask)
        board = "never passes" if earliest is None else f"the board's earliest is {earliest:g}"
        later = earliest is not None and sure > earliest
        moved += later
        rows.add("stopping", number, "first_sure_step", sure, note=f"{board}; {note}")
    note = "results whose earliest step moves later once stopping is corrected, at the same error"
    rows.add("stopping", "all", "moved_later", moved, note=note)


def _tuning(rows, times):
    """What tuning alone brought to the baseline, and what was left of a rival's lead."""
    for old, new in pairwise(BASELINE):
        _gain(rows, times, f"Muon {new} after {old}", old, new)
    _gain(rows, times, "Muon, all tuning", BASELINE[0], BASELINE[-1])
    _gain(rows, times, "Muon, from the first with 20 runs", 6, 36)
    _gain(rows, times, "MuonH over Muon, before the last tuning", 12, 5)
    _gain(rows, times, "MuonH over Muon, both tuned alike", 36, 37)


def _gain(rows, times, subject, old, new):
    value = times.time[old] - times.time[new]
    error = math.hypot(times.error[old], times.error[new])
    low, high = value - 1.96 * error, value + 1.96 * error
    runs = f"{times.n[old]} and {times.n[new]} runs"
    share = f"{value / times.time[old]:.1%}"
    rows.add("tuning", subject, "steps_gained", value, low, high, f"{share}; {runs}")
