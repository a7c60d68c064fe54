"""The command `python -m analysis.claims`: verdicts, exit codes, and one line for every mistake."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from analysis.claims.__main__ import main
from analysis.published import track3


@pytest.fixture
def table(tmp_path):
    """Writes a CSV of arms, name -> (mean, number of runs), with noise that follows the seed."""

    def write(name, steps=(100,), slope=0.0, **arms):
        seeds = np.random.default_rng(7).normal(0, 1e-3, 64)
        rng = np.random.default_rng([*name.encode()])
        rows = [
            {"rule": arm, "seed": seed, "step": step, "tokens": 512 * step,
             "loss": mean + seeds[seed] + rng.normal(0, 2e-4) - slope * (step - steps[-1])}
            for arm, (mean, runs) in arms.items() for seed in range(runs) for step in steps
        ]  # fmt: skip
        path = tmp_path / name
        pd.DataFrame(rows).to_csv(path, index=False)
        return str(path)

    return write


def said(capsys, *words):
    code = main([*words, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == code
    return code, answer, {row["quantity"]: row for row in answer["numbers"]}


def test_better_worse_and_cannot_be_told(table, capsys):
    a, b = table("a.csv", a=(3.20, 6)), table("b.csv", b=(3.21, 6))
    code, answer, numbers = said(capsys, a, b)
    assert (code, answer["verdict"]) == (0, "better")
    row = numbers["advantage_loss"]
    assert row["low"] < 0.01 < row["high"] and "paired on 6" in answer["notes"][0]
    assert said(capsys, b, a)[1]["verdict"] == "worse"
    c = table("c.csv", c=(3.20, 6))
    assert said(capsys, a, c, "--no-pair")[0] == 3
    assert said(capsys, a, b, "--margin=0.02")[0] == 1
    assert said(capsys, b, a, "--margin=-0.02")[0] == 0  # not worse by more than that
    assert main([a, b]) == 0 and capsys.readouterr().out.startswith("better: ")


def test_strictness_widens_the_interval(table, capsys):
    a, b = table("a.csv", a=(3.20, 8)), table("b.csv", b=(3.21, 8))
    widths = []
    for more in ([], ["--variants=10"], ["--looks=5"], ["--looks=any"], ["--level=0.99"]):
        row = said(capsys, a, b, "--no-pair", *more)[2]["advantage_loss"]
        widths.append(row["high"] - row["low"])
    assert min(widths[1:]) > widths[0]


def test_one_table_with_two_arms_and_budgets(table, capsys):
    both = table("both.csv", steps=(60, 80, 90, 100), slope=1e-4, new=(3.20, 6), old=(3.21, 6))
    words = [both, "--arm=rule", "--a=new", "--b=old"]
    code, _, numbers = said(capsys, *words, "--exchange=0.01/100")
    assert code == 0 and numbers["saved_step"]["value"] == pytest.approx(100, rel=0.1)
    assert numbers["saved_tokens"]["value"] == pytest.approx(51200, rel=0.1)
    assert numbers["speedup_step"]["value"] == pytest.approx(2, rel=0.1)
    _, answer, numbers = said(capsys, *words)  # the rate is read off the curves
    assert numbers["exchange_rate"]["value"] == pytest.approx(0.01, rel=0.2)
    assert any("--exchange" in note for note in answer["notes"])
    # at unequal steps a given rate decides; without one, only better with no more budget does
    assert said(capsys, *words, "--step=80,100", "--exchange=0.01/100")[0] == 0
    assert said(capsys, *words, "--step=80,100")[0] == 0
    assert said(capsys, *words, "--step=100,80")[0] == 3
    assert said(capsys, *words, "--step=chosen")[0] == 0


def test_exchange_rate_from_runs_of_two_lengths(table, tmp_path, capsys):
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("step,loss\n100,3.20\n100,3.201\n80,3.22\n80,3.221\n")
    a, b = table("a.csv", a=(3.20, 6)), table("b.csv", b=(3.21, 6))
    _, _, numbers = said(capsys, a, b, f"--exchange={lengths}")
    assert numbers["exchange_rate"]["value"] == pytest.approx(0.1)
    assert numbers["saved_step"]["value"] == pytest.approx(10, rel=0.1)


def test_time_to_target(table, capsys):
    steps = tuple(range(10, 101, 5))
    fast = table("a.csv", steps=steps, slope=1e-3, a=(3.20, 8))
    slow = table("b.csv", steps=steps, slope=1e-3, b=(3.22, 8))
    code, _, numbers = said(capsys, fast, slow, "--target=3.23")
    assert code == 0 and numbers["advantage_steps"]["value"] == pytest.approx(20, rel=0.1)
    assert numbers["advantage_steps"]["low"] < 20 < numbers["advantage_steps"]["high"]
    for by, expected in ((90, 0), (40, 1), (70, 3)):
        assert said(capsys, fast, "--target=3.23", f"--by={by}")[0] == expected
    assert said(capsys, fast, "--target=3.23")[0] == 0
    assert said(capsys, fast, "--target=3.0")[0] == 1
    assert said(capsys, fast, slow, "--target=3.21")[0] == 0  # only one of them gets there


def test_gates_over_sizes(tmp_path, capsys):
    rows = [
        (rule, size, seed, 3 - 0.1 * i - (0.004 * i if rule == "new" else 0) + 1e-4 * (seed % 2))
        for i, size in enumerate(("130m", "300m", "520m", "1.2b"))
        for rule in ("new", "old") for seed in range(4)
    ]  # fmt: skip
    path = tmp_path / "ladder.csv"
    pd.DataFrame(rows, columns=["rule", "size", "seed", "loss"]).to_csv(path, index=False)
    words = [str(path), "--arm=rule", "--a=new", "--b=old", "--sizes=size", "--no-pair"]
    code, _, numbers = said(capsys, *words)
    assert code == 3 and numbers["gate_4_sizes"]["note"].startswith("cannot be told")
    assert numbers["advantage_1.2b"]["note"] == "better"
    _, _, numbers = said(capsys, *words, "--project=10b")
    projected = numbers["gate_projection_1e+10"]
    assert projected["low"] < projected["value"] < projected["high"]
    assert numbers["slope_per_doubling"]["value"] > 0
    swapped = [w.replace("--a=new", "--a=old").replace("--b=old", "--b=new") for w in words]
    assert said(capsys, *swapped)[0] == 1


def test_results_folders(tmp_path, capsys):
    synthetic_study.write(tmp_path, optimizers=("muon", "adamw"), ratios=(4,), seeds=6)
    words = [str(tmp_path), "--arm=optimizer", "--a=muon", "--b=adamw"]
    code, answer, numbers = said(capsys, *words, "--only=model_size=tiny")
    truth = synthetic_study.law("tiny", 4, 1.0) - synthetic_study.law("tiny", 4, 1.4)
    assert code == 0 and "5 common seeds" in answer["notes"][0]  # the chosen run itself is left out
    row = numbers["advantage_loss"]
    assert row["low"] < truth < row["high"]
    assert {"speedup_step", "speedup_tokens", "speedup_flops"} <= set(numbers)
    assert main(words) == 2 and "model_size is small, tiny" in capsys.readouterr().err
    code, _, numbers = said(capsys, *words, "--sizes=non_embedding_params")
    assert code == 0 and {"advantage_100000", "gate_2_sizes"} <= set(numbers)
    (tmp_path / "certificates").rename(tmp_path / "gone")
    assert main([*words, "--only=model_size=tiny"]) == 2
    assert "differ in" in capsys.readouterr().err


def test_track3_rule_beside_ours(capsys):
    code, answer, numbers = said(capsys, "track3:41", "track3:40", "--rule=track3")
    assert code == 0 and "paired on 16" in answer["notes"][0]
    assert any("the board" in note and "not shown" in note for note in answer["notes"])
    board = track3.results().set_index("result_number")
    old, new = board.loc[40], board.loc[41]
    value = old.logs_mean - new.logs_mean + (old.steps - new.steps) * 4.5e-5
    value /= (1 / old.logs_n + 1 / new.logs_n) ** 0.5
    assert numbers["board_value"]["value"] == pytest.approx(value, abs=1e-5)
    code, _, numbers = said(capsys, "track3:36", "--rule=track3")
    assert code == 0 and numbers["board_step"]["value"] == 3250
    assert main(["track3:1", "track3:36", "--rule=track3"]) == 2
    assert "passes the board's rule at no step" in capsys.readouterr().err


def test_the_wrong_worked_example_is_found(capsys, tmp_path):
    assert main(["--check=track3"]) == 1
    out = capsys.readouterr().out
    assert "19 of 20 reproduce; wrong: P3" in out and "from 14 to 16 in place of 10" in out
    right = track3.claim_examples().query("id != 'P3'")
    right.to_csv(tmp_path / "claims.csv", index=False)
    assert main([f"--check={tmp_path / 'claims.csv'}", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(right)


GOOD = "seed,loss\n0,3.1\n1,3.2\n"
MISTAKES = {  # content of b.csv, further words -> what the line says
    "": ([], "the file is empty"),
    "loss\n": ([], "a header (loss) and no rows"),
    "x,y\n1,2\n": ([], "no column of losses"),
    "loss\n3.1\nfoo\n": ([], "line 3: loss is 'foo', not a number"),
    "loss\n3.1\nnan\n": ([], "line 3: loss is 'nan'"),
    "loss\n3.1\n\ninf\n": ([], "loss is 'inf'"),
    "step,loss\n1,3\n2,2\n1,3\n": ([], "a column `run` or `seed`"),
    "seed,step,loss\n0,1,3\n0,1,2\n": ([], "run 0 has two losses at step 1"),
    "seed,step,loss\n0,1,3\n1,2,2\n": ([], "runs end at steps 1, 2; name one with --step"),
    "size,loss\n130m,3\n300m,2\n": ([], "one setting per arm (--only=size=130m)"),
    GOOD: (["--loss=los"], "no column 'los'; did you mean 'loss'?"),
    GOOD + " ": (["--step=4"], "no column `step`"),
    GOOD + "2,3\n": (["--step=chosen"], "no column `step`"),
    GOOD + "3,3\n": (["--target=3"], "no column `step`"),
    GOOD + "4,3\n": (["--exchange=x"], "x: No such file"),
    GOOD + "5,3\n": (["--exchange=-1/100"], "expected NATS/STEPS"),
    GOOD + "6,3\n": (["--only=seed"], "expected COLUMN=VALUE"),
    GOOD + "7,3\n": (["--only=seed=9"], "seed is nowhere '9'"),
    GOOD + "8,3\n": (["--arm=seed"], "--arm splits one table"),
    GOOD + "9,3\n": (["--a=x"], "say which with --arm"),
    GOOD + "0.5,3\n": (["--sizes=siz"], "no column 'siz'"),
    "size,loss\nbig,3\nsmall,2\n": (["--sizes=size"], "no column 'size'"),
}


@pytest.mark.parametrize("content", MISTAKES)
def test_every_mistake_is_one_line(content, tmp_path, capsys):
    words, expected = MISTAKES[content]
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    a.write_text(GOOD)
    b.write_text(content)
    assert main([str(a), str(b), *words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert expected in printed.err and not printed.out


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "nothing to judge"),
        (["nowhere.csv"], "No such file or directory"),
        (["track3:99"], "results 1 to 46"),
        (["track3:36"], "one arm alone"),
        (["track3:36", "--arm=seed"], "--a and --b"),
        (["--check=nowhere.csv"], "No such file or directory"),
    ],
)
def test_mistakes_without_a_table(words, expected, capsys):
    assert main(words) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    "word", ["--looks=0", "--variants=x", "--level=2", "--sigma=-1", "--aim=1"]
)
def test_options_say_what_they_expect(word, capsys):
    with pytest.raises(SystemExit) as end:
        main(["a.csv", "b.csv", word])
    assert end.value.code == 2 and word.partition("=")[0] in capsys.readouterr().err


def test_help_has_examples_and_codes(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "examples:" in out and "3 cannot be told" in out
