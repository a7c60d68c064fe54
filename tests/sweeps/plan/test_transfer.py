"""Winners of the base size go to the other sizes by each rule, on fresh seeds, and come back."""

import pytest

from configs import study as studies
from lm.config import ConfigError
from sweeps.plan import config as study_config
from sweeps.plan import transfer
from sweeps.plan.phases import plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome, Trial, freeze


@pytest.fixture(scope="module")
def race():
    return Study(studies.get_config("transfer-smoke").to_dict())


def loss(trial):
    """Each size has a best learning rate of its own."""
    rate = dict(trial.point)["learning_rate"]
    return 3.0 + abs(rate - (0.03 if trial.cell.size == "nano-xs" else 0.06))


def test_the_bases_winners_are_carried_by_every_rule(race):
    results = {}
    while pending := plan(race, results).pending:
        results |= {trial: Outcome("finished", loss(trial)) for trial in pending}
    state = plan(race, results)
    assert state.finished and set(state.settled) == set(race.cells)
    for name, rules in race.config["transfer"]["rules"].items():
        base = dict(state.settled[Cell(name, "nano-xs", 0.125)].best)
        carried = {
            (dict(trial.point).get(transfer.NAME), trial.seed)
            for trial in results
            if trial.cell == Cell(name, "nano-s", 0.125)
            and {**dict(trial.point), transfer.NAME: ""} == {**base, transfer.NAME: ""}
        }
        fresh = {(rule, seed) for rule in (None, *rules) for seed in (1, 2)}
        assert fresh <= carried <= fresh | {(None, 0)}  # the search itself may have been there
        with_rule = [t for t in results if transfer.NAME in dict(t.point)]
        assert {t.cell.size for t in with_rule} == {"nano-s"}


def test_a_carried_run_is_a_run_with_a_parametrization(race):
    cell, hashes = Cell("muon", "nano-s", 0.125), set()
    for rule in (None, "mup", "mup,p=0", "hyperp"):
        point = {**race.start(cell), **({transfer.NAME: rule} if rule else {})}
        trial = Trial(cell, freeze(point), 1)
        run = race.run(trial)
        assert race.trial(run) == trial
        assert run.get("parametrization", {}).get("rule") == (rule and rule.partition(",")[0])
        hashes.add(race.hash(trial))
    assert len(hashes) == 4
    assert run["parametrization"]["base"]["hidden"] == 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base": "nano-xl", "rules": {}}, "unknown size in transfer.base 'nano-xl'"),
        ({"base": "nano-xs", "rules": {"muno": []}}, "did you mean 'muon'"),
        ({"base": "nano-xs", "rules": {"muon": ["mup,p=x"]}}, "is not NAME or NAME,p=NUMBER"),
        ({"base": "nano-xs"}, "needs base and rules only"),
    ],
)
def test_errors_name_what_is_wrong(given, message):
    full = studies.get_config("transfer-smoke").to_dict()
    with pytest.raises(ConfigError, match=message):
        study_config.complete({**full, "transfer": given})
