"""Verdicts: with the errors of both sides, paired where seeds are common, right together."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.estimates.comparisons import gap, holm, put_comparisons, verdict
from analysis.estimates.table import Rows, pick
from analysis.stats.noise import Noise

SD = 0.004  # nats, of a cell


def cell(loss, se, common=0.0, seeds="1 2"):
    return SimpleNamespace(loss=loss, se=se, common_se=common, seeds=seeds)


def test_a_gap_carries_both_errors_and_cancels_what_seeds_have_in_common():
    assert gap(cell(3.0, 0.003, 0.02), cell(2.9, 0.004, 0.02)) == pytest.approx((0.1, 0.005))
    apart = gap(cell(3.0, 0.003, 0.02), cell(2.9, 0.004, 0.02, seeds="0"))
    assert apart[1] == pytest.approx(np.hypot(0.005, 0.02 * 2**0.5))


def test_holm_is_holm():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert len(holm([])) == 0
    assert verdict(0.1, 0.04) == "faster" and verdict(-0.1, 0.04) == "slower"
    assert verdict(0.1, 0.06) == "not resolvable"


def report(rng, *, races=4, rivals=6, df=8, lead=0.0):
    """The numbers of a report whose rivals all lie `lead` below the baseline, noise measured."""
    sd = SD * np.sqrt(stats.chi2.rvs(df, random_state=rng) / df)
    rows = [
        (name, "s", float(race), 3 - lead * (name != "adamw") + SD * rng.standard_normal(), sd)
        for race in range(1, races + 1)
        for name in ["adamw", *(f"rival{i}" for i in range(rivals))]
    ]
    names = ["optimizer", "model_size", "chinchilla_ratio", "loss", "se"]
    cells = pd.DataFrame(rows, columns=names).assign(common_se=0.0, seeds="1 2")
    out = Rows()
    put_comparisons(out, cells, Noise(sd, df), "adamw")
    return out.frame()


@pytest.mark.slow
def test_a_report_without_differences_seldom_has_one():
    """False verdicts in at most 5 % of reports, of either kind; one by one there are many more."""
    rng, studies = np.random.default_rng(0), 150
    alone, together, clear, excluded = np.zeros((4, studies), bool)
    for i in range(studies):
        numbers = report(rng)
        alone[i] = (pick(numbers, "gap", quantity="p_value").value < 0.05).any()
        together[i] = (pick(numbers, "gap", quantity="p_together").value < 0.05).any()
        behind = pick(numbers, "race")
        clear[i] = (behind.high < 0).any()  # of all its rivals
        excluded[i] = (behind[behind.optimizer == "adamw"].low > 0).any()  # though as good as any
    bound = 0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5
    assert max(together.mean(), clear.mean(), excluded.mean()) <= bound
    assert alone.mean() > 0.3


def test_what_is_there_is_found():
    numbers = report(np.random.default_rng(1), df=30, lead=8 * SD)
    gaps = pick(numbers, "gap", quantity="nats")
    assert (gaps.note == "faster").mean() > 0.9
    behind = pick(numbers, "race").set_index("optimizer")
    assert (behind.low["adamw"] > 0).all()  # not the best of any race
    p = pick(numbers, "order", quantity="p_faster_than_adamw").value
    assert (p > 0.99).all()


@pytest.mark.parametrize("scatter", [0.0, SD / 4, SD])
def test_power_is_that_of_the_seeds_it_names(scatter):
    """Seeds narrow the runs' part of an error; what cells scatter about their curves stays."""
    below, noise = SD, Noise(SD, 1000)
    cells = pd.DataFrame(
        {
            "optimizer": ["adamw", "rival"],
            "model_size": "s",
            "chinchilla_ratio": 1.0,
            "loss": [3.0, 3.0 - below],
            "se": np.hypot(SD / 2**0.5, scatter),
            "common_se": 0.0,
            "seeds": "1 2",
        }
    )

    def chance(effect, seeds):
        error = (2 * (SD**2 / seeds + scatter**2)) ** 0.5
        return stats.norm.cdf(effect / error - noise.quantile())

    out = Rows()
    put_comparisons(out, cells, noise, "adamw")
    found = out.frame().set_index("quantity")
    assert chance(found.value["detectable"], 2) == pytest.approx(0.8, abs=1e-3)
    note = found.note["below_rival"]
    if scatter == SD:
        assert "seeds_to_settle" not in found.index and "no more seeds" in note
    else:
        seeds = found.value["seeds_to_settle"]
        assert chance(below, seeds) >= 0.8 - 1e-9 > chance(below, seeds - 1)
        assert f"; {seeds:.0f} fresh seeds of both would" in note
