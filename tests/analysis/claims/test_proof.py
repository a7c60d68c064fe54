"""False alarms and power of the checker; the full count is `python -m analysis.claims.proof`."""

import pytest
from scipy import stats

from analysis.claims import proof

CLAIMS = 200
HONEST = [name for name in proof.SCENARIOS if not name.startswith("uncorrected")]


@pytest.mark.parametrize("name", HONEST)
def test_false_better_is_rare_and_real_gains_are_found(name):
    claims = 80 if "at a step" in name else CLAIMS  # whole curves take longer
    row = proof.prove(claims, [name]).iloc[0]
    wrong = round(row.false_better * claims)
    assert stats.binom.sf(wrong - 1, claims, 0.05) > 1e-4  # at most 5 %
    assert row.power > (0.03 if "sd 3 to 1" in name else 0.2)


def test_what_peeking_does_uncorrected():
    row = proof.prove(CLAIMS, ["uncorrected: 20 looks, none declared"]).iloc[0]
    assert stats.binom.cdf(round(row.false_better * CLAIMS), CLAIMS, 0.05) > 0.9


def test_seeds_needed_give_the_power_they_state():
    found = proof.prove_seeds(CLAIMS)
    for row in found.itertuples():
        assert stats.binom.cdf(round(row.power * CLAIMS), CLAIMS, 0.75) > 1e-3
    assert found.seeds.is_monotonic_decreasing


def test_command_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(proof, "SCENARIOS", {"5 and 5 seeds": proof.SCENARIOS["5 and 5 seeds"]})
    monkeypatch.setattr(proof.prove, "__defaults__", (("5 and 5 seeds",), 0))
    assert proof.main(["--claims=4", f"--out={tmp_path / 'proof.csv'}"]) == 0
    assert "false_better" in capsys.readouterr().out and (tmp_path / "proof.csv").exists()
