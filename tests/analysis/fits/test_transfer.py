"""analysis/fits/transfer.py on races whose answers are known."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from analysis import transfer as command
from analysis.fits.transfer import transfer
from analysis.runs.study import certificates, from_table

WIDTHS = {"small": 16, "large": 64}
LOST = {"adamw": {"constant": 0.08, "mup": 0.0}, "muon": {"constant": 0.03, "mup": 0.01}}
LEAD, NOISE = {"small": 0.10, "large": 0.04}, 2e-3
POWER = 1.0  # of the best decay's fall with the width, at one learning rate for both sizes


def race(rng):
    """Two optimizers tuned at both sizes, carried from the small one; four seeds."""
    rows, certified = [], []
    seeds = rng.normal(0, 10 * NOISE, 4)  # what a seed does to all runs alike

    def run(optimizer, size, seed, loss, decay, rule=None):
        doublings = math.log2(WIDTHS[size] / 16)
        drawn = loss - 0.5 * doublings - (optimizer == "muon") * LEAD[size]
        row = {"optimizer": optimizer, "model_size": size, "chinchilla_ratio": 1.0, "seed": seed}
        row |= {"loss": 4 + drawn + seeds[seed] + rng.normal(0, NOISE), "status": "finished"}
        row |= {"hp_learning_rate": 0.01, "hp_weight_decay": decay, "hp_parametrization": rule}
        row |= {"non_embedding_params": 1000 * WIDTHS[size] ** 2, "hash": f"{len(rows):04d}"}
        rows.append(row)
        return row["hash"]

    for optimizer, lost in LOST.items():
        for size, width in WIDTHS.items():
            best = 0.4 * (width / 16) ** -POWER
            grid = best * 2.0 ** np.arange(-2, 3)
            centre = [run(optimizer, size, 0, 0.02 * math.log2(d / best) ** 2, d) for d in grid][2]
            again = [{"hash": run(optimizer, size, seed, 0.0, best)} for seed in (1, 2, 3)]
            for rule, loss in lost.items() if size == "large" else ():
                for seed in (1, 2, 3):
                    named = None if rule == "constant" else rule
                    run(optimizer, size, seed, loss, 0.4, named)
            place = {"optimizer": optimizer, "model_size": size, "chinchilla_ratio": 1.0}
            named = {"centre_hash": centre, "best_hash": centre, "repeats": again, "phase": "I"}
            certified.append({**place, **named, "complete": True})
    sizes = {name: {"hidden": width} for name, width in WIDTHS.items()}
    settings = {"transfer": {"base": "small", "rules": {o: ["mup"] for o in LOST}}, "sizes": sizes}
    study = from_table(pd.DataFrame(rows))
    return dataclasses.replace(study, certificates=certificates(certified), settings=settings)


def test_intervals_hold_the_truth():
    """Every number of eight races: nine in ten hold at the least of what should be 95 %."""
    held = []
    for seed in range(8):
        table = transfer(race(np.random.default_rng(seed)))
        truth = {("regret", o, r): v for o, lost in LOST.items() for r, v in lost.items()}
        truth[("lead", "muon", "tuned")] = LEAD["large"]
        truth |= {("exponent", o, "tuned"): POWER for o in LOST}
        for (quantity, optimizer, rule), value in truth.items():
            (row,) = table[
                (table.quantity == quantity)
                & (table.optimizer == optimizer)
                & (table.rule == rule)
                & (table.model_size == "large")
            ].itertuples()
            held.append(row.low <= value <= row.high)
            if quantity != "exponent":
                assert row.high - row.low < 0.03
    assert np.mean(held) > 0.9


def test_regret_in_tokens_and_leads_of_each_kind():
    table = transfer(race(np.random.default_rng(0)))
    rows = table.set_index(["quantity", "optimizer", "rule", "model_size"]).estimate
    # The size above has 16 times the parameters for 1 nat: 0.25 nats a doubling.
    assert rows["tokens", "adamw", "constant", "large"] == pytest.approx(2**0.32, rel=0.03)
    leads = {rule: rows["lead", "muon", rule, "large"] for rule in ("tuned", "constant", "mup")}
    expected = {"tuned": 0.04, "constant": 0.09, "mup": 0.03}
    assert leads == pytest.approx(expected, abs=0.01)
    assert rows["lead", "muon", "tuned", "small"] == pytest.approx(0.10, abs=0.01)
    assert "p of learning rate x decay" in command.terminal(table)
    picture = command.draw(table, "regret", WIDTHS).svg()
    assert picture.count("<svg") == 3 and ">mup</text>" in picture


def test_a_rule_whose_runs_diverged_has_no_number():
    study = race(np.random.default_rng(0))
    runs = study.runs.copy()
    runs.loc[runs.hp_parametrization == "mup", ["status", "loss"]] = ["diverged", np.nan]
    table = transfer(dataclasses.replace(study, runs=runs))
    lost = table[(table.quantity == "regret") & (table.rule == "mup")]
    assert len(lost) == 2 and lost.estimate.isna().all() and lost.note.str.contains("finish").all()


def test_a_study_that_carries_nothing_is_one_line():
    study = dataclasses.replace(race(np.random.default_rng(0)), settings={})
    with pytest.raises(ValueError, match="no `transfer` section"):
        transfer(study)
