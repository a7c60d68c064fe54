"""The sections of a report that compare speed-ups: by procedure, by edition, with another study.

`show(name, caption, draw)` draws a figure and returns its HTML (see `report.Gallery`).
"""

import numpy as np
import pandas as pd

from analysis.estimates.editions import EDITIONS, edition
from analysis.estimates.findings import BASELINE, Findings
from analysis.estimates.races import largest_races
from analysis.pages import figures, page, style
from analysis.runs.reader import CELL


def speed(f: Findings, show) -> str:
    """AdamW's data law and the speed-ups by three procedures."""
    laws = {"model_size": "size", "ratios": "points", "alpha": "α", "exponent": "B", "floor": "β"}
    laws |= {"freedom": "degrees of freedom", "rms": "rms residual", "note": "note"}
    columns = {"model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer"}
    columns |= {"fair_loss": "fair loss", "gap": "below AdamW (nats)", "gap_error": "±"}
    columns |= {"verdict": "verdict", "published": "published formula", "robust": "own curve"}
    columns |= {"robust_interval": "95 %", "joint": "joint model", "joint_interval": "95 %"}
    columns |= {"remark": "remark"}
    table = f.speedups[f.speedups["optimizer"] != BASELINE]
    table = table.assign(
        optimizer=table["optimizer"].map(style.label),
        robust_interval=_ends(table, "robust"),
        joint_interval=_ends(table, "joint"),
        remark=table["robust_note"].where(table["robust_note"] != "", table["published_note"]),
    )
    decimals = {"fair_loss": 4, "gap": 4, "gap_error": 4, "published": 2, "robust": 2, "joint": 2}
    return (
        page.paragraph(
            "Speed-up is the data AdamW would need for the same loss, divided by the data used. The"
            " published formula (arXiv 2509.02046) fits AdamW's losses at one size by"
            " L(r) = α r^−B + β and solves the law for r at the other optimizer's loss:"
        )
        + page.table(f.law_table, laws)
        + page.paragraph(
            "Two robust procedures stand beside it. 'Own curve' uses the same AdamW runs,"
            " carries the noise of every run, and gives a lower bound instead of extrapolating."
            " The 'joint model' lets all optimizers share one curve per size, with log speed-up"
            " linear in log size and log budget. Both use fair losses: the best loss with the"
            " luck of being the best taken out, averaged with the winner's repeats. Step time is"
            " not in a speed-up; see Cost."
        )
        + show(
            "speedup_against_ratio",
            "Speed-up over AdamW in tokens against the budget. Lines and bands: joint model, 95 %."
            " Markers and bars: own curve, 95 %; an arrow is a lower bound. Dashes: published"
            " formula.",
            lambda: figures.speedup_against_ratio(f.speedups),
        )
        + show(
            "speedup_against_size",
            "The same speed-ups against model size.",
            lambda: figures.speedup_against_size(f.speedups),
        )
        + page.table(
            table,
            columns,
            formats={name: page.digits(count) for name, count in decimals.items()},
            group="chinchilla_ratio",
        )
        + page.paragraph(
            "Verdicts compare the fair losses of a cell with the noise of their difference (95 %),"
            " and with the scatter of cells about smooth curves where enough curves show it;"
            " 'not resolvable' says that this study cannot tell the two optimizers apart there.",
            "note",
        )
        + _faster(f)
        + _cards(f)
    )


def _ends(table, name) -> list[str]:
    """`1.20 to 1.43`; open ends as infinity."""
    low, high = table[f"{name}_low"], table[f"{name}_high"]
    return [
        "" if np.isnan(a) else f"{a:.2f} to {'∞' if np.isinf(b) else format(b, '.2f')}"
        for a, b in zip(low, high, strict=True)
    ]


def _faster(f: Findings) -> str:
    """P(row is faster than column) at the largest race the joint model covers."""
    if f.joint is None or len(f.joint.columns) < 2:
        return ""
    race = f.speedups[f.speedups["joint"].notna()].iloc[-1]
    at = race["non_embedding_params"], race["chinchilla_ratio"]
    there = f.speedups[(f.speedups[CELL[1:]] == race[CELL[1:]]).all(axis=1)]
    names = style.ordered(there["optimizer"])
    rows = [
        {
            "than": style.label(a),
            **{b: f.joint.faster(a, b, *at) if a != b else None for b in names},
        }
        for a in names
    ]
    columns = {"than": "faster than →"} | {name: style.label(name) for name in names}
    heading = f"Who is faster at {race['model_size']}, {race['chinchilla_ratio']:g}×"
    formats = dict.fromkeys(names, page.digits(2))
    return (
        f"<h3>{page.text(heading)}</h3>"
        + page.paragraph(
            "Probability that the row is faster than the column (joint model).", "note"
        )
        + page.table(pd.DataFrame(rows), columns, formats=formats)
    )


def _cards(f: Findings) -> str:
    """How the headline of each size moves with the choices behind it."""
    parts = []
    columns = {"procedure": "what is varied", "quantity": "choice", "value": "speed-up"}
    columns |= {"low": "low", "high": "high", "note": "note"}
    formats = dict.fromkeys(["value", "low", "high"], page.digits(2))
    cards = f.numbers[(f.numbers["table"] == "card") & (f.numbers["procedure"] != "summary")]
    for race in largest_races(f.speedups):
        first = race[race["optimizer"] != BASELINE].head(1)[CELL].squeeze()
        card = cards[(cards[CELL] == first).all(axis=1)] if len(first) else cards.iloc[:0]
        if card.empty:
            continue
        cell = f"{style.label(first['optimizer'])}, {first['model_size']}"
        heading = f"Sensitivity card: {cell}, {first['chinchilla_ratio']:g}×"
        spread = card["value"].max() - card["value"].min()
        parts.append(
            f"<h3>{page.text(heading)}</h3>"
            + page.paragraph(f"The choices below span {spread:.2f} in speed-up.", "note")
            + page.table(card, columns, formats=formats, group="procedure")
        )
    return "".join(parts)


def editions(f: Findings, show) -> str:
    """The three published editions of the speed-ups beside the robust procedures."""
    table = f.speedups[f.speedups["optimizer"] != BASELINE].copy()
    for name in EDITIONS:
        values = edition(name)[[*CELL, "speedup"]].rename(columns={"speedup": name})
        table = table.merge(values, on=CELL, how="left")
    table["spread"] = table[list(EDITIONS)].max(axis=1) - table[list(EDITIONS)].min(axis=1)
    table["joint_interval"] = _ends(table, "joint")
    widest = table.loc[table["spread"].idxmax()]
    columns = {"model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer"}
    columns |= {"published_may_4pt": "May, 1–8×", "published_may_16x": "May, 1–16×"}
    columns |= {"published_final": "final, 1–16×", "spread": "spread", "joint": "joint model"}
    columns |= {"joint_interval": "95 %"}
    formats = dict.fromkeys([*EDITIONS, "spread", "joint"], page.digits(3))
    cell = f"{widest['model_size']}, {widest['chinchilla_ratio']:g}×"
    return page.paragraph(
        "The study's figures exist in three editions: losses of May 2025 with AdamW's law"
        " fitted on budgets 1–8×, the same losses with 16× added where it was run, and the"
        " final losses with 16×. Same formula, same optimizers; what differs is one more"
        " AdamW point in the fit and a few better runs. The largest spread is"
        f" {widest['spread']:.2f}, for {style.label(widest['optimizer'])} at {cell}."
    ) + page.table(
        table.assign(optimizer=table["optimizer"].map(style.label)),
        columns,
        formats=formats,
        group="chinchilla_ratio",
    )


def comparison(f: Findings, recorded_study: Findings, show) -> str:
    """The study's speed-ups beside those of the recorded one, optimizer by optimizer and budget."""
    mine, theirs = f.speedups, recorded_study.speedups
    spread = pd.concat([edition(name) for name in EDITIONS])
    spread = spread.groupby(CELL)["speedup"].agg(["min", "max"])
    shared = [
        n for n in style.ordered(mine["optimizer"]) if n in set(theirs["optimizer"]) - {BASELINE}
    ]
    rows = []
    for ratio in sorted(mine["chinchilla_ratio"].unique()):
        for optimizer in shared:
            row = {"ratio": ratio, "optimizer": style.label(optimizer)}
            at = mine[(mine["optimizer"] == optimizer) & (mine["chinchilla_ratio"] == ratio)]
            for cell in at.itertuples():
                ends = f" ({cell.low:.2f}–{cell.high:.2f})" if np.isfinite(cell.low) else ""
                known = np.isfinite(cell.speedup)
                row[f"yours {cell.model_size}"] = f"{cell.speedup:.2f}{ends}" if known else ""
            for size in style.size_order(theirs):
                if (optimizer, size, ratio) in spread.index:
                    low, high = spread.loc[(optimizer, size, ratio)]
                    row[f"published {size}"] = f"{low:.2f}–{high:.2f}"
            rows.append(row)
    table = pd.DataFrame(rows).fillna("")
    strangers = sorted(set(mine["optimizer"]) - set(theirs["optimizer"]))
    return (
        page.paragraph(
            "The recorded study (arXiv 2509.02046) raced at 130M to 1.2B parameters on web text."
            " Its columns give the range over its published editions; yours are the joint"
            " model's with 95 % intervals. Sizes, data and grids differ, so agreement is a check"
            " and not a proof."
        )
        + show(
            "against_published",
            "Speed-up over AdamW against model size: this study (left of each panel) and the"
            " recorded one (right), joint models with 95 % bands.",
            lambda: figures.speedup_across_studies(mine, theirs),
        )
        + (page.table(table, {name: name for name in table}, group="ratio") if rows else "")
        + (
            page.paragraph(f"Not in the recorded study: {', '.join(strangers)}.")
            if strangers
            else ""
        )
    )
