"""The sections of a report that compare speed-ups: by procedure, by edition, with another study.

`show(name, caption, draw)` draws a figure and returns its HTML (see `report.Gallery`).
"""

import numpy as np
import pandas as pd

from analysis.estimates.comparisons import headline_races
from analysis.estimates.editions import EDITIONS
from analysis.pages import figures, page
from analysis.pages.view import View
from analysis.runs.names import CELL, label, ordered, size_order

CELL_HEADS = {"model_size": "size", "chinchilla_ratio": "ratio", "optimizer": "optimizer"}


def speed(f: View, show) -> str:
    """The baseline's data law and the speed-ups by three procedures."""
    laws = {"model_size": "size", "ratios": "points", "alpha": "α", "exponent": "B", "floor": "β"}
    laws |= {"freedom": "degrees of freedom", "rms": "rms residual", "note": "note"}
    columns = CELL_HEADS | {"fair_loss": "fair loss", "gap": f"below {f.base_label} (nats)"}
    columns |= {"gap_interval": "95 %", "verdict": "verdict", "published": "published formula"}
    columns |= {"robust": "own curve", "robust_interval": "95 %", "joint": "joint model"}
    columns |= {"joint_interval": "95 %", "joint_flops": "at equal FLOPs"}
    columns |= {"flops_interval": "95 %", "joint_seconds": "at equal seconds"}
    columns |= {"seconds_interval": "95 %", "remark": "remark"}
    table = f.speedups[f.speedups["optimizer"] != f.baseline]
    notes = [table[f"{name}_note"] for name in ("joint", "robust", "published")]
    remark = notes[0].where(notes[0] != "", notes[1].where(notes[1] != "", notes[2]))
    table = table.assign(
        optimizer=table["optimizer"].map(label),
        gap_interval=_ends(table, "gap", ".4f"),
        robust_interval=_ends(table, "robust"),
        joint_interval=_ends(table, "joint"),
        flops_interval=_ends(table, "joint_flops"),
        seconds_interval=_ends(table, "joint_seconds"),
        remark=remark,
    )
    decimals = {"fair_loss": 4, "gap": 4, "published": 2, "robust": 2, "joint": 2}
    decimals |= {"joint_flops": 2, "joint_seconds": 2}
    return (
        page.paragraph(
            f"Speed-up is the data {f.base_label} would need for the same loss, divided by the data"
            f" used. The published formula (arXiv 2509.02046) fits {f.base_label}'s losses at one"
            " size by L(r) = α r^−B + β and solves the law for r at the other optimizer's loss:"
        )
        + page.table(f.law_table, laws)
        + page.paragraph(
            f"Two robust procedures stand beside it. 'Own curve' uses the same {f.base_label} runs"
            " and carries the noise of every run. The 'joint model' lets all optimizers share one"
            " curve per size, with log speed-up linear in log size and log budget. Both give a"
            f" lower bound instead of extrapolating {f.base_label}, and both use fair losses: the"
            " mean of the winner's repeats under fresh seeds, or its best loss with the luck of"
            " being the best taken out. At equal FLOPs and seconds the joint model's speed-up is"
            " divided by what a token costs, and its interval carries how much that varies."
        )
        + show(
            "speedup_against_ratio",
            f"Speed-up over {f.base_label} in tokens against the budget. Lines and bands: joint"
            " model, 95 %. Markers and bars: own curve, 95 %; an arrow is a lower bound. Dashes:"
            " published formula.",
            lambda: figures.speedup_against_ratio(f.speedups, baseline=f.baseline),
        )
        + show(
            "speedup_against_size",
            "The same speed-ups against model size.",
            lambda: figures.speedup_against_size(f.speedups, baseline=f.baseline),
        )
        + page.table(
            table,
            columns,
            formats={name: page.digits(count) for name, count in decimals.items()},
            group="chinchilla_ratio",
        )
        + page.paragraph(
            "Verdicts compare the fair losses of a cell on the seeds they have in common, with the"
            " scatter of cells about smooth curves where enough curves show it. They hold together:"
            " with no difference anywhere, one report in twenty has one (Holm). 'Not resolvable'"
            " says that this study cannot tell the two optimizers apart there.",
            "note",
        )
        + _faster(f)
        + _cards(f)
    )


def _ends(table, name, spec=".2f") -> list[str]:
    """`1.20 to 1.43`; open ends as infinity."""
    low, high = table[f"{name}_low"], table[f"{name}_high"]
    return [
        "" if np.isnan(a) else f"{a:{spec}} to {'∞' if np.isinf(b) else format(b, spec)}"
        for a, b in zip(low, high, strict=True)
    ]


def _faster(f: View) -> str:
    """P(row is faster than column) at the largest size the joint model covers."""
    rows = f.of("order", "robust_joint")
    rows = rows[rows["quantity"].str.startswith("p_faster_than_")]
    if rows["optimizer"].nunique() < 2:
        return ""
    size = size_order(f.best[f.best["model_size"].isin(rows["model_size"])])[-1]
    rows = rows[rows["model_size"] == size]
    table = rows.assign(than=rows["quantity"].str.removeprefix("p_faster_than_"))
    table = table.pivot_table(index="optimizer", columns="than", values="value")
    names = ordered(table.index)
    table = table.loc[names, names].reset_index(names="faster")
    columns = {"faster": "faster than →"} | {name: label(name) for name in names}
    heading = f"Who is faster at {size}, at the middle of the budgets"
    return (
        f"<h3>{page.text(heading)}</h3>"
        + page.paragraph(
            "Probability that the row is faster than the column (joint model), one pair at a time.",
            "note",
        )
        + page.table(
            table.assign(faster=table["faster"].map(label)),
            columns,
            formats=dict.fromkeys(names, page.digits(2)),
        )
    )


def _cards(f: View) -> str:
    """How the headline of each size moves with the choices behind it."""
    parts = []
    columns = {"procedure": "what is varied", "quantity": "choice", "value": "speed-up"}
    columns |= {"low": "low", "high": "high", "note": "note"}
    formats = dict.fromkeys(["value", "low", "high"], page.digits(2))
    cards = f.of("card")
    cards = cards[cards["procedure"] != "summary"]
    for race in headline_races(f.speedups.assign(loss=f.speedups["fair_loss"])):
        first = race[race["optimizer"] != f.baseline].head(1)[CELL].squeeze()
        card = cards[(cards[CELL] == first).all(axis=1)] if len(first) else cards.iloc[:0]
        if card.empty:
            continue
        cell = f"{label(first['optimizer'])}, {first['model_size']}"
        heading = f"Sensitivity card: {cell}, {first['chinchilla_ratio']:g}×"
        low, high = card["value"].min(), card["value"].max()
        parts.append(
            f"<h3>{page.text(heading)}</h3>"
            + page.paragraph(f"The choices below reach from {low:.2f} to {high:.2f}.", "note")
            + page.table(card, columns, formats=formats, group="procedure")
        )
    return "".join(parts)


def editions(f: View, show) -> str:
    """The three published editions of the speed-ups beside the robust procedures."""
    table = f.speedups[f.speedups["optimizer"] != f.baseline].copy()
    for name in EDITIONS:
        values = f.of("speedup", name)[[*CELL, "value"]].rename(columns={"value": name})
        table = table.merge(values, on=CELL, how="left")
    table["spread"] = table[list(EDITIONS)].max(axis=1) - table[list(EDITIONS)].min(axis=1)
    table["joint_interval"] = _ends(table, "joint")
    widest = table.loc[table["spread"].idxmax()]
    columns = CELL_HEADS | {"published_may_4pt": "May, 1–8×", "published_may_16x": "May, 1–16×"}
    columns |= {"published_final": "final, 1–16×", "spread": "spread", "joint": "joint model"}
    columns |= {"joint_interval": "95 %"}
    formats = dict.fromkeys([*EDITIONS, "spread", "joint"], page.digits(3))
    cell = f"{widest['model_size']}, {widest['chinchilla_ratio']:g}×"
    return page.paragraph(
        "The study's figures exist in three editions: losses of May 2025 with AdamW's law"
        " fitted on budgets 1–8×, the same losses with 16× added where it was run, and the"
        " final losses with 16×. Same formula, same optimizers; what differs is one more"
        " AdamW point in the fit and a few better runs. The largest spread is"
        f" {widest['spread']:.2f}, for {label(widest['optimizer'])} at {cell}."
    ) + page.table(
        table.assign(optimizer=table["optimizer"].map(label)),
        columns,
        formats=formats,
        group="chinchilla_ratio",
    )


def comparison(f: View, recorded_study: View, show) -> str:
    """The study's speed-ups beside those of the recorded one, optimizer by optimizer and budget."""
    mine, theirs = f.speedups, recorded_study.speedups
    spread = pd.concat([recorded_study.of("speedup", name) for name in EDITIONS])
    spread = spread.groupby(CELL)["value"].agg(["min", "max"])
    rivals = set(theirs["optimizer"]) - {f.baseline}
    shared = [name for name in ordered(mine["optimizer"]) if name in rivals]
    rows = []
    for ratio in sorted(mine["chinchilla_ratio"].unique()):
        for optimizer in shared:
            row = {"ratio": ratio, "optimizer": label(optimizer)}
            at = mine[(mine["optimizer"] == optimizer) & (mine["chinchilla_ratio"] == ratio)]
            for cell in at.itertuples():
                ends = f" ({cell.low:.2f}–{cell.high:.2f})" if np.isfinite(cell.low) else ""
                known = np.isfinite(cell.speedup)
                row[f"yours {cell.model_size}"] = f"{cell.speedup:.2f}{ends}" if known else ""
            for size in size_order(theirs):
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
            f"Speed-up over {f.base_label} against model size: this study (left of each panel) and"
            " the recorded one (right), joint models with 95 % bands.",
            lambda: figures.speedup_across_studies(mine, theirs, baseline=f.baseline),
        )
        + (page.table(table, {name: name for name in table}, group="ratio") if rows else "")
        + (
            page.paragraph(f"Not in the recorded study: {', '.join(strangers)}.")
            if strangers
            else ""
        )
    )
