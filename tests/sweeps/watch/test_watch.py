"""Watching a study: what its store says, what is still to come, the page and the plain lines."""

import io
import json

import fake_trainer
import pytest
import tiny_race
from rich.console import Console
from rich.live import Live

from lm.storage import open_store, write_json
from sweeps import status
from sweeps.dispatch.accidents import Accidents
from sweeps.dispatch.executor import Report
from sweeps.dispatch.ledger import Ledger, certify
from sweeps.dispatch.right import Right
from sweeps.plan import config as study_config
from sweeps.plan.forecast import forecast
from sweeps.plan.phases import plan
from sweeps.plan.study import Study
from sweeps.plan.trial import Cell, Outcome
from sweeps.watch import expected, look, page, words
from sweeps.watch.look import Watcher

FIRST = Cell("adamw", "nano-xs", 1)


@pytest.fixture
def race(tmp_path):
    study = Study(study_config.complete(tiny_race.get_config("three")))
    write_json(tmp_path / "study.json", study.config)
    return study


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def train(ledger, workdir, trials):
    """What a worker leaves of trials that it has trained."""
    for trial in trials:
        path = workdir / "trials" / ledger.study.hash(trial)
        fake_trainer.write(path, ledger.study.run(trial))
    ledger.take(trials)
    ledger.put()


def test_a_study_from_its_first_trial_to_its_last_certificate(race, store, tmp_path):
    watcher, ledger, certified = Watcher(str(tmp_path)), Ledger(store, race).open(), {}
    assert words.total(watcher.look()).startswith("0 of about ")
    while (state := plan(race, ledger.outcomes)).pending:
        train(ledger, tmp_path, state.pending)
        certify(race, state, store, certified, {})
        assert watcher.look().outcomes == ledger.outcomes
    certify(race, state, store, certified, {})
    seen = watcher.look()
    assert {row.state for row in seen.cells.values()} == {"certified"} and not seen.coming
    assert words.total(seen) == f"{len(seen.outcomes)} trials, 6 of 6 cells certified"
    for cell, row in seen.cells.items():  # the certificate's choice, no other run's luck
        assert row.best == store.read_json(f"certificates/{cell}.json")["best_loss"]
    store.write_json(f"certificates/{FIRST}.json", {"complete": False})
    for again in (watcher.look(), Watcher(str(tmp_path)).look()):
        assert again.cells[FIRST].state == "certified, not complete"
        assert again.outcomes == seen.outcomes


def test_who_works_and_what_failed(race, store, tmp_path, monkeypatch):
    first, second, third, fourth, *_ = plan(race, {}).pending
    accidents = Accidents(store, race)
    for _ in range(2):
        accidents.lost([first], Report("failed", "it broke", "node7"))
    accidents.lost([second], Report("killed", "out of memory", "node7"))
    names = [race.hash(third), race.hash(fourth)]
    steps = race.steps(third.cell, 8)
    lines = [{"step": 10, "seconds": 1.0}, {"step": 20, "seconds": 2.0}]
    curve = "\n".join(map(json.dumps, lines)) + '\n{"step": 3'
    for name in names:
        store.write(f"trials/{name}/curve.jsonl", curve.encode())
    right = Right(store, {"node": "node8", "slots": 1}, stop=pytest.fail)
    right.renew()
    watcher, clock = Watcher(str(tmp_path)), [0.0]
    monkeypatch.setattr(look.time, "monotonic", lambda: clock[0])
    assert watcher.look().idle == 1
    right.claim(names)
    right.renew()
    seen = watcher.look()
    (worker,) = seen.working
    assert (worker.step, worker.steps, worker.silent) == (20, steps, 0.0)
    assert worker.seconds_left == pytest.approx(2 * 0.1 * (steps - 20))
    assert worker.tokens_per_second == pytest.approx(10 * 8 * 128)
    assert words.failed(seen) == [
        f"failed {first.cell} {race.hash(first)}: failed: it broke (2 attempts)",
        f"to be tried again {second.cell} {race.hash(second)}: killed: out of memory (1 attempt)",
    ]
    row = seen.cells[first.cell]
    assert (row.counts["running"], row.state) == (2, "held up: failed: it broke")
    assert first not in seen.coming and second in seen.coming
    clock[0] = 100.0
    (line,) = words.working(watcher.look())
    assert line.startswith("node8, process ") and line.endswith("last sign of life 1m40s ago")
    right.release(names)
    store.delete(f"workers/{right.token}")
    assert not watcher.look().working


def test_what_is_still_to_come_at_measured_speeds(race):
    done, found = {}, expected.Expected(race)
    coming = found.look(done)
    assert set(coming) == set(forecast(race, {})) and found.device_seconds(coming, done) is None
    for trial in coming[:10]:
        rate = 2e9 if trial.cell.optimizer == "adamw" else 1e9
        done[trial] = Outcome("finished", 3.0, seconds=race.flops(trial) / rate)
    assert any(trial.cell.optimizer == "adamw" for trial in done)
    rest = found.look(done)
    assert not set(rest) & set(done)
    rates = expected.rates_of(race, done)
    need = sum(
        race.flops(t) / rates.get(("nano-xs", t.cell.optimizer), rates["nano-xs", None])
        for t in rest
    )
    left = found.device_seconds(rest, done)
    assert left == pytest.approx(need)
    assert found.seconds(left, done, []) is None
    assert found.seconds(left, done, [(None, 2)]) == pytest.approx(need / 2)  # not known yet
    half = rates[None, None] / 2  # as fast as training, and half of the time something else
    assert found.seconds(left, done, [(half, 1)] * 3) == pytest.approx(need / 1.5)


def test_the_page_fits_its_terminal_and_lines_go_where_there_is_none(race, store, tmp_path, capsys):
    train(Ledger(store, race).open(), tmp_path, plan(race, {}).pending)
    address = str(tmp_path)
    seen = Watcher(address).look()
    for height in (12, 30):
        shown = page.lines(seen, 70, height, notes=["the last note"])
        assert len(shown) < height and max(map(len, shown)) <= 70
    assert shown[0].startswith("tiny: ") and any(line.startswith("adamw") for line in shown)
    assert shown[-1] == "the last note"
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=70, height=20)
    with Live(console=console, auto_refresh=False) as live:
        page.show(live, seen)
    assert shown[0][:60] in out.getvalue()

    with page.shown(address, every=0.01) as log:
        log("a line of the driver")
    assert status.main([address]) == 0
    said = capsys.readouterr().out
    assert "a line of the driver" in said
    assert said.count("of about") == 2  # one as results came in, one from the command
    assert status.main([str(tmp_path / "nowhere"), "--watch"]) == 2
    assert "holds no study" in capsys.readouterr().err
