"""Any table of runs becomes a study; its winner, repeats and noise are found once, and right."""

import numpy as np
import pandas as pd
import pytest

from analysis import published
from analysis.estimates.costs import costs
from analysis.estimates.losses import cell_losses
from analysis.runs import recorded, repeats
from analysis.runs.names import CELL, canonical
from analysis.runs.study import certificates, from_table
from analysis.runs.winners import winners
from analysis.stats import noise

SEED_SD, RESIDUAL_SD = 0.027, 0.007  # nats, as measured at the smallest size


def runs_of(rng, *, groups=30, seeds=3, sigma=2e-3, **columns):
    rows = [
        {"hp_learning_rate": 0.001 * (1 + g), "seed": s, "loss": 3 + sigma * rng.normal()}
        for g in range(groups)
        for s in range(seeds)
    ]
    base = {"optimizer": "muon", "model_size": "130m", "chinchilla_ratio": 1, **columns}
    return pd.DataFrame(rows).assign(**base)


def race(rng, *, carried=1.0, trials=12, fresh=(1, 2), gap=0.03, ratios=(1, 2, 4)):
    """Runs of AdamW and Muon whose seeds move both alike (`carried` of the seed's variance)."""
    rows = []
    for ratio in ratios:
        common = np.sqrt(carried) * SEED_SD * rng.standard_normal(3)
        for name in ("adamw", "muon"):
            own = np.sqrt(1 - carried) * SEED_SD * rng.standard_normal(3)
            mean = 2.6 - 0.1 * np.log2(ratio) - gap * (name == "muon")
            mean = mean + np.concatenate([[0], rng.exponential(0.02, trials - 1)])
            loss = mean + common[0] + own[0] + RESIDUAL_SD * rng.standard_normal(trials)
            rows += [(name, ratio, 0, i, loss[i]) for i in range(trials)]
            best = int(loss.argmin())
            for s in fresh:
                again = mean[best] + common[s] + own[s] + RESIDUAL_SD * rng.standard_normal()
                rows.append((name, ratio, s, best, again))
    columns = ["optimizer", "chinchilla_ratio", "seed", "hp_trial", "loss"]
    return pd.DataFrame(rows, columns=columns).assign(model_size="130m")


def measure(runs):
    study = from_table(runs)
    return repeats.measure(study, winners(study))


@pytest.mark.slow
def test_seeds_give_the_spread_with_an_interval_that_covers():
    covered, found = 0, []
    for seed in range(40):
        measured = measure(runs_of(np.random.default_rng(seed), groups=20))
        low, high = measured.total.interval()
        found.append(measured.total.sd)
        covered += low <= 2e-3 <= high
    assert np.mean(found) == pytest.approx(2e-3, rel=0.05)
    assert covered >= 34  # 38 expected, and three binomial standard deviations
    assert measured.source == "seeds" and "groups" in str(measured)


@pytest.mark.parametrize("carried", [1.0, 0.0])
@pytest.mark.slow
def test_how_far_seeds_carry_over_is_measured_from_the_winners(carried):
    found = [measure(race(np.random.default_rng(s), carried=carried)) for s in range(20)]
    total = np.sqrt(np.mean([level.total.sd**2 for level in found]))
    paired = np.sqrt(np.mean([level.paired.sd**2 for level in found]))
    assert total == pytest.approx(np.hypot(SEED_SD, RESIDUAL_SD), rel=0.2)
    if carried:
        # three races of two winners and two fresh seeds: three degrees of freedom say nothing
        assert all(level.carried == 0 for level in found)
        more = [measure(race(np.random.default_rng(s), ratios=range(1, 9))) for s in range(10)]
        paired = np.sqrt(np.mean([level.paired.sd**2 for level in more]))
        assert paired == pytest.approx(RESIDUAL_SD, rel=0.25)
        assert all(level.carried > 0.7 for level in more)
    else:
        assert paired > 0.8 * total


def test_recorded_null_changes():
    study = recorded.study()
    measured = repeats.measure(study, winners(study))
    assert measured.source == "null changes"
    assert measured.total.sd == pytest.approx(0.0011, abs=1e-4)
    low, high = measured.total.interval()
    assert low < 0.001 < high
    assert repeats.repeats(study).empty  # nothing was ever repeated


def test_what_is_not_a_null_change():
    rng = np.random.default_rng(0)
    runs = runs_of(rng, groups=1, seeds=1)
    pair = pd.concat([runs.assign(hp_epsilon=1e-25), runs.assign(hp_epsilon=1e-15, loss=3.001)])
    assert measure(pair).total.sd == pytest.approx(np.ptp(pair.loss) / 2**0.5)
    assert measure(pair.assign(hp_epsilon=[1e-25, 1e-6])) is None
    assert measure(pair.assign(optimizer="sophia")) is None
    assert measure(pair.assign(loss=3.0)) is None  # bit-identical: one run twice
    with pytest.raises(ValueError, match="sigma: must be positive"):
        noise.assumed(0.0)


def test_repeats_are_those_of_the_certified_winner():
    """The noise rule may certify another run than the luckiest; the lucky one's repeats are not
    the winner's."""
    setting = {"optimizer": "adamw", "model_size": "130m", "chinchilla_ratio": 1.0}
    rows = [(0.01, 0, 2.600), (0.01, 1, 2.600), (0.01, 2, 2.602)]  # the certified winner
    rows += [(0.02, 0, 2.590), (0.02, 1, 2.640), (0.02, 2, 2.640), (0.04, 0, 2.75)]
    runs = pd.DataFrame(rows, columns=["hp_learning_rate", "seed", "loss"]).assign(**setting)
    study = from_table(runs)
    hashes = study.runs["hash"].tolist()
    certificate = setting | {"best_hash": hashes[0], "best_loss": 2.6, "centre_hash": hashes[0]}
    certificate["repeats"] = [{"hash": name} for name in hashes[1:3]]
    certified = type(study)(study.name, study.runs, certificates([certificate]))
    found = winners(certified)
    assert found.loss.item() == 2.6 and found.rerun_loss.item() == pytest.approx(2.601)
    fair = cell_losses(certified, found, noise.assumed(1e-3)).iloc[0]
    assert fair.loss == pytest.approx(2.601) and fair.se == pytest.approx(1e-3 / 2**0.5)
    assert winners(study).loss.item() == 2.590  # without a certificate


def test_fresh_seeds_stand_alone_and_one_is_averaged_in():
    runs = runs_of(np.random.default_rng(0), groups=8, seeds=1, sigma=1e-3)
    runs.loc[2, "loss"] = 2.99  # a lucky winner ...
    for count, loss, se in ((3, 3.0, 1e-3 / 3**0.5), (1, None, None)):
        again = [runs.iloc[[2]].assign(seed=s, loss=3.0) for s in range(1, count + 1)]
        study = from_table(pd.concat([runs, *again]))
        one = cell_losses(study, winners(study), noise.assumed(1e-3)).iloc[0]
        assert (one.trials, one.repeats, one.best_loss) == (8, count, 2.99)
        if loss:  # ... found out
            assert one.loss == loss and one.se == pytest.approx(se)
        else:
            assert 2.99 < one.loss < 3.0 and one.se < 1e-3


@pytest.mark.slow
def test_winners_are_compared_on_their_common_fresh_seeds():
    claimed = []
    for seed in range(8):
        study = from_table(race(np.random.default_rng(seed), ratios=range(1, 9)))
        best = winners(study)
        cells = cell_losses(study, best, repeats.measure(study, best))
        fresh = repeats.fresh_seeds(study, best).groupby(CELL).loss.mean()
        np.testing.assert_allclose(cells.loss, fresh.reindex(cells.set_index(CELL).index))
        assert set(cells.seeds) == {"1 2"}
        claimed += list(np.sqrt(2) * cells.se)
    assert np.mean(claimed) == pytest.approx(RESIDUAL_SD, rel=0.2)  # sqrt(2) / sqrt(2 seeds)


@pytest.mark.parametrize(
    "spelling", ["soape", "SOAP", "soapb", "Adam-mini", "mini", "adam_mini", "PSGD-Kron", "Muon"]
)
def test_one_name_for_every_spelling(spelling):
    assert canonical(spelling) in published.OPTIMIZERS


def test_a_table_says_what_it_leaves_out():
    runs = runs_of(np.random.default_rng(0), groups=4, seeds=1).assign(status="finished")
    runs.loc[1, ["status", "loss"]] = ["diverged", np.nan]
    runs.loc[2, "loss"] = np.nan
    study = from_table(pd.concat([runs, runs.iloc[[0]]]).assign(optimizer="muonn"))
    assert len(study.finished) == 2
    assert [p[:2] for p in study.problems] == [
        ("unknown_optimizer", 5),
        ("duplicates", 1),
        ("diverged", 1),
        ("missing_loss", 1),
    ]
    assert "did you mean muon?" in study.problems[0].sentence
    with pytest.raises(ValueError, match="missing column loss"):
        from_table(runs.drop(columns="loss"))
    with pytest.raises(ValueError, match="chinchilla_ratio: must be positive, got -1"):
        from_table(runs.assign(chinchilla_ratio=-1))
    with pytest.raises(ValueError, match="'tiny' needs a non_embedding_params column"):
        from_table(runs.assign(model_size="tiny"))


def test_costs_are_relative_to_the_baseline():
    seconds = (("adamw", 1.0), ("adamw", 2.0), ("adamw", 4.0), ("lion", 1.0), ("muon", 3.0))
    rows = [
        {"optimizer": o, "model_size": "a", "tokens": 10.0, "flops": 10 + (o == "muon")}
        | {"seconds": s * k}
        for o, s in seconds
        for k in ((1.0,) if o == "lion" else (0.9, 1.0, 1.1))
    ]
    table = costs(pd.DataFrame(rows), baseline="adamw").set_index(["optimizer", "quantity"])
    muon, lion = table.loc["muon"], table.loc["lion"]
    assert muon.factor.flops == muon.low.flops == muon.high.flops == pytest.approx(1.1)
    assert muon.factor.seconds == pytest.approx(1.5) and 0 < muon.low.seconds < 0.75
    assert 3 < muon.high.seconds < np.inf
    assert lion.low.seconds == 0 and np.isposinf(lion.high.seconds)  # one run has no spread
