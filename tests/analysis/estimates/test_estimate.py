"""The long table: every study gets what its data carry, in words where a number would mislead."""

import numpy as np
import pandas as pd
import pytest

from analysis import published
from analysis.estimates import cards
from analysis.estimates.estimate import estimate
from analysis.estimates.table import COLUMNS, KEY
from analysis.runs import recorded as recorded_study
from analysis.runs.repeats import null_groups
from analysis.runs.study import from_table
from analysis.stats import noise


@pytest.fixture(scope="module")
def recorded():
    return estimate(recorded_study.study(), cards=False)


def sound(table):
    """What holds for every table of numbers."""
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(KEY).any()
    assert np.isfinite(table.value).all()
    bounded = table[table.low.notna() & table.high.notna()]
    assert (bounded.low <= bounded.high).all()
    return table


def nano(seeds=3, sizes=("a", "b"), ratios=(1, 2, 4), optimizers=("adamw", "muon", "lion")):
    """A small study of one's own: Muon 1.2 times faster, Lion no faster, at two sizes."""
    rng, rows = np.random.default_rng(0), []
    for o in optimizers:
        for i, s in enumerate(sizes):
            for r in ratios:
                for seed in range(seeds):
                    data = r * (1.2 if o == "muon" else 1.0)
                    loss = 3 - 0.1 * i + 0.4 * data**-0.5 + 5e-4 * rng.standard_normal()
                    rows.append((o, s, r, seed, loss, 1e6 * 2**i, 2e7 * r, 1e12 * r))
    names = ["optimizer", "model_size", "chinchilla_ratio", "seed", "loss", "non_embedding_params"]
    table = pd.DataFrame(rows, columns=[*names, "tokens", "flops"])
    table["seconds"] = table.tokens * np.where(table.optimizer == "muon", 1.1, 1.0)
    return table.assign(hp_learning_rate=0.01, status="finished")


@pytest.mark.slow
def test_recorded_study_has_every_procedure(recorded):
    sound(recorded)
    speedups = recorded[(recorded.table == "speedup") & (recorded.quantity == "ratio")]
    assert set(speedups.procedure) == {
        *("published_final", "published_may_4pt", "published_may_16x", "published_formula"),
        *("robust_cell", "robust_joint"),
    }
    row = speedups[(speedups.optimizer == "muon") & (speedups.model_size == "130m")]
    row = row[row.chinchilla_ratio == 8].set_index("procedure").value
    assert row.published_may_4pt == pytest.approx(1.382, abs=1e-3)
    assert row.published_final == pytest.approx(1.299, abs=1e-3)
    assert set(recorded.optimizer) - {""} == set(published.OPTIMIZERS)
    assert set(recorded.table) >= {
        "prediction",
        "sensitive",
        "noise",
        "decline",
        "optimum",
        "doubt",
    }


def test_beyond_the_largest_budget_there_are_bounds(recorded):
    at = (recorded.table == "speedup") & (recorded.model_size == "520m")
    at &= (recorded.chinchilla_ratio == 8) & (recorded.optimizer == "muon")
    for procedure in ("robust_cell", "robust_joint"):
        row = recorded[at & (recorded.procedure == procedure) & (recorded.quantity == "ratio")]
        assert row.value.item() == 1.0 and row.high.isna().all()
        assert row.note.item() == "lower bound: adamw was not run beyond 8x"


def test_1b_cannot_order_muon_soap_and_nadamw(recorded):
    order = recorded[(recorded.table == "order") & (recorded.quantity == "unordered_pairs")]
    at_1b = order[(order.model_size == "1.2b") & (order.procedure == "fair_losses")]
    eight = at_1b[at_1b.chinchilla_ratio == 8].note.item()
    for pair in ("nadamw and muon", "muon and soap", "nadamw and soap"):
        assert pair in eight
    pairs = recorded[recorded.quantity == "p_faster_than_soap"]
    p = pairs[(pairs.model_size == "1.2b") & (pairs.chinchilla_ratio == 8)]
    assert "not resolvable" in p[p.optimizer == "muon"].note.item()


def test_130m_headline_moves_with_its_fit_window():
    best, runs = published.best(), recorded_study.study().finished
    card = cards.card(best, noise.null_spread(null_groups(runs)), "muon", "130m", 8)
    widest = card.loc[card.change.abs().idxmax()]
    assert abs(widest.change) >= 0.10
    assert (widest.group, widest.choice) in {
        ("fit window", "adamw 1-8x"),
        ("leave one out", "without adamw 16x"),
    }
    assert {"fit window", "leave one out", "loss function", "noise", "procedure"} <= set(card.group)


def test_a_study_of_ones_own():
    table = sound(estimate(from_table(nano())))
    at = (table.table == "speedup") & (table.optimizer == "muon") & (table.model_size == "a")
    at &= (table.procedure == "robust_cell") & (table.chinchilla_ratio == 2)
    ratio = table[at & (table.quantity == "ratio")].iloc[0]
    assert ratio.low < 1.2 < ratio.high and ratio.low > 1.1
    seconds = table[at & (table.quantity == "ratio_seconds")].iloc[0]
    assert seconds.value == pytest.approx(ratio.value / 1.1)
    lion = table[(table.optimizer == "lion") & (table.quantity == "ratio")]
    assert lion.note.str.contains("not resolvable at this budget").any()
    total = table[(table.table == "noise") & (table.quantity == "total")]
    assert total.procedure.item() == "seeds" and total.low.item() < 5e-4 < total.high.item()
    assert (table.quantity == "no_scatter").any()  # three ratios: tuning error cannot be seen


@pytest.mark.parametrize(
    "change, quantity, words",
    [
        (lambda t: t[t.chinchilla_ratio != 2], "few_ratios", "brackets instead of a law"),
        (lambda t: t[t.optimizer != "adamw"], "no_baseline", "no speed-up can be stated"),
        (lambda t: pd.concat([t, t.head(7)]), "duplicates", "counted once"),
        (lambda t: t.assign(loss=t.loss.where(t.index > 3)), "missing_loss", "finite loss"),
        (lambda t: t.assign(optimizer=t.optimizer + "x"), "unknown_optimizer", "did you mean"),
        (lambda t: t.assign(status=np.where(t.index < 9, "diverged", "finished")), "diverged", "9"),
    ],
)
def test_poor_inputs_say_what_is_wrong(change, quantity, words):
    table = sound(estimate(from_table(change(nano()))))
    found = table[(table.table == "input") & (table.quantity == quantity)]
    assert len(found), table[table.table == "input"]
    assert words in found.note.iloc[0] or words == f"{found.value.iloc[0]:g}"


@pytest.mark.slow
def test_missing_cells_one_size_and_no_noise_still_give_numbers():
    full = nano()
    holes = full[~((full.optimizer == "muon") & (full.model_size == "b"))]
    table = sound(estimate(from_table(holes[~((holes.optimizer == "lion") & (holes.seed > 0))])))
    assert not ((table.optimizer == "muon") & (table.model_size == "b")).any()
    one = sound(estimate(from_table(nano(seeds=1, sizes=("a",)))))
    assert not (one.table == "decline").any() and not (one.table == "noise").any()
    assert one[one.table == "gap"].note.eq("noise unknown").all()
    given = estimate(from_table(nano(seeds=1)), noise=noise.assumed(2e-3), cards=False)
    assert given[(given.table == "noise") & (given.quantity == "total")].value.item() == 2e-3


@pytest.mark.slow
def test_the_same_numbers_twice():
    a, b = (estimate(from_table(nano())).to_csv(index=False) for _ in range(2))
    assert a == b
