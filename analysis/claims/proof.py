"""Does the checker keep its word? False "better" and power on runs with a known difference.

    python -m analysis.claims.proof --claims=4000

Every scenario draws losses of two arms that differ by `effect` standard deviations of a run, lets
the claimant do what the scenario says, and counts how often the verdict is "better". With no effect
that is a false alarm: nominally 2.5 % (half of 5 %, the other half is "worse"), at most 5 %.
"""

import argparse
import sys
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims.judge import BETTER, OPEN, WORSE, Question, answer, judge
from analysis.claims.tables import Arm
from analysis.claims.target import judge_race, judge_target
from analysis.stats import compare, power, sequential

TARGET, SLOPE = 3.28, 0.05  # nats; standard deviations of a run per look


def _verdict(a, b, ask):
    found = compare.difference(a, b, pair=ask.pair, noise=ask.noise)
    half = ask.critical(found) * found.se if np.isfinite(found.se) else np.inf
    return answer(found.value - half, found.value + half)


def _keyed(values, name=""):
    return {(name, i) if name else i: v for i, v in enumerate(values)}


def fixed(rng, effect, *, n=(5, 5), sd=(1.0, 1.0), variants=1):
    """So many runs each, looked at once; the best of some variants is claimed."""
    tried = rng.normal(-effect, sd[0], (variants, n[0]))
    best = tried[tried.mean(1).argmin()]
    other = _keyed(rng.normal(0, sd[1], n[1]), "b")
    return _verdict(_keyed(best, "a"), other, Question(variants=variants))


def seeds(rng, effect, *, n=8, rho=0.8, common=None):
    """Same seeds in both arms, all or some of them; pairing left to the checker."""
    shared = rng.normal(0, np.sqrt(rho), n)
    a, b = (shared + rng.normal(0, np.sqrt(1 - rho), n) for _ in range(2))
    keys = [i if i < (common or n) else ("b", i) for i in range(n)]
    return _verdict(_keyed(a - effect), dict(zip(keys, b, strict=True)), Question())


def peeking(rng, effect, *, looks, declared, step=1, rho=None):
    """Seeds are added until A looks better; the verdict at every look is the checker's."""
    size = 2 + step * looks
    shared = rng.normal(0, np.sqrt(rho or 0), size)
    a, b = (shared + rng.normal(0, np.sqrt(1 - (rho or 0)), size) for _ in range(2))
    ask = Question(looks=declared, pair=bool(rho))
    said = OPEN
    for n in range(2 + step, size + 1, step):
        said = _verdict(_keyed(a[:n] - effect), _keyed(b[:n]), ask)
        if said == BETTER:
            break
    return said


def _curves(rng, offset, n, looks, name):
    """n runs: a common slope, an offset per run, and a little noise at every look."""
    step = np.arange(1, looks + 1)
    runs = rng.normal(0, 1, (n, 1)) + rng.normal(0, 0.2, (n, looks)).cumsum(1) * 0.3
    loss = runs + offset - SLOPE * step
    table = pd.DataFrame({
        "run": np.repeat(np.arange(n), looks),
        "step": np.tile(step.astype(float), n),
        "loss": loss.ravel(),
    })  # fmt: skip
    return Arm(name, table)


def chosen_step(rng, effect, *, n=5, looks=20):
    """The step with the widest gap of the curves is claimed."""
    a, b = (_curves(rng, x, n, looks, name) for x, name in ((-effect, "a"), (0, "b")))
    return judge(a, b, Question(steps="chosen")).answer


def chosen_stop(rng, effect, *, n=8, looks=60):
    """The earliest step that passes is claimed as time to target; false if before the true one.

    effect: standard deviations that the curve is ahead of the claim to be proved.
    """
    true_step = 40
    arm = _curves(rng, TARGET + SLOPE * true_step, n, looks, "a")
    verdict = judge_target(arm, TARGET, Question())
    if effect:
        by = true_step + effect / SLOPE
        return BETTER if verdict.number("time_to_target")["high"] <= by else OPEN
    row = verdict.number("time_to_target")
    return BETTER if row["high"] < true_step else WORSE if row["low"] >= true_step else OPEN


def race(rng, effect, *, n=5, looks=120):
    """Two arms' times to a target, curves that are `effect` standard deviations apart."""
    start = TARGET + SLOPE * 80
    a, b = (_curves(rng, x, n, looks, name) for x, name in ((start - effect, "a"), (start, "b")))
    return judge_race(a, b, TARGET, Question()).answer


SCENARIOS = {  # what the claimant does -> (scenario, effect at which power is stated)
    "5 and 5 seeds": (fixed, 2.0),
    "3 and 20 seeds, sd 3 to 1": (partial(fixed, n=(3, 20), sd=(3.0, 1.0)), 2.0),
    "best of 10 variants, 5 seeds each": (partial(fixed, variants=10), 2.0),
    "8 common seeds, correlation 0.8": (seeds, 1.0),
    "8 common seeds, correlation 0": (partial(seeds, rho=0.0), 1.0),
    "8 seeds, 5 of them common, correlation 0.5": (partial(seeds, rho=0.5, common=5), 1.0),
    "5 looks, declared": (partial(peeking, looks=5, declared=5, step=2), 2.0),
    "20 looks, declared": (partial(peeking, looks=20, declared=20), 2.0),
    "40 looks, any number": (partial(peeking, looks=40, declared=sequential.ANY), 1.0),
    "40 looks, any number, paired": (
        partial(peeking, looks=40, declared=sequential.ANY, rho=0.8),
        0.5,
    ),
    "20 looks at a step, widest gap chosen": (chosen_step, 2.0),
    "60 looks at a step, earliest pass chosen": (chosen_stop, 1.0),
    "120 looks at a step, time to target, 5 and 5": (race, 2.0),
    # what the corrections are for: the same claims, taken at their word
    "uncorrected: 20 looks, none declared": (partial(peeking, looks=20, declared=1), 2.0),
}


def prove(claims: int, names=tuple(SCENARIOS), seed=0) -> pd.DataFrame:
    """scenario, false_better, upper (95 % bound of its rate), false_worse, effect, power."""
    rows = []
    for name in names:
        scenario, effect = SCENARIOS[name]
        rng = np.random.default_rng([seed, *name.encode()])
        null = [scenario(rng, 0.0) for _ in range(claims)]
        found = [scenario(rng, effect) for _ in range(max(claims // 4, 1))]
        wrong = null.count(BETTER)
        upper = stats.beta.ppf(0.95, wrong + 1, claims - wrong) if wrong < claims else 1.0
        rows.append({
            "scenario": name,
            "false_better": wrong / claims,
            "upper": float(upper),
            "false_worse": null.count(WORSE) / claims,
            "effect": effect,
            "power": found.count(BETTER) / len(found),
        })  # fmt: skip
    return pd.DataFrame(rows)


def prove_seeds(claims: int, effects=(0.8, 1.5, 3.0), seed=0) -> pd.DataFrame:
    """Is the power at `seeds_needed` the 80 % it states? effect, seeds, power."""
    rng, rows = np.random.default_rng(seed), []
    for effect in effects:
        n = power.seeds_needed(effect, power.Design(1.0))
        said = [fixed(rng, effect, n=(n, n)) for _ in range(claims)]
        rows.append({"effect": effect, "seeds": n, "power": said.count(BETTER) / claims})
    return pd.DataFrame(rows)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.claims.proof", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--claims", type=int, default=4000, help="per scenario (default 4000)")
    parser.add_argument("--out", metavar="FILE", help="write a CSV as well")
    given = parser.parse_args(argv)
    if given.claims < 1:
        parser.error(f"--claims: must be positive, got {given.claims}")
    found = prove(given.claims)
    print(found.to_string(index=False, float_format="{:.4f}".format))
    print(prove_seeds(given.claims).to_string(index=False, float_format="{:.3f}".format))
    if given.out:
        found.to_csv(given.out, index=False, lineterminator="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
