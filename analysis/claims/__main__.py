"""Is A better than B? A verdict on two sets of runs, for people and for gates in CI.

    python -m analysis.claims A.csv B.csv                        columns: loss, and seed or run
    python -m analysis.claims runs/a runs/b --looks=any          two results folders
    python -m analysis.claims all.csv --arm=rule --a=muon --b=adamw --variants=12
    python -m analysis.claims A.csv B.csv --target=3.28          who reaches a loss first
    python -m analysis.claims track3:36 track3:12 --rule=track3  another board's rule beside ours
    python -m analysis.claims all.csv --arm=rule --a=muonh --b=muonc --sizes=size --sigma=0.002
    python -m analysis.claims --check=track3                     recompute claims as stated

Exit code: 0 better, 1 worse, 2 usage error, 3 cannot be told. With --check: 0 all reproduce, 1 not.
"""

import dataclasses
import json
import math
import sys

import pandas as pd

from analysis.claims import gates, judge, options, output, rules, tables, target
from analysis.claims.judge import Question, Verdict
from analysis.claims.tables import Arm, ClaimError
from analysis.published import track3
from analysis.stats.noise import UNKNOWN


def main(argv=None) -> int:
    given = options.parser(__doc__).parse_args(argv)
    try:
        if given.check:
            return _check(given)
        verdict, ask, names = _answer(given)
    except ClaimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    code = judge.EXIT[verdict.answer]
    if given.json:
        print(output.as_json(verdict, ask, names, code))
    else:
        print(output.as_text(verdict, ask, names))
    return code


def _answer(given) -> tuple[Verdict, Question, list[str]]:
    board = rules.RULES.get(given.rule)
    arms = _arms(given)
    rate = options.rate(given.exchange) if given.exchange else board.rate if board else None
    known = given.sigma or (board.noise if board else UNKNOWN)
    ask = Question(
        given.level, given.looks, given.variants, given.margin, given.pair, known, rate,
        options.steps(given.step), given.axis,
    )  # fmt: skip
    if given.sizes:
        project = gates.size_of(given.project) if given.project else None
        return (
            gates.judge_gates(_by_size(given), ask, project),
            ask,
            [given.a or "A", given.b or "B"],
        )
    names = [arm.name for arm in arms]
    goal = given.target if given.target is not None or len(arms) > 1 else board and board.target
    if len(arms) == 1 and goal is None:
        raise ClaimError("one arm alone needs --target, or --arm=COLUMN to split its table")
    if board and len(arms) == 2 and ask.steps is None:
        ask = dataclasses.replace(ask, steps=_board_steps(board, arms))
    if goal is None:
        verdict = judge.judge(*arms, ask)
    elif len(arms) == 1:
        verdict = target.judge_target(arms[0], goal, ask, given.by)
    else:
        verdict = target.judge_race(*arms, goal, ask)
    if board:
        _board(verdict, board, arms, ask)
    return verdict, ask, names


def _arms(given) -> list[Arm]:
    if not given.a_source:
        raise ClaimError("nothing to judge: name a table, a folder, or --check (see --help)")
    if given.arm:
        if given.b_source:
            raise ClaimError("--arm splits one table: give no second one")
        if not (given.a and given.b):
            raise ClaimError("--arm needs --a and --b, the two names in that column")
    elif given.a or given.b:
        raise ClaimError("--a and --b name values of a column: say which with --arm")
    if given.sizes and not given.arm and not given.b_source:
        raise ClaimError("--sizes needs two arms")
    if given.sizes:
        return []
    return [tables.arm(name, table) for name, table in _halves(given)]


def _halves(given) -> list[tuple[str, pd.DataFrame]]:
    """The rows of A and of B, by name."""
    only = dict(options.only(text) for text in given.only)
    sources = [source for source in (given.a_source, given.b_source) if source]
    read = [tables.select(s, tables.read(s, loss=given.loss), only) for s in sources]
    if not given.arm:
        return list(zip(sources, read, strict=True))
    names = (given.a, given.b)
    return [(n, tables.select(sources[0], read[0], {given.arm: n})) for n in names]


def _by_size(given) -> dict[str, tuple[Arm, Arm]]:
    halves = _halves(given)
    for name, table in halves:
        if given.sizes not in table:
            hint = tables.nearest(given.sizes, table.columns)
            raise ClaimError(f"{name}: no column {given.sizes!r}{hint}")
    sizes = [set(table[given.sizes].map(tables.plain)) for _, table in halves]
    return {
        size: tuple(
            tables.arm(f"{name} {size}", tables.select(name, table, {given.sizes: size}))
            for name, table in halves
        )
        for size in sorted(set.intersection(*sizes))
    }


def _board_steps(board, arms):
    steps = [board.stopping_step(arm) for arm in arms]
    for arm, step in zip(arms, steps, strict=True):
        if step is None:
            raise ClaimError(
                f"{arm.name}: passes the board's rule at no step; name one with --step"
            )
    return tuple(steps)


def _board(verdict, board, arms, ask):
    """The board's own numbers, named as such."""
    n = [len(arm.last) for arm in arms]
    if len(arms) == 1:
        step = board.stopping_step(arms[0])
        note = f"the earliest look with (target - mean) sqrt(n) >= {board.threshold:g}"
        verdict.add("board_step", math.nan if step is None else step, note=note)
        said = "no step passes" if step is None else f"passes at {step:g}"
        verdict.notes.append(f"the board: {said}")
        return
    steps = ask.steps if isinstance(ask.steps, tuple) else _board_steps(board, arms)
    means = [pd.Series(arm.losses(step)).mean() for arm, step in zip(arms, steps, strict=True)]
    new, old = ((mean, count, step) for mean, count, step in zip(means, n, steps, strict=True))
    value = board.beats(old, new)
    said = "better" if board.passes(value) else "not shown to be better"
    verdict.add("board_value", value, note=f"the board asks for {board.threshold:g} or more")
    p = board.p_value(board.threshold)
    where = f"the board, at steps {steps[0]:g} and {steps[1]:g}"
    strict = dataclasses.replace(ask, steps=steps, level=1 - 2 * p)
    ours = judge.judge(*arms, strict).answer
    verdict.notes.append(f"{where}: {said} (p = {board.p_value(value):.2g})")
    verdict.notes.append(f"ours at the board's strictness (p < {p:.1g}): {ours}")


def _check(given) -> int:
    shipped = given.check == "track3"
    table = track3.claim_examples() if shipped else tables.statements(given.check)
    found = rules.check_statements(table, rules.RULES[given.rule or "track3"])
    wrong = found[found.status == "wrong"]
    if given.json:
        print(json.dumps(json.loads(found.to_json(orient="records")), indent=1))
    else:
        print(found.to_string(index=False, float_format="{:.4g}".format))
        print(
            f"{len(found) - len(wrong)} of {len(found)} reproduce"
            + "".join(f"; wrong: {r.id}" for r in wrong.itertuples())
        )
    return 1 if len(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
