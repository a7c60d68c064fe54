"""The benchmarks run at toy size, so that they are there when a quiet machine or a GPU is."""

import subprocess
import sys

import pytest

TOYS = {
    "step": "--sizes nano-xs --optimizers muon --batch 8 --microbatch 4 --seconds 0.2 --rounds 1",
    "packing": "--sizes nano-xs --trials 1 --rounds 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_a_toy_run_prints_its_table(name):
    words = [sys.executable, "-m", f"benchmarks.{name}", *TOYS[name].split()]
    out = subprocess.run(words, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "nano-xs" in out.stdout and any(c.isdigit() for c in out.stdout.split("nano-xs")[1])


@pytest.mark.slow
def test_twenty_simulated_workers_train_each_trial_once_and_ask_the_store_little():
    words = [sys.executable, "-m", "benchmarks.workers", "--trials=60", "--workers=20"]
    out = subprocess.run(words, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    numbers = dict(part.rsplit(" ", 1) for part in out.stdout.strip().split("  "))
    assert numbers["results put twice"] == "0" and float(numbers["trials"]) > 60
    # About 55; who waited asked for lost claims once for each trial it waited for, and it was 400.
    assert float(numbers["requests a trial"]) < 150
